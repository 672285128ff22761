"""Each jail has a uid of the host to itself where that may be arranged, so that nothing counted by user is shared."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.service.sandbox_app import (
    ORDINARY_UID,
    TIMEOUT_S,
    Call,
    Sandbox,
    Service,
    built_root,
    descendants,
    owner,
    serving,
)

AS_USER = ORDINARY_UID if os.geteuid() == 0 else None
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root")
SHARED = "one uid of the host"

HOLD = "print('up', flush=True)\nimport time\ntime.sleep(3600)"
# Takes as much memory for pipes as its user may have: beyond that, new pipes are small.
HOARD = """
import fcntl, os
pipes = []
try:
    while True:
        pipes.append(os.pipe())
        fcntl.fcntl(pipes[-1][0], 1031, 1 << 20)  # F_SETPIPE_SZ
except OSError:
    pass
while fcntl.fcntl(pipes[-1][0], 1032) == 65536:  # F_GETPIPE_SZ
    pipes.append(os.pipe())
"""
PIPE_BYTES = "import fcntl, os; print(fcntl.fcntl(os.pipe()[0], 1032))"  # F_GETPIPE_SZ


@asynccontextmanager
async def ready(uid: int | None = None) -> AsyncIterator[tuple[Service, Sandbox]]:
    with serving(built_root(), uid=uid) as service:
        async with service.ready() as client:
            yield service, client


async def begun(client: Sandbox, code: str) -> Call:
    """A call whose program has printed something."""
    call = client.call(code)
    async for response in call:
        if response.event.HasField("stdout"):
            return call
    pytest.fail("the program printed nothing")


@as_root
async def test_two_jails_have_two_uids_of_the_host() -> None:
    async with ready() as (service, client):
        calls = [await begun(client, HOLD) for _ in range(2)]
        async with asyncio.timeout(TIMEOUT_S):
            while not apart(service):  # Jails that are being built have no program yet, or no uid.
                await asyncio.sleep(0.01)
        assert not any(SHARED in weakness for weakness in await weaknesses(client))
        for call in calls:
            call.cancel()


def apart(service: Service) -> bool:
    """Whether each jail, an init and a program, has a uid that nothing else below the service has."""
    bubblewrap, zygote, *jails = [owner(pid) for pid in descendants(service.process.pid)]
    counts = Counter(jails)
    return (
        bubblewrap == zygote
        and zygote not in counts
        and len(counts) > 2
        and set(counts.values()) == {2}
        and min(counts) >= 0x7000_0000
    )


@as_root
async def test_no_jail_can_use_up_the_pipes_of_another() -> None:
    async with ready() as (_, client):
        hoard = await begun(client, f"{HOARD}\n{HOLD}")
        assert (await client.run(PIPE_BYTES)).stdout == "65536\n"
        hoard.cancel()


async def test_an_ordinary_user_s_jails_share_one_and_it_is_said() -> None:
    async with ready(AS_USER) as (_, client):
        assert any(SHARED in weakness for weakness in await weaknesses(client))


async def weaknesses(client: Sandbox) -> list[str]:
    return list((await client.capabilities()).engines[0].weaknesses)
