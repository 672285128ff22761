"""The tools that read and write files of a thread's session."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import grpc.aio
import pytest

from services.agent.adapters.sandbox_session import GONE, SandboxSessions
from services.agent.adapters.sandboxes import Sandboxes
from services.agent.adapters.session_files import (
    NO_CONTENT,
    NO_OFFSET,
    NO_PATH,
    NO_SESSION,
    ReadFile,
    WriteFile,
)
from services.agent.adapters.tool_specs import READ_CHARS_MAX, WRITE_BYTES_MAX
from services.agent.core.events import Channel
from services.agent.core.ids import Owner, ThreadId
from services.agent.ports import CallContext, ToolResult
from tests.fakes.fake_sandbox import FakeSandbox
from tests.fakes.thread_sessions import FakeThreadSessions


@dataclass
class Tools:
    sandbox: FakeSandbox
    reads: ReadFile
    writes: WriteFile

    async def read(self, **arguments: object) -> ToolResult:
        return await self.reads.call(arguments, context())

    async def write(self, **arguments: object) -> ToolResult:
        return await self.writes.call(arguments, context())


def context() -> CallContext:
    async def write(channel: Channel, text: str) -> None:
        raise AssertionError("files write nothing while they are read")

    return CallContext(
        deadline_s=asyncio.get_running_loop().time() + 30,
        owner=Owner("o", "ann"),
        thread_id=ThreadId(UUID(int=1)),
        key="run:0",
        write=write,
        token="t",
    )


@pytest.fixture
async def tools() -> AsyncIterator[Tools]:
    async with FakeSandbox.serving() as fake, grpc.aio.insecure_channel(fake.target) as channel:
        sessions = SandboxSessions(Sandboxes({fake.target: channel}), FakeThreadSessions())
        yield Tools(fake, ReadFile(sessions), WriteFile(sessions))


async def test_what_is_written_is_read(tools: Tools) -> None:
    text = "naïve 👩‍🚀\r\n" * 30_000  # In several pieces.
    written = await tools.write(path="notes/a.txt", content=text)
    assert (written.failed, written.content) == (
        False,
        f"{len(text.encode())} bytes were written to notes/a.txt.",
    )
    assert tools.sandbox.files["s1"]["notes/a.txt"] == text.encode()
    assert (await tools.write(path="notes/a.txt", content="")).failed is False
    assert await tools.read(path="notes/a.txt") == ToolResult(
        content="(nothing there; notes/a.txt has 0 bytes)", failed=False
    )


async def test_a_long_file_is_read_in_parts(tools: Tools) -> None:
    text = "".join(f"{n}é👩‍🚀" for n in range(READ_CHARS_MAX // 2))
    await tools.write(path="a", content=text)
    size_bytes, read, offset = len(text.encode()), "", 0
    while True:
        result = await tools.read(path="a", offset_bytes=offset)
        part, mark, rest = result.content.partition("\n[It goes on at offset_bytes=")
        read += part
        if not mark:
            break
        assert rest.endswith(f"; it has {size_bytes} bytes.]")
        offset = int(rest.partition(";")[0])
    assert read == text


async def test_an_offset_within_a_character_begins_with_the_next_one(tools: Tools) -> None:
    await tools.write(path="a", content="👩b")
    assert [(await tools.read(path="a", offset_bytes=n)).content for n in range(6)] == [
        "👩b",
        "b",
        "b",
        "b",
        "b",
        "(nothing there; a has 5 bytes)",
    ]


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n", b"text\0", b"\xff\xfe", b"caf\xe9 noir"])
async def test_what_is_no_text_is_told_as_such(tools: Tools, data: bytes) -> None:
    await tools.write(path="a", content="")
    tools.sandbox.files["s1"]["b"] = data
    assert await tools.read(path="b") == ToolResult(
        content=f"b is no text in UTF-8; it has {len(data)} bytes.", failed=True
    )


async def test_what_the_sandbox_refuses_is_told(tools: Tools) -> None:
    result = await tools.read(path="nothing")
    assert result == ToolResult(content="the session has no such file (FILE_NOT_FOUND).", failed=True)


async def test_files_of_a_session_that_is_gone_are_gone(tools: Tools) -> None:
    await tools.write(path="a", content="b")
    tools.sandbox.forget()
    result = await tools.read(path="a")
    assert result == ToolResult(
        content=f"{GONE}\nthe session has no such file (FILE_NOT_FOUND).", failed=True
    )


async def test_without_sessions_there_are_no_files(tools: Tools) -> None:
    tools.sandbox.sessions_max = 0
    for result in (await tools.write(path="a", content="b"), await tools.read(path="a")):
        assert result.failed
        assert result.content.endswith(NO_SESSION)


@pytest.mark.parametrize("path", [None, "", 3, "a" * 1025, "é" * 513, "\ud800", ["a"]])
async def test_what_is_no_path_goes_nowhere(tools: Tools, path: object) -> None:
    refused = ToolResult(content=NO_PATH, failed=True)
    assert await tools.read(path=path) == await tools.write(path=path, content="x") == refused
    assert tools.sandbox.sessions == {}


@pytest.mark.parametrize(
    "content", [None, 3, "\ud800", "x" * (WRITE_BYTES_MAX + 1), "é" * (WRITE_BYTES_MAX // 2 + 1)]
)
async def test_what_is_no_content_is_not_written(tools: Tools, content: object) -> None:
    assert await tools.write(path="a", content=content) == ToolResult(content=NO_CONTENT, failed=True)
    assert tools.sandbox.sessions == {}


@pytest.mark.parametrize("offset", [-1, 1.5, "0", True, 1 << 62])
async def test_what_is_no_offset_is_told(tools: Tools, offset: object) -> None:
    assert await tools.read(path="a", offset_bytes=offset) == ToolResult(content=NO_OFFSET, failed=True)
