"""On a real terminal: what Ctrl-C and Ctrl-D do, and what a terminal is not sent."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from ollamesh.inference.v1.completion_pb2 import ChatRequest, ChatResponse, CompletionEvent
from ollamesh.inference.v1.model_pb2 import PullModelResponse
from ollamesh.sandbox.v1.execution_pb2 import OUTCOME_OK, ExecutionEvent
from ollamesh.sandbox.v1.sandbox_service_pb2 import ExecuteRequest, ExecuteResponse

from tests.fakes.command_line import PROGRAM, pretend_to_be_a_stack
from tests.fakes.fake_sandbox import Execution, FakeSandbox
from tests.fakes.scripted_mesh import ScriptedMesh

WITHIN_S = 30.0
PRESS_AGAIN_S = 1.0
# A process of its own makes the terminal and passes keys and screen on through pipes.
TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
CTRL_C, CTRL_D = b"\x03", b"\x04"


class Terminal:
    """A program on a terminal: what it has shown so far, and keys to press."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin
        assert process.stdout
        self._process, self._keys, self._screen = process, process.stdin, process.stdout
        self.shown = ""

    def press(self, keys: bytes) -> None:
        self._keys.write(keys)

    async def until(self, text: str, *, times: int = 1) -> None:
        async with asyncio.timeout(WITHIN_S):
            while self.shown.count(text) < times:
                part = await self._screen.read(4096)
                assert part, f"it ended before it showed {text!r}:\n{self.shown}"
                self.shown += part.decode(errors="replace")

    async def press_until(self, keys: bytes, text: str, *, times: int) -> None:
        """Press again and again, as people do: Python's `input` misses a Ctrl-C between two keys' handling."""
        async with asyncio.timeout(WITHIN_S):
            while self.shown.count(text) < times:
                self.press(keys)
                with suppress(TimeoutError):
                    async with asyncio.timeout(PRESS_AGAIN_S):
                        await self.until(text, times=times)

    async def end(self) -> int:
        async with asyncio.timeout(WITHIN_S):
            while part := await self._screen.read(4096):
                self.shown += part.decode(errors="replace")
            return await self._process.wait()


@asynccontextmanager
async def on_a_terminal(mesh: ScriptedMesh, home: Path, *arguments: str) -> AsyncIterator[Terminal]:
    pretend_to_be_a_stack(home, mesh.url)
    environment = {**os.environ, "OLLAMESH_HOME": str(home), "OLLAMESH_EDGE": mesh.url, "TERM": "xterm"}
    environment.pop("OLLAMESH_TOKEN", None)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", TERMINAL, *PROGRAM, *arguments),
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Terminal(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
async def mesh() -> AsyncIterator[ScriptedMesh]:
    async with ScriptedMesh().serving() as mesh:
        yield mesh


class Chat:
    """Answers the first question without end and the others at once."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    async def __call__(self, request: ChatRequest, context: object) -> AsyncIterator[ChatResponse]:
        self.asked.append([message.content for message in request.messages])
        if len(self.asked) > 1:
            yield _delta("The end.")
            return
        while True:
            yield _delta("word ")
            await asyncio.sleep(0.01)


def _delta(text: str) -> ChatResponse:
    return ChatResponse(event=CompletionEvent(sequence=1, delta=CompletionEvent.Delta(text=text)))


async def test_ctrl_c_ends_the_answer_and_not_the_conversation(mesh: ScriptedMesh, tmp_path: Path) -> None:
    chat = mesh.streams["Chat"] = Chat()
    async with on_a_terminal(mesh, tmp_path, "chat", "tiny") as terminal:
        await terminal.until(">>> ")
        terminal.press(b"first\n")
        await terminal.until("word", times=3)
        terminal.press(CTRL_C)
        await terminal.until("stopped")
        await asyncio.wait_for(mesh.left.wait(), WITHIN_S)  # The mesh knows too, and stops working.
        await terminal.until(">>> ", times=2)
        terminal.press(b"second\n")
        await terminal.until("The end.")
        await terminal.until(">>> ", times=3)
        terminal.press(CTRL_D)
        assert await terminal.end() == 0
    first, second = chat.asked
    assert first == ["first"]
    assert second[0] == "first"
    assert second[1].startswith("word word word")  # What was shown is part of the conversation.
    assert second[2] == "second"


async def test_ctrl_c_at_the_prompt_forgets_the_line(mesh: ScriptedMesh, tmp_path: Path) -> None:
    chat = mesh.streams["Chat"] = Chat()
    async with on_a_terminal(mesh, tmp_path, "chat", "tiny") as terminal:
        await terminal.until(">>> ")
        terminal.press(b"half a ques")
        await terminal.until("half a ques")
        await terminal.press_until(CTRL_C, ">>> ", times=2)
        terminal.press(CTRL_D)
        assert await terminal.end() == 0
    assert chat.asked == []


async def test_a_refused_question_does_not_end_the_conversation(mesh: ScriptedMesh, tmp_path: Path) -> None:
    async with on_a_terminal(mesh, tmp_path, "chat", "tiny") as terminal:
        await terminal.until(">>> ")
        terminal.press(b"hello\n")
        await terminal.until("not served by this version")
        await terminal.until(">>> ", times=2)
        terminal.press(CTRL_D)
        assert await terminal.end() == 0


async def test_ctrl_c_ends_a_program_that_does_not_run_yet(mesh: ScriptedMesh, tmp_path: Path) -> None:
    async def execute(request: ExecuteRequest, context: object) -> AsyncIterator[ExecuteResponse]:
        yield ExecuteResponse(event=ExecutionEvent(stdout=ExecutionEvent.Output(data=b"running\n")))
        await asyncio.Event().wait()

    mesh.streams["Execute"] = execute
    (program := tmp_path / "program.py").write_text("loop")
    async with on_a_terminal(mesh, tmp_path, "exec", str(program)) as terminal:
        await terminal.until("running")
        terminal.press(CTRL_C)
        assert await terminal.end() == 1
        await asyncio.wait_for(mesh.left.wait(), WITHIN_S)


@pytest.fixture
def sandbox(mesh: ScriptedMesh) -> FakeSandbox:
    sandbox = FakeSandbox()
    mesh.answer_by(sandbox)
    return sandbox


async def test_ctrl_c_interrupts_a_program_and_then_kills_it(
    mesh: ScriptedMesh, sandbox: FakeSandbox, tmp_path: Path
) -> None:
    sandbox.script = [
        Execution(stdout=[b"running\n"], hold=asyncio.Event()),
        Execution(stdout=[b"running\n"], hold=asyncio.Event(), heeds_interrupts=False),
    ]
    (program := tmp_path / "program.py").write_text("loop")
    (tmp_path / "one").mkdir()
    async with on_a_terminal(mesh, tmp_path / "one", "exec", str(program)) as terminal:
        await terminal.until("running")
        terminal.press(CTRL_C)
        assert await terminal.end() == 1
    assert "KeyboardInterrupt" in terminal.shown
    assert "exit code 1 · " in terminal.shown
    (tmp_path / "two").mkdir()
    async with on_a_terminal(mesh, tmp_path / "two", "exec", str(program), "--exit-code") as terminal:
        await terminal.until("running")
        terminal.press(CTRL_C)
        await terminal.until("interrupted; Ctrl-C kills it")
        terminal.press(CTRL_C)
        assert await terminal.end() == 130
    assert "the program was cancelled · " in terminal.shown
    assert [found.interrupt_count for found in sandbox.executions.values()] == [1, 1]


async def test_what_is_typed_reaches_the_program_line_by_line(
    mesh: ScriptedMesh, sandbox: FakeSandbox, tmp_path: Path
) -> None:
    sandbox.script = [Execution(stdout=[b"name? "], echoes=True)]
    (program := tmp_path / "program.py").write_text("input()")
    async with on_a_terminal(mesh, tmp_path, "exec", str(program), "--stdin", "-") as terminal:
        await terminal.until("name? ")
        terminal.press(b"Ada\n")
        await terminal.until("Ada", times=2)  # The terminal's echo, and the program's.
        terminal.press(b"Grace\n")
        await terminal.until("Grace", times=2)
        terminal.press(CTRL_D)
        assert await terminal.end() == 0


async def test_a_pipe_is_passed_on_as_it_goes_on(
    mesh: ScriptedMesh, sandbox: FakeSandbox, tmp_path: Path
) -> None:
    """What is sent next depends on what the program answered to the first; and it may end before the pipe does."""
    sandbox.script = [Execution(echoes=True), Execution(stdout=[b"enough"])]
    pretend_to_be_a_stack(tmp_path, mesh.url)
    (program := tmp_path / "program.py").write_text("input()")

    async def started() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(*PROGRAM, "exec", str(program), "--stdin", "-"),
            env={**os.environ, "OLLAMESH_HOME": str(tmp_path), "OLLAMESH_EDGE": mesh.url},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async with asyncio.timeout(WITHIN_S):
        process = await started()
        assert process.stdin
        assert process.stdout
        for line in (b"first\n", b"second\n"):
            process.stdin.write(line)
            assert await process.stdout.readline() == line
        process.stdin.close()
        assert await process.wait() == 0
        process = await started()
        assert process.stdout
        assert await process.stdout.read() == b"enough"
        assert await process.wait() == 0
    assert bytes(sandbox.executions["e1"].given) == b"first\nsecond\n"


async def test_a_program_cannot_speak_to_the_terminal(mesh: ScriptedMesh, tmp_path: Path) -> None:
    async def execute(request: ExecuteRequest, context: object) -> AsyncIterator[ExecuteResponse]:
        output = ExecutionEvent.Output(data=b"\x1b]0;owned\x07\x1b[2J\n")
        yield ExecuteResponse(event=ExecutionEvent(stdout=output))
        exited = ExecutionEvent.Exited(outcome=OUTCOME_OK)
        yield ExecuteResponse(event=ExecutionEvent(exited=exited))

    mesh.streams["Execute"] = execute
    (program := tmp_path / "program.py").write_text("print()")
    async with on_a_terminal(mesh, tmp_path, "exec", str(program)) as terminal:
        assert await terminal.end() == 0
    assert "\\x1b]0;owned\\x07\\x1b[2J" in terminal.shown
    assert "\x1b]0" not in terminal.shown


@pytest.mark.parametrize("arguments", [["--help"], ["status"], ["status", "--json"]])
async def test_what_must_be_quick_does_not_load_grpc(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys; from clients.cli.main import main\n"
        "try: main()\n"
        "finally: print(sorted({'grpc', 'google.protobuf', 'rich'} & set(sys.modules)))"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, *arguments),
        env={**os.environ, "OLLAMESH_HOME": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert output.decode().splitlines()[-1] == "[]"


async def test_a_download_moves_on_one_line_and_leaves_one(mesh: ScriptedMesh, tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def pull(_: object, _context: object) -> AsyncIterator[PullModelResponse]:
        progress = {
            "instance": "one",
            "status": "pulling \x1b[5m[red]abc",
            "digest": "abc",
            "total_bytes": 4096,
        }
        yield PullModelResponse(progress={**progress, "completed_bytes": 1024})
        await gate.wait()
        yield PullModelResponse(
            done={"model": {"name": "x:latest", "size_bytes": 4096, "instances": ["one"]}}
        )

    mesh.streams["PullModel"] = pull
    async with on_a_terminal(mesh, tmp_path, "models", "pull", "x") as terminal:
        await terminal.until("1.0/4.0 KiB")
        gate.set()
        assert await terminal.end() == 0
    assert "\x1b[5m" not in terminal.shown, "what an instance says is shown, not obeyed"
    assert "[red]abc" in terminal.shown
    assert "x:latest (4.0 KiB) is on one" in terminal.shown
