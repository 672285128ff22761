"""Sessions as their owners see them: real programs in real jails, over a real socket."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import grpc
import grpc.aio
import pytest
from ollamesh.sandbox.v1 import execution_pb2 as pb

from tests.service.sandbox_app import (
    ORDINARY_UID,
    TIMEOUT_S,
    Service,
    built_root,
    descendants,
    forked,
    reason,
    serving,
)
from tests.service.sandbox_sessions import Client, ready, until

SLEEP = "print('up', flush=True)\nimport time\ntime.sleep(3600)"
DEAF = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + SLEEP
SHORT = pb.Limits(wall={"nanos": 200_000_000})
MANY = {"OLLAMESH_SANDBOX_SESSIONS_MAX": "64", "OLLAMESH_SANDBOX_SESSIONS_TOTAL_MAX": "64"}

USERS = [
    pytest.param(0, marks=pytest.mark.skipif(os.geteuid() != 0, reason="not root"), id="as-root"),
    pytest.param(ORDINARY_UID if os.geteuid() == 0 else None, id="as-user"),
]


@pytest.fixture(scope="module", params=USERS)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with serving(built_root(), uid=request.param, settings=MANY) as running:
        yield running


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    async with service.ready() as sandbox:
        yield Client(sandbox)


@pytest.fixture
async def session_id(client: Client) -> AsyncIterator[str]:
    made = await client.session(limits=pb.Limits(memory_bytes=96 << 20))
    yield made
    await client.ask("DeleteSession", session_id=made)


async def test_variables_functions_and_imports_are_kept(client: Client, session_id: str) -> None:
    assert (await client.run(session_id, "import math\ndef twice(x): return 2 * x")).outcome == "OK"
    ran = await client.run(session_id, "twice(math.floor(21.5))")
    assert ran.outcome == "OK"
    results = [event.result.data["text/plain"] for event in ran.events if event.HasField("result")]
    assert results == [b"42"]
    assert not ran.exited.session_restarted
    assert not ran.events[0].started.session_restarted


async def test_where_memory_is_short_a_session_gets_what_there_is_for_sessions() -> None:
    """As executions do: who asks for nothing, or too much, has done nothing wrong."""
    async with ready(built_root(), OLLAMESH_SANDBOX_MEMORY_BUDGET_MIB="640") as (_, client):
        made = (await client.ask("CreateSession")).session
        assert 64 << 20 <= made.limits.memory_bytes <= 128 << 20
        assert (await client.run(made.session_id, "1")).outcome == "OK"


async def test_files_go_both_ways(client: Client, session_id: str) -> None:
    data = os.urandom(3_000_000)
    await client.put(session_id, "in/data.bin", data)
    code = "data = open('in/data.bin', 'rb').read()\nopen('out.bin', 'wb').write(data[::-1])"
    assert (await client.run(session_id, code)).outcome == "OK"
    assert await client.get(session_id, "out.bin") == data[::-1]
    assert await client.get(session_id, "out.bin", 2_999_999) == data[:1]
    assert await client.names(session_id) == ["in", "out.bin"]
    await client.ask("DeleteFile", session_id=session_id, path="in")
    assert (await client.run(session_id, "print(len(data))\nopen('in/data.bin')")).outcome == "ERROR"
    assert await client.names(session_id) == ["out.bin"]


async def test_capabilities_say_how_many_and_how_large(client: Client) -> None:
    found = await client.sandbox.capabilities()
    assert (found.max_session_count, found.max_file_bytes) == (64, 32 << 20)


async def test_files_are_used_while_something_runs(client: Client, session_id: str) -> None:
    code = "import os, time\nprint('up', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)"
    call = await client.begun(session_id, code)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.run(session_id, "1")
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(refused.value).reason == "SESSION_BUSY"
    assert await client.names(session_id) == []
    await client.put(session_id, "go", b"")
    assert [response.event.exited.outcome async for response in call][-1] == pb.OUTCOME_OK


async def test_more_than_the_session_holds_is_refused(client: Client, session_id: str) -> None:
    for name in ("fits", "too"):
        await client.put(session_id, name, bytes(30 << 20))
    for size_bytes, name in ((33 << 20, "large"), (32 << 20, "no longer")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.put(session_id, name, bytes(size_bytes))
        assert reason(refused.value).reason == "FILE_TOO_LARGE"
    assert await client.names(session_id) == ["fits", "too"]


async def test_too_long_is_interrupted_and_keeps_its_variables(client: Client, session_id: str) -> None:
    await client.run(session_id, "x = 42")
    ran = await client.run(session_id, SLEEP, limits=SHORT)
    assert ran.outcome == "TIMEOUT"
    assert list(ran.exited.limits_reached) == [pb.LIMIT_KIND_WALL]
    assert not ran.exited.session_restarted
    assert (await client.run(session_id, "print(x)")).stdout == "42\n"


async def test_what_heeds_no_interrupt_is_killed_and_said_to_be(client: Client, session_id: str) -> None:
    await client.run(session_id, "x = 42\nopen('a', 'w').write('1')")
    ran = await client.run(session_id, DEAF, limits=SHORT)
    assert ran.outcome == "TIMEOUT"
    assert (ran.exited.session_restarted, ran.exited.session_files_lost) == (True, True)
    assert (await client.described(session_id)).restart_count == 1
    assert "NameError" in (await client.run(session_id, "print(x)")).stderr
    assert await client.names(session_id) == []


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("import os; os._exit(3)", "ERROR"),
        ("import os; os.abort()", "SIGNALLED"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGNALLED"),
        ("import ctypes; ctypes.string_at(0)", "SIGNALLED"),
        ("x = bytearray(1 << 30)\nfor i in range(0, 1 << 30, 4096): x[i] = 1", "OOM"),
        ("while True: print('x' * 100_000)", "OUTPUT_LIMIT"),
    ],
    ids=["exit", "abort", "kill", "segfault", "memory", "flood"],
)
async def test_a_crash_is_told_and_the_session_begins_anew(
    client: Client, session_id: str, code: str, outcome: str
) -> None:
    await client.run(session_id, "y = 42")
    ran = await client.run(session_id, code)
    if outcome == "OOM" and ran.outcome == "ERROR":  # Python was told in time, and its interpreter lives.
        assert "MemoryError" in ran.stderr
        return
    assert ran.outcome == outcome
    assert ran.exited.session_restarted
    assert not ran.exited.session_ended
    after = await client.run(session_id, "print('y' in globals())")
    assert after.stdout == "False\n"
    assert not after.events[0].started.session_restarted  # It was told already.
    assert (await client.described(session_id)).restart_count == 1


async def test_who_hangs_up_interrupts_it(client: Client, session_id: str) -> None:
    await client.run(session_id, "x = 42")
    call = await client.begun(session_id, SLEEP)
    call.cancel()
    await client.idle(session_id)
    assert (await client.run(session_id, "print(x)")).stdout == "42\n"


async def test_what_is_left_running_ends_with_its_program(
    client: Client, session_id: str, service: Service
) -> None:
    code = "import os, time\nfor _ in range(3):\n    if os.fork() == 0: time.sleep(3600)\nprint('up')"
    for _ in range(25):  # Together more than may run at once.
        ran = await client.run(session_id, code)
        assert (ran.outcome, ran.stdout, ran.stderr) == ("OK", "up\n", "")
    await client.run(session_id, "1")
    await until(lambda: not forked(service))


async def test_started_executions_run_in_sessions_too(client: Client, session_id: str) -> None:
    spec = pb.ExecutionSpec(code="x = input()\nprint(x)", session_id=session_id, stdin_open=True)
    name = f"{session_id}-1"
    started = await client.ask("StartExecution", execution_id=name, spec=spec)
    assert started.execution.session_id == session_id
    await client.ask("SendInput", execution_id=name, data=b"hello\n", end=True)
    request = {"execution_id": name}
    while not (found := (await client.ask("GetExecution", **request)).execution).HasField("exited"):
        await asyncio.sleep(0.01)
    assert found.exited.outcome == pb.OUTCOME_OK
    assert found.stdout_bytes == len("hello\n")
    assert (await client.run(session_id, "print(x)")).stdout == "hello\n"


async def test_an_interrupt_keeps_the_state_and_a_kill_does_not(client: Client, session_id: str) -> None:
    await client.run(session_id, "x = 42")
    for act, is_kept in (("InterruptExecution", True), ("KillExecution", False)):
        name = f"{session_id}-{act}"
        spec = pb.ExecutionSpec(code=SLEEP, session_id=session_id)
        await client.ask("StartExecution", execution_id=name, spec=spec)
        while not (await client.ask("GetExecution", execution_id=name)).execution.stdout_bytes:
            await asyncio.sleep(0.01)
        await client.ask(act, execution_id=name)
        await client.idle(session_id)
        exited = (await client.ask("GetExecution", execution_id=name)).execution.exited
        assert exited.session_restarted is not is_kept
        ran = await client.run(session_id, "print('x' in globals())")
        assert ran.stdout == f"{is_kept}\n"


async def test_nobody_else_finds_it(client: Client, session_id: str, service: Service) -> None:
    await client.put(session_id, "secret", b"1")
    async with service.connected("bob") as sandbox:
        bob = Client(sandbox)
        for asked in (
            bob.ask("GetSession", session_id=session_id),
            bob.run(session_id, "1"),
            bob.names(session_id),
            bob.get(session_id, "secret"),
            bob.put(session_id, "secret", b"2"),
            bob.ask("DeleteFile", session_id=session_id, path="secret"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await asked
            assert (refused.value.code(), reason(refused.value).reason) == (
                grpc.StatusCode.NOT_FOUND,
                "SESSION_NOT_FOUND",
            )
        await bob.ask("DeleteSession", session_id=session_id)
        own = await bob.session()
        assert await bob.names(own) == []
        assert (await bob.run(own, "import os\nprint(os.listdir('/work'))")).stdout == "[]\n"
        await bob.ask("DeleteSession", session_id=own)
    assert await client.get(session_id, "secret") == b"1"


async def test_many_sessions_share_nothing(client: Client) -> None:
    limits = pb.Limits(memory_bytes=64 << 20)
    made = await asyncio.gather(*(client.session(limits=limits) for _ in range(6)))
    await asyncio.gather(*(client.run(each, f"x = {at}") for at, each in enumerate(made)))
    ran = await asyncio.gather(*(client.run(each, "print(x)") for each in made))
    assert [each.stdout for each in ran] == [f"{at}\n" for at in range(6)]
    await asyncio.gather(*(client.ask("DeleteSession", session_id=each) for each in made))


async def test_delete_ends_what_runs_and_leaves_nothing(client: Client, service: Service) -> None:
    session_id = await client.session()
    call = await client.begun(session_id, DEAF)
    during = set(descendants(service.process.pid))
    await client.ask("DeleteSession", session_id=session_id)
    exited = [response.event.exited async for response in call][-1]
    assert (exited.outcome, exited.session_ended) == (pb.OUTCOME_CANCELLED, True)
    await until(lambda: len(during - set(descendants(service.process.pid))) >= 2)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.run(session_id, "1")
    assert reason(refused.value).reason == "SESSION_NOT_FOUND"


async def test_idleness_ends_it(service: Service) -> None:
    async with ready(built_root(), OLLAMESH_SANDBOX_SESSION_IDLE_S="0.3") as (_, client):
        session_id = await client.session()
        await until_gone(client, session_id)


async def test_its_life_ends_what_runs(service: Service) -> None:
    async with ready(built_root(), OLLAMESH_SANDBOX_SESSION_LIFE_S="1.5") as (_, client):
        session_id = await client.session()
        call = await client.begun(session_id, DEAF)
        exited = [response.event.exited async for response in call][-1]
        assert (exited.outcome, exited.session_ended) == (pb.OUTCOME_CANCELLED, True)
        await until_gone(client, session_id)


async def until_gone(client: Client, session_id: str) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while (await client.ask("ListSessions")).sessions:
            await asyncio.sleep(0.05)
    with pytest.raises(grpc.aio.AioRpcError) as missing:
        await client.described(session_id)
    assert reason(missing.value).reason == "SESSION_NOT_FOUND"
