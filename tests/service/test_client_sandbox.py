"""The sandbox by the typed client: programs with input and results, sessions, files; told whole, and once."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from ollamesh.client import CallError, Client, Password, executions
from ollamesh.client.transfers import PIECE_BYTES_MAX
from ollamesh.sandbox.v1 import execution_pb2 as pb
from ollamesh.sandbox.v1 import sandbox_service_pb2 as service

from services.sandbox.errors import SandboxUnavailable
from tests.fakes.fake_sandbox import Execution, FakeSandbox
from tests.fakes.scripted_mesh import PASSWORD, USERNAME, ScriptedMesh, Unavailable
from tests.service.client_rig import client

__all__ = ["client"]

PLOT = {"text/plain": b"<Figure>", "image/png": b"\x89PNG"}


@pytest.fixture
def sandbox() -> FakeSandbox:
    return FakeSandbox()


@pytest.fixture
async def mesh(sandbox: FakeSandbox) -> AsyncIterator[ScriptedMesh]:
    mesh = ScriptedMesh()
    mesh.answer_by(sandbox)
    async with mesh.serving():
        yield mesh


async def chunks(*data: bytes) -> AsyncIterator[bytes]:
    for chunk in data:
        yield chunk


def stdout_of(events: list[executions.Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, executions.Stdout))


# ---- Programs --------------------------------------------------------------------------------------


async def test_all_that_a_caller_may_ask_for_is_asked_for(client: Client, sandbox: FakeSandbox) -> None:
    limits = executions.Limits(
        wall_s=2.5, memory_bytes=1 << 26, cpu_s=1.5, process_count=3, output_bytes=9, files_bytes=1 << 20
    )
    session = await client.sandbox.create_session()
    done = await client.sandbox.run(
        "x", stdin=b"in", limits=limits, profile="bash", engine="gvisor", session_id=session.session_id
    )
    assert (done.stdout, done.exited.outcome) == (b"42\n", "ok")
    (spec,) = sandbox.specs
    asked = (spec.code, spec.stdin, spec.profile, spec.engine, spec.session_id, spec.stdin_open)
    assert asked == ("x", b"in", "bash", "gvisor", session.session_id, False)
    assert executions.limits_of(spec.limits) == limits


async def test_an_execution_is_told_by_its_grammar(client: Client, sandbox: FakeSandbox) -> None:
    sandbox.script = [
        Execution(
            stdout=[b"out"],
            stderr=[b"err"],
            results=[PLOT],
            outcome=pb.OUTCOME_OOM,
            limits_reached=[pb.LIMIT_KIND_MEMORY, pb.LIMIT_KIND_FILES],
        )
    ]
    events = [event async for event in client.execute("x", limits=executions.Limits(wall_s=3))]
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5]
    started, out, err, result, exited = events
    assert isinstance(started, executions.Started)
    assert (started.engine, started.limits) == ("fake", executions.Limits(wall_s=3))
    assert (out, err) == (
        executions.Stdout(sequence=2, offset=0, data=b"out"),
        executions.Stderr(sequence=3, offset=0, data=b"err"),
    )
    assert result == executions.Result(sequence=4, data=PLOT)
    assert isinstance(exited, executions.Exited)
    assert (exited.outcome, exited.limits_reached) == ("oom", ("memory", "files"))


async def test_input_goes_on_while_the_program_runs(client: Client, sandbox: FakeSandbox) -> None:
    """What is said next depends on what the program answered to the first."""
    sandbox.script = [Execution(echoes=True)]
    heard = asyncio.Event()
    long = b"x" * (PIECE_BYTES_MAX + 1)

    async def said() -> AsyncIterator[bytes]:
        yield b"first"
        await heard.wait()
        yield long

    events = []
    async with asyncio.timeout(10):
        async for event in client.execute("cat", stdin=said()):
            events.append(event)
            if isinstance(event, executions.Stdout):
                heard.set()
    assert stdout_of(events) == b"first" + long
    assert sandbox.specs[0].stdin_open


async def test_input_waits_for_a_program_that_is_slow_to_read(
    sandbox: FakeSandbox, mesh: ScriptedMesh
) -> None:
    """The service takes in no more than it has room for; a call that waits for longer than it may is made again."""
    sandbox.script = [Execution(echoes=True)]
    give, tried = mesh.unary["SendInput"], []

    async def full_for_two_calls(request: service.SendInputRequest, context: Any) -> Any:
        tried.append(request.offset)
        if request.offset == 2 and tried.count(2) < 3:
            await asyncio.Event().wait()
        return await give(request, context)

    mesh.unary["SendInput"] = full_for_two_calls
    async with Client(mesh.url, Password(USERNAME, PASSWORD), deadline_s=0.5) as hasty:
        done = await asyncio.wait_for(hasty.sandbox.run("cat", stdin=chunks(b"ab", b"cd")), 10)
    assert done.stdout == b"abcd"
    assert tried.count(2) >= 3


async def test_a_program_need_not_read_to_the_end(client: Client, sandbox: FakeSandbox) -> None:
    sandbox.script = [Execution()]
    sent: list[bytes] = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0)
            sent.append(b"y\n")
            yield sent[-1]

    done = await asyncio.wait_for(client.sandbox.run("true", stdin=endless()), 10)
    assert done.exited.outcome == "ok"
    count = len(sent)
    await asyncio.sleep(0.05)
    assert len(sent) == count, "nobody asks for more"


async def test_input_that_breaks_kills_the_program_and_is_told(client: Client, sandbox: FakeSandbox) -> None:
    sandbox.script = [Execution(echoes=True)]

    async def broken() -> AsyncIterator[bytes]:
        yield b"so far"
        raise OSError("no such device")

    with pytest.raises(OSError, match="no such device"):
        await asyncio.wait_for(client.sandbox.run("cat", stdin=broken()), 10)
    exited = sandbox.executions["e1"].exited
    assert exited is not None
    assert exited.outcome == pb.OUTCOME_CANCELLED


async def test_who_leaves_ends_the_program_and_its_input(client: Client, sandbox: FakeSandbox) -> None:
    sandbox.script = [Execution(echoes=True)]
    left = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            left.set()

    async with aclosing(client.execute("cat", stdin=endless())) as events:
        async for event in events:
            if isinstance(event, executions.Stdout):
                break
    await asyncio.wait_for(left.wait(), 10)
    async with asyncio.timeout(10):
        while sandbox.running:
            await asyncio.sleep(0.005)


async def test_an_execution_is_started_once_however_often_it_is_asked_for(
    client: Client, sandbox: FakeSandbox, mesh: ScriptedMesh
) -> None:
    asked: list[str] = []
    start = mesh.unary["StartExecution"]

    async def losing_the_first_answer(request: service.StartExecutionRequest, context: Any) -> Any:
        asked.append(request.execution_id)
        answer = await start(request, context)
        if len(asked) == 1:
            raise Unavailable
        return answer

    mesh.unary["StartExecution"] = losing_the_first_answer
    execution = await client.sandbox.start("x", profile="bash")
    assert asked == [execution.execution_id] * 2
    assert len(sandbox.specs) == 1
    assert (execution.profile, execution.engine) == ("bash", "fake")
    named = await client.sandbox.start("x", execution_id="mine")
    assert (await client.sandbox.get("mine")).execution_id == named.execution_id == "mine"


async def test_a_started_execution_is_fed_interrupted_and_killed(
    client: Client, sandbox: FakeSandbox
) -> None:
    sandbox.script = [
        Execution(echoes=True, hold=asyncio.Event()),
        Execution(hold=asyncio.Event(), heeds_interrupts=False),
    ]
    box = client.sandbox
    await box.start("cat", execution_id="one", stdin=b"a", stdin_open=True)
    assert await box.send_input("one", b"b", offset=0) == 1
    assert await box.send_input("one", b"bc", offset=0) == 2, "a repeated call writes nothing twice"
    with pytest.raises(CallError) as refused:
        await box.send_input("one", b"z", offset=9)
    assert (refused.value.reason, refused.value.metadata) == ("INPUT_OFFSET_WRONG", {"next_offset": "2"})
    await box.feed("one", chunks(b"d"), offset=2)
    await box.interrupt("one")
    events = [event async for event in box.watch("one")]
    assert stdout_of(events) == b"abcd"
    assert isinstance(events[-1], executions.Exited)
    assert (events[-1].outcome, events[-1].exit_code) == ("error", 1)
    await box.start("loop", execution_id="two")
    await box.interrupt("two")
    killed = await box.kill("two")
    assert (killed.state, killed.exited and killed.exited.outcome) == ("exited", "cancelled")


# ---- Lost connections ------------------------------------------------------------------------------


class Lossy:
    """WatchExecution that is lost after so many events, as `losses` says, and that cuts output at other places."""

    def __init__(self, sandbox: FakeSandbox, *losses: tuple[int, Exception]) -> None:
        self.losses = list(losses)
        self.asked: list[tuple[int, int, int]] = []
        self._sandbox = sandbox

    async def __call__(self, request: service.WatchExecutionRequest, context: Any) -> AsyncIterator[Any]:
        self.asked.append((request.stdout_offset, request.stderr_offset, request.result_count))
        last, failure = self.losses.pop(0) if self.losses else (1 << 30, None)
        async for response in self._sandbox.WatchExecution(request, context):
            if response.event.sequence > last and failure is not None:
                raise failure
            yield response


async def test_a_watched_execution_goes_on_at_the_byte_where_it_was_lost(
    client: Client, sandbox: FakeSandbox, mesh: ScriptedMesh
) -> None:
    sandbox.script = [
        Execution(stdout=[b"ab", b"cd", b"ef"], stderr=[b"12"], results=[PLOT, {"text/plain": b"2"}])
    ]
    lossy = Lossy(sandbox, (2, Unavailable()), (0, Unavailable()), (3, Unavailable()), (2, Unavailable()))
    mesh.streams["WatchExecution"] = lossy
    execution = await client.sandbox.start("x")
    events = [event async for event in client.sandbox.watch(execution.execution_id)]
    assert lossy.asked == [(0, 0, 0), (2, 0, 0), (2, 0, 0), (6, 0, 0), (6, 2, 0)]
    assert [type(event).__name__ for event in events] == [
        *("Started", "Stdout", "Stdout", "Stdout", "Stderr", "Result", "Result", "Exited"),
    ]
    assert [event.sequence for event in events] == list(range(1, 9))
    assert stdout_of(events) == b"abcdef"
    results = [event.data for event in events if isinstance(event, executions.Result)]
    assert results == [PLOT, {"text/plain": b"2"}]


async def test_watching_starts_where_it_is_told_to(client: Client, sandbox: FakeSandbox) -> None:
    sandbox.script = [Execution(stdout=[b"abcd"], stderr=[b"12"], results=[PLOT, PLOT])]
    await client.sandbox.start("x", execution_id="mine")
    watch = client.sandbox.watch("mine", stdout_offset=3, stderr_offset=2, result_count=1)
    told = [type(event).__name__ for event in [event async for event in watch]]
    assert told == ["Started", "Stdout", "Result", "Exited"]


async def test_a_jail_that_was_lost_is_not_looked_for(
    client: Client, sandbox: FakeSandbox, mesh: ScriptedMesh
) -> None:
    lossy = mesh.streams["WatchExecution"] = Lossy(
        sandbox, (1, SandboxUnavailable(problem="the jail was lost"))
    )
    sandbox.script = [Execution(stdout=[b"a"])]
    await client.sandbox.start("x", execution_id="mine")
    with pytest.raises(CallError, match="SANDBOX_UNAVAILABLE"):
        await asyncio.wait_for(executions.completed(client.sandbox.watch("mine")), 30)
    assert len(lossy.asked) == 1


async def test_an_execution_that_nobody_knows_any_more_is_not_looked_for(client: Client) -> None:
    with pytest.raises(CallError, match="EXECUTION_NOT_FOUND"):
        await asyncio.wait_for(anext(client.sandbox.watch("absent")), 30)


# ---- Sessions and files ----------------------------------------------------------------------------


async def test_a_session_is_there_for_a_while_and_gone_afterwards(
    client: Client, sandbox: FakeSandbox
) -> None:
    async with client.sandbox.session(profile="python-data", idle_timeout_s=60) as session:
        assert (await session.run("x = 1")).stdout == b"42\n"
        about = await session.info()
        assert (about.session_id, about.profile, about.state) == (session.session_id, "python-data", "idle")
        assert about.expire_time
        assert about.create_time
        assert (about.expire_time - about.create_time).total_seconds() == pytest.approx(60, abs=1)
        assert [event async for event in session.execute("x")]
    assert [spec.session_id for spec in sandbox.specs] == [session.session_id] * 2
    assert sandbox.sessions == {}
    with pytest.raises(CallError, match="SESSION_NOT_FOUND"):
        await session.run("x")


async def test_a_session_that_is_not_there_any_more_hides_no_failure(
    client: Client, sandbox: FakeSandbox, mesh: ScriptedMesh
) -> None:
    mesh.unary.pop("DeleteSession")
    with pytest.raises(KeyError):
        async with client.sandbox.session():
            raise KeyError


async def test_sessions_are_listed_over_all_pages(client: Client) -> None:
    made = [(await client.sandbox.create_session()).session_id for _ in range(5)]
    assert [session.session_id async for session in client.sandbox.list_sessions()] == made[::-1]
    await client.sandbox.delete_session(made[0])
    assert (await client.sandbox.get_session(made[1])).session_id == made[1]
    with pytest.raises(CallError, match="SESSION_NOT_FOUND"):
        await client.sandbox.get_session(made[0])


async def test_files_go_in_and_out_in_every_form(client: Client, tmp_path: Path) -> None:
    data = bytes(range(256)) * 3000
    (local := tmp_path / "data.bin").write_bytes(data)
    half = len(data) // 2
    async with client.sandbox.session() as session:
        assert (await session.put("bytes", data)).size_bytes == len(data)
        await session.put("path", local)
        await session.put("pieces", [data[:half], data[half:]], size_bytes=len(data))
        await session.put("stream", chunks(data[:half], b"", data[half:]), size_bytes=len(data))
        await session.put("empty", b"")
        assert [file.path async for file in session.files()] == ["bytes", "empty", "path", "pieces", "stream"]
        for name in ("bytes", "path", "pieces", "stream"):
            assert await session.get(name) == data
        assert b"".join([piece async for piece in session.read("bytes", offset=len(data) - 4)]) == data[-4:]
        assert await session.get("empty") == b""
        await session.save("bytes", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data
        await session.remove("bytes")
        with pytest.raises(CallError, match="FILE_NOT_FOUND"):
            await session.save("bytes", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data, "what is there is not touched by a failure"
        assert sorted(await asyncio.to_thread(os.listdir, tmp_path)) == ["copy", "data.bin"]


async def test_a_file_that_cannot_be_read_is_told_as_it_is(client: Client, tmp_path: Path) -> None:
    async with client.sandbox.session() as session:
        with pytest.raises(FileNotFoundError):
            await session.put("x", tmp_path / "absent")
        with pytest.raises(ValueError, match="size_bytes"):
            await session.put("x", chunks(b"x"))


async def test_capabilities_are_told(client: Client, sandbox: FakeSandbox) -> None:
    sandbox.capabilities = service.GetCapabilitiesResponse(
        engines=[service.Engine(name="ns", enforced_limits=["memory"], weaknesses=["The kernel is shared."])],
        profiles=[
            service.Profile(
                name="python", runtime="python 3.11", packages=["a 1"], engines=["ns"], keeps_variables=True
            )
        ],
        max_limits=pb.Limits(memory_bytes=1 << 29),
        max_session_count=4,
        max_file_bytes=1 << 25,
    )
    found = await client.sandbox.capabilities()
    assert [(engine.name, engine.enforced_limits) for engine in found.engines] == [("ns", ("memory",))]
    assert found.profiles[0].packages == ("a 1",)
    assert found.profiles[0].keeps_variables
    assert (found.max_limits.memory_bytes, found.max_limits.wall_s) == (1 << 29, None)
    assert (found.session_count_max, found.file_bytes_max) == (4, 1 << 25)
