"""What a caller of Execute sees: real programs in real jails, over a real socket."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from ollamesh.sandbox.v1 import execution_pb2 as pb
from ollamesh.sandbox.v1.sandbox_service_pb2 import ExecuteRequest

from tests.service.sandbox_app import (
    TIMEOUT_S,
    Sandbox,
    Service,
    built_root,
    reason,
    serving,
)
from tests.service.sandbox_users import AS_ROOT, AS_USER

MIB = 1 << 20


@pytest.fixture(scope="module", params=[AS_ROOT, AS_USER])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with serving(built_root(), uid=request.param) as running:
        yield running


@pytest.fixture
async def sandbox(service: Service) -> AsyncIterator[Sandbox]:
    async with service.ready() as client:
        yield client


def wall(seconds: float) -> pb.Limits:
    return pb.Limits(wall=Duration(nanos=int(seconds * 1e9)))


async def test_hello(sandbox: Sandbox) -> None:
    ran = await sandbox.run("print('hello')")
    assert (ran.stdout, ran.stderr, ran.outcome, ran.exited.exit_code) == ("hello\n", "", "OK", 0)
    assert ran.kinds == ["started", "stdout", "exited"]
    assert [event.sequence for event in ran.events] == [1, 2, 3]


async def test_started_tells_the_limits_that_hold(sandbox: Sandbox) -> None:
    asked = pb.Limits(memory_bytes=64 * MIB, process_count=10_000)
    started = (await sandbox.run("0", limits=asked)).events[0].started
    assert started.engine == "ns"
    assert started.execution_id
    held = started.limits
    assert (held.memory_bytes, held.process_count, held.output_bytes) == (64 * MIB, 64, MIB)
    assert held.wall == Duration(seconds=10)


async def test_standard_error_is_a_stream_of_its_own(sandbox: Sandbox) -> None:
    ran = await sandbox.run("import sys; print('out'); print('err', file=sys.stderr)")
    assert (ran.stdout, ran.stderr) == ("out\n", "err\n")


async def test_standard_input_is_what_the_caller_gave(sandbox: Sandbox) -> None:
    ran = await sandbox.run("import sys; print(input()); print(sys.stdin.read())", stdin=b"a\nb\xc3\xa9")
    assert ran.stdout == "a\nbé\n"


async def test_an_exception_is_an_outcome_with_its_traceback(sandbox: Sandbox) -> None:
    ran = await sandbox.run("def f():\n    1 / 0\nf()")
    assert (ran.outcome, ran.exited.exit_code) == ("ERROR", 1)
    assert ran.stderr.startswith(
        'Traceback (most recent call last):\n  File "main.py", line 3, in <module>\n'
    )
    assert "    1 / 0\n" in ran.stderr
    assert ran.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(
    ("code", "outcome", "exit_code", "stderr"),
    [
        ("raise SystemExit", "OK", 0, ""),
        ("import sys; sys.exit(3)", "ERROR", 3, ""),
        ("import sys; sys.exit('no')", "ERROR", 1, "no\n"),
        ("import os; os._exit(7)", "ERROR", 7, ""),
    ],
)
async def test_exit_codes(sandbox: Sandbox, code: str, outcome: str, exit_code: int, stderr: str) -> None:
    ran = await sandbox.run(code)
    assert (ran.outcome, ran.exited.exit_code, ran.stderr) == (outcome, exit_code, stderr)


@pytest.mark.parametrize("code", ["def", "\0", "# coding: no-such-codec\n", "x = " + "(" * 300])
async def test_code_that_does_not_compile_is_an_error_of_the_code(sandbox: Sandbox, code: str) -> None:
    ran = await sandbox.run(code)
    assert (ran.outcome, ran.exited.exit_code) == ("ERROR", 1)
    assert "Error" in ran.stderr


async def test_threads_exit_handlers_and_children_are_waited_for_as_ever(sandbox: Sandbox) -> None:
    ran = await sandbox.run(
        "import atexit, subprocess, sys, threading, time\n"
        "atexit.register(print, 'at exit')\n"
        "subprocess.run([sys.executable, '-c', 'print(\"child\")'], check=True)\n"
        "threading.Thread(target=lambda: (time.sleep(0.05), print('thread'))).start()\n"
    )
    assert (ran.stdout, ran.outcome) == ("child\nthread\nat exit\n", "OK"), ran.stderr


async def test_output_streams_while_the_program_runs(sandbox: Sandbox) -> None:
    ran = await sandbox.run("import time\nprint('first')\ntime.sleep(60)", limits=wall(0.5))
    assert ran.kinds == ["started", "stdout", "exited"]  # What was printed before the kill is not lost.


@pytest.mark.timed
async def test_the_wall_clock(sandbox: Sandbox) -> None:
    ran = await sandbox.run("while True: pass", limits=wall(0.3))
    assert ran.outcome == "TIMEOUT"
    assert 0.3 <= ran.exited.usage.wall.ToTimedelta().total_seconds() < 5
    assert ran.exited.usage.cpu.ToTimedelta().total_seconds() > 0


async def test_processor_time_of_all_processes_together(sandbox: Sandbox) -> None:
    limits = pb.Limits(cpu=Duration(nanos=200_000_000))
    ran = await sandbox.run("import os\nos.fork()\nwhile True: pass", limits=limits)
    assert ran.outcome == "TIMEOUT"
    assert (await sandbox.run("import time; time.sleep(0.3)", limits=limits)).outcome == "OK"


async def test_memory(sandbox: Sandbox) -> None:
    ran = await sandbox.run("held = []\nwhile True: held.append(b'x' * (1 << 22))")
    assert ran.outcome == "OOM"
    assert ran.exited.usage.peak_memory_bytes > 256 * MIB


async def test_memory_of_all_processes_together(sandbox: Sandbox) -> None:
    """Six children with 200 MB each: no limit on one process would notice."""
    ran = await sandbox.run(
        "import os, time\n"
        "for _ in range(6):\n"
        "    if os.fork() == 0:\n"
        "        held = b'x' * (200 << 20)\n"
        "        time.sleep(60)\n"
        "time.sleep(60)\n"
    )
    assert ran.outcome == "OOM"


async def test_a_kill_by_itself_is_told_from_ours(sandbox: Sandbox) -> None:
    ran = await sandbox.run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (ran.outcome, ran.exited.signal) == ("SIGNALLED", 11)


async def test_too_much_output_is_cut_and_said_to_be(sandbox: Sandbox) -> None:
    ran = await sandbox.run("print('x' * 3_000_000)")
    assert (ran.outcome, ran.exited.stdout_truncated, ran.exited.stderr_truncated) == ("OK", True, False)
    assert ran.stdout == "x" * MIB


async def test_endless_output_ends_the_program(sandbox: Sandbox) -> None:
    ran = await sandbox.run("import sys\nwhile True: sys.stderr.write('y' * 65536)")
    assert (ran.outcome, ran.exited.stderr_truncated) == ("OUTPUT_LIMIT", True)
    assert ran.stderr == "y" * MIB


async def test_output_may_be_any_bytes_and_is_addressed_by_offset(sandbox: Sandbox) -> None:
    ran = await sandbox.run("import os\nfor _ in range(40): os.write(1, bytes(range(256)) * 64)")
    offset, whole = 0, b""
    for event in ran.events:
        if event.HasField("stdout"):
            assert event.stdout.offset == offset
            offset += len(event.stdout.data)
            whole += event.stdout.data
    assert whole == bytes(range(256)) * 64 * 40


@pytest.mark.timed
async def test_usage_is_plausible(sandbox: Sandbox) -> None:
    usage = (await sandbox.run("sum(range(10**6))")).exited.usage
    assert 0 < usage.cpu.ToTimedelta().total_seconds() < 5
    assert 0 < usage.wall.ToTimedelta().total_seconds() < 10
    assert 0 < usage.peak_memory_bytes < 256 * MIB


async def test_a_burst_is_served_whole(sandbox: Sandbox) -> None:
    runs = await asyncio.gather(*(sandbox.run(f"print({number})") for number in range(32)))
    assert [ran.stdout for ran in runs] == [f"{number}\n" for number in range(32)]


async def refused(sandbox: Sandbox, request: ExecuteRequest) -> tuple[grpc.StatusCode, str]:
    call = sandbox.stub.Execute(request, timeout=TIMEOUT_S, metadata=sandbox.metadata)
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await anext(aiter(call))
    return refusal.value.code(), reason(refusal.value).reason


@pytest.mark.parametrize(
    ("spec", "status", "why"),
    [
        (pb.ExecutionSpec(), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        (pb.ExecutionSpec(code="x" * (MIB + 1)), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        (pb.ExecutionSpec(code="0", profile="cobol"), grpc.StatusCode.INVALID_ARGUMENT, "PROFILE_UNKNOWN"),
        (pb.ExecutionSpec(code="0", session_id="s"), grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"),
        (
            pb.ExecutionSpec(code="0", limits=pb.Limits(memory_bytes=-1)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
        ),
    ],
    ids=["empty", "oversized", "profile", "session", "negative"],
)
async def test_what_is_refused(
    sandbox: Sandbox, spec: pb.ExecutionSpec, status: grpc.StatusCode, why: str
) -> None:
    assert await refused(sandbox, ExecuteRequest(spec=spec)) == (status, why)


async def test_a_stranger_is_refused(service: Service) -> None:
    async with service.connected() as client:
        stranger = Sandbox(client.channel, "forged")
        request = ExecuteRequest(spec=pb.ExecutionSpec(code="0"))
        assert await refused(stranger, request) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


async def test_capabilities(sandbox: Sandbox) -> None:
    answer = await sandbox.capabilities()
    (engine,) = answer.engines
    assert engine.name == "ns"
    assert {"process_count", "files_bytes"} <= set(engine.enforced_limits)
    assert ("memory_bytes" in engine.enforced_limits) != any("Memory" in text for text in engine.weaknesses)
    assert [profile.name for profile in answer.profiles] == ["python"]
    assert answer.default_limits.memory_bytes == 512 * MIB
