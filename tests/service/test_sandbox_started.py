"""Executions that outlive their call, with real programs in real jails, up to the end of the service."""

import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from ollamesh.sandbox.v1 import execution_pb2 as pb
from ollamesh.sandbox.v1 import sandbox_service_pb2 as service

from tests.service.sandbox_app import TIMEOUT_S, Sandbox, Service, built_root, serving

ECHO = "import sys\nfor line in sys.stdin: print('got', line.strip(), flush=True)\nprint('end')"
SLEEPS = "import time\nprint('begun', flush=True)\ntime.sleep(60)"
LONG = pb.Limits(wall=Duration(seconds=60))


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with serving(built_root()) as started:
        yield started


@pytest.fixture
async def sandbox(running: Service) -> AsyncIterator[Sandbox]:
    async with running.ready() as client:
        yield client


def call(sandbox: Sandbox, method: str, request: Any) -> Any:
    return getattr(sandbox.stub, method)(request, timeout=TIMEOUT_S, metadata=sandbox.metadata)


async def start(sandbox: Sandbox, execution_id: str, code: str, **spec: Any) -> None:
    asked = pb.ExecutionSpec(code=code, **spec)
    request = service.StartExecutionRequest(execution_id=execution_id, spec=asked)
    await call(sandbox, "StartExecution", request)


def watch(sandbox: Sandbox, execution_id: str, **seen: int) -> Any:
    return call(sandbox, "WatchExecution", service.WatchExecutionRequest(execution_id=execution_id, **seen))


async def watched(sandbox: Sandbox, execution_id: str, **seen: int) -> list[pb.ExecutionEvent]:
    return [response.event async for response in watch(sandbox, execution_id, **seen)]


async def until(watching: Any, text: bytes) -> None:
    """Read up to `text` in the standard output."""
    told = b""
    async for response in watching:
        told += response.event.stdout.data
        if text in told:
            return
    raise AssertionError(told)


def stdout(events: list[pb.ExecutionEvent]) -> bytes:
    return b"".join(event.stdout.data for event in events)


async def test_its_output_is_read_by_whoever_comes_from_wherever_they_are(sandbox: Sandbox) -> None:
    await start(sandbox, "reads", "print('abc')\n{'a': 1}")
    whole = await watched(sandbox, "reads")
    assert stdout(whole) == b"abc\n"
    assert [event.result.data["text/plain"] for event in whole if event.HasField("result")] == [b"{'a': 1}"]
    rest = await watched(sandbox, "reads", stdout_offset=2, result_count=1)
    assert (stdout(rest), len(rest)) == (b"c\n", 3)
    assert rest[-1].exited == whole[-1].exited


async def test_it_is_spoken_with(sandbox: Sandbox) -> None:
    await start(sandbox, "echoes", ECHO, stdin_open=True)
    watching = aiter(watch(sandbox, "echoes"))

    async def send(offset: int, data: bytes, *, end: bool = False) -> None:
        request = service.SendInputRequest(execution_id="echoes", offset=offset, data=data, end=end)
        await call(sandbox, "SendInput", request)

    await send(0, b"one\n")
    await until(watching, b"got one\n")
    await send(0, b"one\ntwo\n")
    await until(watching, b"got two\n")
    await send(8, b"", end=True)
    events = await watched(sandbox, "echoes")
    assert stdout(events) == b"got one\ngot two\nend\n"
    assert events[-1].exited.outcome == pb.OUTCOME_OK


async def test_it_may_heed_an_interrupt(sandbox: Sandbox) -> None:
    await start(
        sandbox,
        "heeds",
        f"try:\n    {SLEEPS.replace(chr(10), chr(10) + '    ')}\nexcept KeyboardInterrupt:\n    print('heeded')",
        limits=LONG,
    )
    await until(watch(sandbox, "heeds"), b"begun\n")
    await call(sandbox, "InterruptExecution", service.InterruptExecutionRequest(execution_id="heeds"))
    events = await watched(sandbox, "heeds")
    assert stdout(events) == b"begun\nheeded\n"
    assert events[-1].exited.outcome == pb.OUTCOME_OK


async def test_a_kill_comes_back_with_what_it_used(sandbox: Sandbox) -> None:
    await start(sandbox, "killed", SLEEPS, limits=LONG)
    await until(watch(sandbox, "killed"), b"begun\n")
    answer = await call(sandbox, "KillExecution", service.KillExecutionRequest(execution_id="killed"))
    assert answer.execution.exited.outcome == pb.OUTCOME_CANCELLED
    assert answer.execution.exited.usage.wall.ToTimedelta().total_seconds() > 0


async def test_at_its_end_the_service_lets_run_and_then_ends_and_tells() -> None:
    settings = {"OLLAMESH_GRACE_S": "3"}
    with serving(built_root(), settings=settings) as started:
        async with started.ready() as sandbox:
            await start(
                sandbox, "ends", "import time\nprint('begun', flush=True)\ntime.sleep(1)\nprint('done')"
            )
            await start(sandbox, "stays", SLEEPS, limits=LONG)
            ends, stays = (aiter(watch(sandbox, each)) for each in ("ends", "stays"))
            await until(ends, b"begun\n")
            await until(stays, b"begun\n")
            started.process.send_signal(signal.SIGTERM)
            rest = [[response.event async for response in each] for each in (ends, stays)]
            assert rest[0][-1].exited.outcome == pb.OUTCOME_OK
            assert stdout(rest[0]) == b"done\n"
            assert rest[1][-1].exited.outcome == pb.OUTCOME_CANCELLED
    assert started.process.returncode == 0
