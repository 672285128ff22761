"""The engine `gvisor` in a service of its own: it proves itself, heals, and leaves nothing behind."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc.aio
import pytest

from services.sandbox.adapters.gvisor.place import PREFIX
from tests.service.sandbox_app import (
    Sandbox,
    Service,
    built_root,
    descendants,
    reason,
    serving,
)
from tests.service.sandbox_gvisor import TIMEOUT_S, needs_runsc, runsc
from tests.service.sandbox_users import AS_ROOT, AS_USER

pytestmark = needs_runsc

as_either = pytest.mark.parametrize("uid", [AS_ROOT, AS_USER])
SLEEP = "import os, time\nos.fork()\nprint('up', flush=True)\ntime.sleep(3600)"


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder for the services of one test, of whichever user: others use the usual one."""
    with tempfile.TemporaryDirectory(prefix="sandbox-gvisor-") as made:
        Path(made).chmod(0o1777)
        monkeypatch.setenv("TMPDIR", made)
        yield Path(made)


@asynccontextmanager
async def ready(uid: int | None = None, **settings: str) -> AsyncIterator[tuple[Service, Sandbox]]:
    ours = {
        "OLLAMESH_SANDBOX_ENGINES": "gvisor",
        "OLLAMESH_SANDBOX_RUNSC": str(runsc()),
        "OLLAMESH_SANDBOX_GVISOR_WARM_COUNT": "1",
    }
    with serving(built_root(), uid=uid, settings=ours | settings) as service:
        async with service.ready() as client:
            yield service, client


async def begin(client: Sandbox) -> None:
    """Return when a program has printed something."""
    async for response in client.call(SLEEP):
        if response.event.HasField("stdout"):
            return
    pytest.fail("the program printed nothing")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not holds():
            await asyncio.sleep(0.02)


def is_kernel(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"runsc-sandbox")
    except (FileNotFoundError, ProcessLookupError):
        return False


def dead(pids: list[int]) -> bool:
    return not any(Path("/proc", str(pid)).exists() for pid in pids)


def places(temporary: Path) -> set[Path]:
    return set(temporary.glob(f"{PREFIX}*"))


def cgroups(service: Service) -> set[Path]:
    return set(Path("/sys/fs/cgroup").rglob(f"ollamesh-sandbox-{service.process.pid}-*"))


@as_either
async def test_it_runs_programs_and_says_what_it_is(uid: int | None) -> None:
    async with ready(uid) as (_, client):
        ran = await client.run("print('hello')")
        assert (ran.stdout, ran.outcome) == ("hello\n", "OK")
        (offered,) = (await client.capabilities()).engines
        assert offered.name == "gvisor"
        has_cgroup = uid is None
        assert ("memory_bytes" in offered.enforced_limits) == has_cgroup
        assert any("no control group" in weakness for weakness in offered.weaknesses) != has_cgroup


@as_either
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
async def test_nothing_survives_the_service(uid: int | None, number: signal.Signals, temporary: Path) -> None:
    async with ready(uid) as (service, client):
        await begin(client)
        below = descendants(service.process.pid)
        assert len(below) > 6
        service.process.send_signal(number)
        await asyncio.to_thread(service.process.wait, TIMEOUT_S)
        await until(lambda: dead(below))
        if number is signal.SIGTERM:
            assert not places(temporary)
            assert not cgroups(service)


@as_either
async def test_what_a_killed_service_left_is_swept_by_the_next(uid: int | None, temporary: Path) -> None:
    async with ready(uid) as (service, _):
        service.process.kill()
        await asyncio.to_thread(service.process.wait, TIMEOUT_S)
    left = places(temporary)
    assert left
    async with ready(uid):
        assert not left & places(temporary)
        assert not cgroups(service)


@as_either
async def test_jails_killed_while_they_wait_are_replaced(uid: int | None) -> None:
    async with ready(uid) as (service, client):
        await until(lambda: len(descendants(service.process.pid)) > 4)
        waiting = descendants(service.process.pid)
        os.kill(waiting[0], signal.SIGKILL)
        await until(lambda: dead(waiting))
        assert (await client.run("print(1)")).stdout == "1\n"


async def test_a_program_whose_kernel_is_killed_is_lost_and_said_to_be() -> None:
    async with ready() as (service, client):
        call = client.call(SLEEP)
        async for response in call:
            if response.event.HasField("stdout"):
                break
        for pid in filter(is_kernel, descendants(service.process.pid)):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(grpc.aio.AioRpcError) as lost:
            async for _ in call:
                pass
        assert reason(lost.value).reason == "SANDBOX_UNAVAILABLE"
        assert (await client.run("print(1)")).stdout == "1\n"


async def test_without_runsc_the_engine_is_not_offered_and_says_so(tmp_path: Path) -> None:
    settings = {"OLLAMESH_SANDBOX_ENGINES": "gvisor", "OLLAMESH_SANDBOX_RUNSC": str(tmp_path / "missing")}
    with serving(built_root(), settings=settings) as service:
        async with service.connected() as client:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                async with asyncio.timeout(TIMEOUT_S):
                    await client.run("print(1)")
            assert reason(refusal.value).reason == "SANDBOX_UNAVAILABLE"
            assert not (await client.capabilities()).engines


async def test_the_next_engine_takes_over_where_it_is_missing(tmp_path: Path) -> None:
    settings = {"OLLAMESH_SANDBOX_ENGINES": "gvisor,ns", "OLLAMESH_SANDBOX_RUNSC": str(tmp_path / "missing")}
    with serving(built_root(), settings=settings) as service:
        async with service.ready() as client:
            ran = await client.run("print(1)")
            assert ran.events[0].started.engine == "ns"


async def test_many_executions_leave_no_trace() -> None:
    async with ready() as (service, client):
        await until(lambda: is_at_rest(service))
        before = len(descriptors(service))
        for code in ["print(1)", "1/0", "import os; os.kill(os.getpid(), 9)", "import os; os.fork()"] * 2:
            await client.run(code)
        await until(lambda: is_at_rest(service))
        assert len(descriptors(service)) == before


def is_at_rest(service: Service) -> bool:
    """Whether one jail waits, all of whose processes are known, and nothing is left of any other."""
    known = [name for name in descriptors(service) if "pidfd" in name]
    kernels = list(filter(is_kernel, descendants(service.process.pid)))
    jails = {path.name for folder in cgroups(service) for path in folder.glob("jail-*")}
    return len(kernels) == 1 and len(known) >= 4 and len(jails) <= 1


def descriptors(service: Service) -> list[str]:
    names = []
    for path in Path(f"/proc/{service.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            names.append(str(path.readlink()))
    return names
