"""Beginnings and ends: nothing survives what ends it, and what can come back does."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from ollamesh.sandbox.v1 import execution_pb2 as pb

from tests.service.sandbox_app import (
    TIMEOUT_S,
    Call,
    Sandbox,
    Service,
    built_root,
    descendants,
    forked,
    inner_pid,
    reason,
    serving,
)
from tests.service.sandbox_users import AS_ROOT, AS_USER

as_either = pytest.mark.parametrize("uid", [AS_ROOT, AS_USER])

FULL_COUNT = 2 + 2 * 2  # Processes with two warm jails: bubblewrap, the zygote, and two in each jail.
SLEEP = "import os, time\nfor _ in range(3): os.fork()\nprint('up', flush=True)\ntime.sleep(3600)"


@pytest.fixture(scope="module")
def root() -> Path:
    return built_root()


@asynccontextmanager
async def ready(
    root: Path, uid: int | None = None, **settings: str
) -> AsyncIterator[tuple[Service, Sandbox]]:
    with serving(root, uid=uid, settings=settings) as service:
        async with service.ready() as client:
            yield service, client


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not holds():
            await asyncio.sleep(0.01)


async def begun(client: Sandbox) -> Call:
    """A call whose program has printed something."""
    call = client.call(SLEEP)
    async for response in call:
        if response.event.HasField("stdout"):
            return call
    pytest.fail("the program printed nothing")


def cgroups() -> set[Path]:
    return set(Path("/sys/fs/cgroup").rglob("ollamesh-sandbox-*"))


def dead(pids: list[int]) -> bool:
    return not any(Path("/proc", str(pid)).exists() for pid in pids)


@pytest.mark.skipif(os.geteuid() != 0, reason="not root")
async def test_root_may_keep_it_where_the_jail_s_user_cannot_walk(root: Path) -> None:
    """As below a home folder."""
    root.parent.chmod(0o700)
    try:
        async with ready(root) as (_, client):
            assert (await client.run("print(1)")).stdout == "1\n"
    finally:
        root.parent.chmod(0o755)


@as_either
@pytest.mark.timed
async def test_who_hangs_up_kills_the_program_at_once(root: Path, uid: int | None) -> None:
    async with ready(root, uid) as (service, client):
        call = await begun(client)
        await until(lambda: len(forked(service)) == 7)
        programs = forked(service)
        call.cancel()
        async with asyncio.timeout(2):
            await until(lambda: dead(programs))
        assert (await client.run("print(1)")).stdout == "1\n"


@as_either
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT], ids=lambda n: n.name)
async def test_nothing_survives_the_service(root: Path, uid: int | None, number: signal.Signals) -> None:
    async with ready(root, uid) as (service, client):
        await begun(client)
        below = descendants(service.process.pid)
        assert len(below) > 8
        service.process.send_signal(number)
        await asyncio.to_thread(service.process.wait, TIMEOUT_S)
        await until(lambda: dead(below))


async def test_an_end_in_peace_leaves_no_cgroup(root: Path) -> None:
    before = cgroups()
    async with ready(root) as (service, client):
        await client.run("print(1)")
        service.process.terminate()
        await asyncio.to_thread(service.process.wait, TIMEOUT_S)
        mine = {path for path in cgroups() - before if f"-{service.process.pid}-" in path.name}
    assert not mine


@pytest.mark.skipif(os.geteuid() != 0, reason="not root")
async def test_what_a_killed_service_left_is_swept_by_the_next(root: Path) -> None:
    async with ready(root) as (service, _):
        name = f"ollamesh-sandbox-{service.process.pid}-"
        service.process.kill()
        await asyncio.to_thread(service.process.wait, TIMEOUT_S)
        async with ready(root):
            assert not {path for path in cgroups() if path.name.startswith(name)}


@as_either
async def test_the_engine_comes_back_when_its_zygote_is_killed(root: Path, uid: int | None) -> None:
    async with ready(root, uid) as (service, client):
        call = await begun(client)
        bubblewrap = descendants(service.process.pid)[0]
        os.kill(bubblewrap, signal.SIGKILL)
        with pytest.raises(grpc.aio.AioRpcError) as lost:
            async for _ in call:
                pass
        assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(lost.value).reason == "SANDBOX_UNAVAILABLE"
        await client.until_ready()
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                try:
                    assert (await client.run("print(1)")).stdout == "1\n"
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.1)
                else:
                    break


@pytest.mark.parametrize("inner", [1, 2], ids=["init", "program"])
async def test_jails_killed_while_they_wait_are_replaced(root: Path, inner: int) -> None:
    async with ready(root, OLLAMESH_SANDBOX_WARM_COUNT="2") as (service, client):
        await until(lambda: len(descendants(service.process.pid)) == FULL_COUNT)
        _, zygote, *waiting = descendants(service.process.pid)
        killed = [pid for pid in waiting if inner_pid(pid) == inner]
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: dead([pid for pid in waiting if pid not in killed]))
        for _ in range(4):
            assert (await client.run("print(1)")).stdout == "1\n"
        assert not dead([zygote])


async def test_readiness_follows_the_engine(root: Path) -> None:
    async with ready(root) as (_, client):
        async with asyncio.timeout(TIMEOUT_S):
            while await client.health() != health_pb2.HealthCheckResponse.SERVING:
                await asyncio.sleep(0.02)


async def test_a_service_without_a_root_stays_up_and_says_so(tmp_path: Path) -> None:
    with serving(tmp_path / "missing") as service:
        async with service.connected() as client:
            assert await client.health() == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await client.run("print(1)")
            assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
            told = reason(refusal.value)
            assert (told.reason, told.domain) == ("SANDBOX_UNAVAILABLE", "sandbox.ollamesh")
            assert not (await client.capabilities()).engines
            assert service.process.poll() is None


async def test_a_root_that_runs_nothing_is_no_engine(root: Path, tmp_path: Path) -> None:
    """Whatever keeps the jail from being built, code is refused, and never run without one."""
    broken = tmp_path / "root"
    (broken / "root").mkdir(parents=True)
    (broken / "stamp").write_text("")
    (broken / "kit").symlink_to(root / "kit")
    with serving(broken) as service:
        async with service.connected() as client:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await client.run("print(1)")
            assert reason(refusal.value).reason == "SANDBOX_UNAVAILABLE"
            assert await client.health() == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_the_queue_is_bounded(root: Path) -> None:
    async with ready(root, OLLAMESH_SANDBOX_RUNNING_MAX="1", OLLAMESH_SANDBOX_WAITING_MAX="1") as (_, client):
        running = await begun(client)
        waiting = client.call("print(1)")
        first = (await anext(aiter(waiting))).event
        assert (first.WhichOneof("event"), first.queued.ahead_count) == ("queued", 0)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await client.run("print(2)")
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (reason(refusal.value).reason, dict(reason(refusal.value).metadata)) == (
            "QUEUE_FULL",
            {"waiting_max": "1"},
        )
        running.cancel()
        events = [response.event async for response in waiting]
        assert events[-1].exited.outcome == pb.OUTCOME_OK
        assert events[-1].exited.usage.queue.ToTimedelta().total_seconds() > 0


async def test_many_executions_leave_no_trace(root: Path) -> None:
    async with ready(root, OLLAMESH_SANDBOX_WARM_COUNT="2") as (service, client):
        codes = ["print(1)", "1/0", "import os; os.kill(os.getpid(), 9)", "import os; os.fork()"]

        def left() -> tuple[int, int]:
            return open_count(service), len(descendants(service.process.pid))

        await asyncio.gather(*(client.run(code) for code in codes * 4))
        await until(lambda: left()[1] == FULL_COUNT)
        await asyncio.sleep(0.2)
        before = left()
        for _ in range(8):
            await asyncio.gather(*(client.run(code) for code in codes * 4))
        await until(lambda: left() <= before and left()[1] == FULL_COUNT)


def open_count(service: Service) -> int:
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))
