"""The pool of warm jails: bounded, replaced when it is worn, and mended when something of it dies."""

import asyncio
import os
import signal
import socket
import subprocess
from typing import Any

import pytest

from services.sandbox.adapters.ns import engine as engines
from services.sandbox.adapters.ns import pool as pools
from services.sandbox.adapters.ns.engine import NsJails
from services.sandbox.adapters.ns.pool import Pool
from services.sandbox.adapters.ns.slots import COUNT
from services.sandbox.core.lifecycle import Outcome, Verdict
from services.sandbox.core.limits import Limits
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.ports import Program
from tests.service.sandbox_app import TIMEOUT_S, descendants, owner
from tests.service.sandbox_engine import USUAL, engine, run

OK = Verdict(Outcome.OK)


def pool_of(jails: NsJails) -> Pool:
    assert jails._pool is not None
    return jails._pool


async def test_a_worn_zygote_is_replaced_and_jails_under_way_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "WORN_AFTER_COUNT", 10)
    async with engine(warm_count=2) as jails:
        old = pool_of(jails)
        under_way = await jails.take(USUAL)
        async with asyncio.timeout(TIMEOUT_S):
            while pool_of(jails) is old:  # Nobody notices.
                assert await run(jails, "print(1)") == (OK, "1\n")
        output = bytearray()
        under_way.begin(Program(b"print('still here')", b""), lambda _stream, data: output.extend(data))
        await under_way.ended()
        assert output == b"still here\n"
        async with asyncio.timeout(TIMEOUT_S):
            await old.zygote.gone
        assert await run(jails, "print(2)") == (OK, "2\n")


async def test_zygotes_that_only_sessions_keep_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "WORN_AFTER_COUNT", 8)
    monkeypatch.setattr(engines, "RETIRING_MAX", 1)
    async with engine() as jails:
        first = pool_of(jails)
        kept = await jails.take(USUAL)
        async with asyncio.timeout(TIMEOUT_S):
            while (second := pool_of(jails)) is first:
                await run(jails, "print(1)")
            while not second.worn.done():
                await run(jails, "print(2)")
        for _ in range(4):
            assert await run(jails, "print(3)") == (OK, "3\n")
        assert pool_of(jails) is second
        kept.kill()
        async with asyncio.timeout(TIMEOUT_S):
            while pool_of(jails) is second:
                await run(jails, "print(4)")


async def test_a_worn_zygote_without_a_successor_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "WORN_AFTER_COUNT", 8)
    async with engine() as jails:
        old = pool_of(jails)
        monkeypatch.setattr("services.sandbox.adapters.ns.zygote.outer.start", refuse)
        async with asyncio.timeout(TIMEOUT_S):
            while not old.worn.done():
                assert await run(jails, "print(1)") == (OK, "1\n")
        for _ in range(4):
            assert await run(jails, "print(2)") == (OK, "2\n")
        assert pool_of(jails) is old


def refuse(*_: object) -> None:
    raise OSError("no more processes")


async def test_who_takes_a_jail_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "TAKE_TIMEOUT_S", 0.2)
    async with engine() as jails:
        async with asyncio.timeout(TIMEOUT_S):
            await pool_of(jails).filled()
        (zygote,) = descendants_of(jails)
        os.kill(zygote, signal.SIGSTOP)  # It answers nobody any more.
        try:
            (await jails.take(USUAL)).kill()
            with pytest.raises(SandboxUnavailable) as refusal:
                await jails.take(USUAL)
        finally:
            os.kill(zygote, signal.SIGCONT)
        assert refusal.value.facts["problem"] == "no jail was ready in time"


def descendants_of(jails: NsJails) -> list[int]:
    """The zygote, below its bubblewrap."""
    return descendants(pool_of(jails).zygote._process.pid)[:1]


async def test_a_shortage_of_processes_costs_only_the_jails_that_cannot_be_made() -> None:
    """Any program may cause one that has its share of what a container, or a user, may have in all."""
    async with engine() as jails:
        output = bytearray()
        async with asyncio.timeout(TIMEOUT_S):
            await pool_of(jails).filled()
        old = pool_of(jails)
        under_way = await jails.take(USUAL)
        allow_no_processes(descendants_of(jails)[0])
        under_way.begin(
            Program(b"print(input())", b"", stdin_open=True), lambda _stream, data: output.extend(data)
        )
        with pytest.raises(SandboxUnavailable):
            await jails.take(Limits(process_count=4))
        async with asyncio.timeout(TIMEOUT_S):
            await old.worn  # Its warm jail cannot be replaced, either.
            await under_way.feed(b"still here\n", end=True)
            assert (await under_way.ended()).status == 0
        assert output == b"still here\n"
        async with asyncio.timeout(TIMEOUT_S):
            await old.zygote.gone
        assert await run(jails, "print(1)") == (OK, "1\n")


async def test_a_jail_for_which_no_descriptor_is_left_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine() as jails:
        pool = pool_of(jails)
        async with asyncio.timeout(TIMEOUT_S):
            await pool.filled()
        real = socket.recv_fds

        def short(*arguments: Any) -> Any:
            packet, descriptors, *rest = real(*arguments)
            for descriptor in descriptors:
                os.close(descriptor)
            return packet, [], *rest

        monkeypatch.setattr(socket, "recv_fds", short)
        async with asyncio.timeout(pools.BUILD_TIMEOUT_S / 2):
            with pytest.raises(SandboxUnavailable):
                await jails.take(Limits(process_count=4))
            while len(pool._living) > 1:  # The warm one.
                await asyncio.sleep(0.01)


def allow_no_processes(pid: int) -> None:
    """Of one user, only that user may say so."""
    user = owner(pid)
    command = ["prlimit", "--nproc=0:0", "--pid", str(pid)]
    if user == os.geteuid():
        subprocess.run(command, check=True)
    else:
        subprocess.run(command, check=True, user=user, group=user, extra_groups=[])


async def test_jails_that_cannot_live_are_not_made_at_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine(warm_count=2) as jails:
        pool = pool_of(jails)
        pauses_s: list[float] = []
        real_sleep = asyncio.sleep

        async def noted(delay_s: float) -> None:
            pauses_s.append(delay_s)
            await real_sleep(delay_s)

        monkeypatch.setattr(asyncio, "sleep", noted)
        for _ in range(3):
            async with asyncio.timeout(TIMEOUT_S):
                await pool.filled()
            pauses_s.clear()
            for jail in list(pool._warm):
                jail.kill()
            async with asyncio.timeout(TIMEOUT_S):
                while pool._warm:
                    await real_sleep(0.005)
                await pool.filled()
            assert any(pause_s > pools.REFILL_AFTER_S for pause_s in pauses_s)
        assert await run(jails, "print(1)") == (OK, "1\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="not root")
async def test_uids_come_back_however_jails_end() -> None:
    async with engine(warm_count=2) as jails:
        pool = pool_of(jails)
        slots = pool._means.slots
        assert slots is not None
        for code in ("print(1)", "1/0", "import os; os.kill(os.getpid(), 9)", "import os; os.fork()"):
            await run(jails, code)
        for jail in [await jails.take(USUAL), await jails.take(Limits(process_count=4))]:
            jail.kill()
        async with asyncio.timeout(TIMEOUT_S):
            while len(slots._free) != COUNT - 2:  # Those of the warm ones.
                await asyncio.sleep(0.01)


async def test_what_dies_in_a_jail_that_runs_is_told_and_disturbs_nobody() -> None:
    async with engine(warm_count=2) as jails:
        other_output, output = bytearray(), bytearray()
        other = await jails.take(USUAL)
        other.begin(
            Program(b"input(); print('fine')", b"\n"), lambda _stream, data: other_output.extend(data)
        )
        jail = await jails.take(USUAL)
        jail.begin(Program(b"import time; time.sleep(60)", b""), lambda _stream, data: output.extend(data))
        assert jail._pidfd is not None
        signal.pidfd_send_signal(jail._pidfd, signal.SIGKILL)  # Its init.
        async with asyncio.timeout(TIMEOUT_S):
            assert (await jail.ended()).status is None
            assert (await other.ended()).status == 0
        assert other_output == b"fine\n"
