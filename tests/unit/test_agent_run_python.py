"""The tool against a scripted sandbox: what is run, what is written, what the model reads."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from uuid import UUID

import grpc.aio
import pytest
from ollamesh.sandbox.v1 import execution_pb2 as pb

from services.agent.adapters.run_python import OUTPUT_BYTES_MAX, TOO_LONG, RunPython
from services.agent.adapters.sandbox_session import SandboxSessions
from services.agent.adapters.sandboxes import Sandboxes
from services.agent.adapters.tool_specs import CODE_BYTES_MAX, RUN_PYTHON
from services.agent.core.events import Channel
from services.agent.core.ids import Owner, ThreadId
from services.agent.ports import CallContext, ToolResult
from tests.fakes.fake_sandbox import Execution, FakeSandbox
from tests.fakes.thread_sessions import FakeThreadSessions
from tests.service.agent_app import until

COUNT = itertools.count()


@pytest.fixture
async def sandbox() -> AsyncIterator[FakeSandbox]:
    async with FakeSandbox.serving() as fake:
        yield fake


@pytest.fixture
async def tool(sandbox: FakeSandbox) -> AsyncIterator[RunPython]:
    async with grpc.aio.insecure_channel(sandbox.target) as channel:
        yield RunPython(SandboxSessions(Sandboxes({sandbox.target: channel}), FakeThreadSessions()))


class Writer:
    """Remembers what a tool wrote, or refuses to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.written: list[tuple[Channel, str]] = []
        self._failure = failure

    async def write(self, channel: Channel, text: str) -> None:
        if self._failure:
            raise self._failure
        self.written.append((channel, text))

    def text(self, channel: Channel) -> str:
        return "".join(text for where, text in self.written if where is channel)


async def call(tool: RunPython, writer: Writer, code: object = "print()", *, for_s: float = 20) -> ToolResult:
    deadline_s = asyncio.get_running_loop().time() + for_s
    context = CallContext(
        deadline_s=deadline_s,
        owner=Owner("o", "ann"),
        thread_id=ThreadId(UUID(int=1)),
        key=f"run:{next(COUNT)}",
        write=writer.write,
        token="t",
    )
    return await tool.call({"code": code}, context)


async def test_the_program_goes_to_the_sandbox_as_it_is(tool: RunPython, sandbox: FakeSandbox) -> None:
    writer = Writer()
    assert await call(tool, writer, "print('é')\n") == ToolResult(content="42", failed=False)
    assert (sandbox.specs[0].code, sandbox.specs[0].session_id) == ("print('é')\n", "s1")
    assert sandbox.specs[0].limits.output_bytes == OUTPUT_BYTES_MAX
    assert sandbox.authorizations == ["Bearer t"]
    assert writer.written == [(Channel.STDOUT, "42\n")]


async def test_characters_that_are_split_arrive_whole(tool: RunPython, sandbox: FakeSandbox) -> None:
    data = "é👩‍🚀\0".encode()
    sandbox.script = [
        Execution(stdout=[data[n : n + 1] for n in range(len(data))], stderr=[b"\xff", b"\xe2"])
    ]
    writer = Writer()
    result = await call(tool, writer)
    assert writer.text(Channel.STDOUT) == "é👩‍🚀\0"
    assert writer.text(Channel.STDERR) == "\ufffd\ufffd", "what is no text is replaced"
    assert result.content == "é👩‍🚀\0\nstderr:\n\ufffd\ufffd"


async def test_the_value_of_the_last_expression_is_read(tool: RunPython, sandbox: FakeSandbox) -> None:
    sandbox.script = [Execution(value=b"42")]
    assert (await call(tool, Writer())).content == "42"


async def test_of_results_all_that_is_text_is_read(tool: RunPython, sandbox: FakeSandbox) -> None:
    figure = {"text/plain": b"<Figure>", "image/png": b"12345"}
    table = {"text/html": b"<table>", "text/markdown": b"| a |"}
    sandbox.script = [Execution(stdout=[b"out"], results=[figure, table, {"text/html": b"<b>"}])]
    assert (await call(tool, Writer())).content == "out\n<Figure> [image/png, 5 bytes]\n| a |"


async def test_a_limit_that_it_reached_is_told(tool: RunPython, sandbox: FakeSandbox) -> None:
    reached = [pb.LIMIT_KIND_PROCESSES, pb.LIMIT_KIND_FILES]
    sandbox.script = [
        Execution(stdout=[b"42"], limits_reached=reached),
        Execution(outcome=pb.OUTCOME_ERROR, exit_code=1, limits_reached=reached),
    ]
    assert await call(tool, Writer()) == ToolResult(
        content="42\nIt reached its limits: processes, files.", failed=False
    )
    assert (await call(tool, Writer())).content == (
        "The program failed with exit code 1. It reached its limits: processes, files."
    )


@pytest.mark.parametrize("code", [None, 3, "", " \n", "\ud800", "x" * (CODE_BYTES_MAX + 1), ["print()"]])
async def test_what_is_no_program_is_not_run(tool: RunPython, sandbox: FakeSandbox, code: object) -> None:
    result = await call(tool, Writer(), code)
    assert result.failed
    assert sandbox.specs == []


async def test_a_deadline_ends_it_and_the_model_is_told(tool: RunPython, sandbox: FakeSandbox) -> None:
    sandbox.script = [Execution(hold=asyncio.Event())]
    result = await call(tool, Writer(), for_s=0.3)
    assert (result.failed, result.content) == (True, TOO_LONG)
    await until(lambda: sandbox.running == 0)


async def test_whatever_ends_the_call_ends_the_program(tool: RunPython, sandbox: FakeSandbox) -> None:
    sandbox.script = [Execution(stdout=[b"1"], hold=asyncio.Event())]
    failing = await asyncio.gather(call(tool, Writer(KeyError())), return_exceptions=True)
    assert isinstance(failing[0], KeyError)
    await until(lambda: sandbox.running == 0)


def test_its_schema_names_what_it_reads() -> None:
    schema = json.loads(RUN_PYTHON.parameters_json_schema)
    assert schema["required"] == list(schema["properties"]) == ["code"]
