"""The tools `read_file` and `write_file`: files of the thread's session of the sandbox, as text of bounded size."""

import asyncio
import codecs
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TypeGuard

import grpc.aio
from ollamesh.sandbox.v1 import sandbox_service_pb2 as pb

from services.agent.adapters.deadlines import until_s
from services.agent.adapters.sandbox_session import NO_THREAD, SandboxSessions, Seat
from services.agent.adapters.sandboxes import AWAY, refused
from services.agent.adapters.tool_specs import READ_CHARS_MAX, READ_FILE, WRITE_BYTES_MAX, WRITE_FILE
from services.agent.errors import ThreadNotFound
from services.agent.ports import CallContext, ToolResult, ToolSpec
from services.common.grpc.client import bearer, held

PATH_BYTES_MAX = 1024
READ_BYTES_MAX = 4 * READ_CHARS_MAX  # No character of UTF-8 takes more.
PIECE_BYTES = 1 << 18
RPC_S_MAX = 12.0  # Less than the tools' own time, so that the model learns why.
# What the sandbox says of a file or a name. It is the model's to mend.
OF_FILES = frozenset({"FILE_NOT_FOUND", "FILE_TOO_LARGE", "FILE_NOT_REGULAR", "INVALID_REQUEST"})
NO_PATH = "`path` has to be a text of 1 to 1024 bytes, relative to the folder in which programs run."
NO_OFFSET = "`offset_bytes` has to be a whole number from 0 on."
NO_CONTENT = f"`content` has to be text, of {WRITE_BYTES_MAX} bytes at most in UTF-8."
NO_SESSION = "Files cannot be kept between calls here."
TOO_LONG = "It did not finish in time."

Act = Callable[[Seat], Awaitable[ToolResult]]


class ReadFile:
    """Implements ports.Tool."""

    def __init__(self, sessions: SandboxSessions) -> None:
        self._sessions = sessions
        self.spec = READ_FILE

    async def call(self, arguments: Mapping[str, object], context: CallContext) -> ToolResult:
        path, offset = arguments.get("path"), arguments.get("offset_bytes", 0)
        if not _is_path(path):
            return _failed(NO_PATH)
        if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset < 1 << 62:
            return _failed(NO_OFFSET)
        request = pb.GetFileRequest(path=path, offset=offset)

        async def read(seat: Seat) -> ToolResult:
            request.session_id = seat.session_id
            size_bytes, data = 0, bytearray()
            metadata = bearer(context.token)
            with held(seat.sandbox.stub.GetFile(request, timeout=RPC_S_MAX, metadata=metadata)) as call:
                async for response in call:
                    size_bytes = response.header.size_bytes or size_bytes
                    data += response.chunk
                    if len(data) >= READ_BYTES_MAX:
                        break
            return _shown(path, offset, bytes(data[:READ_BYTES_MAX]), size_bytes)

        return await _in_session(self._sessions, self.spec, context, read)


class WriteFile:
    """Implements ports.Tool."""

    def __init__(self, sessions: SandboxSessions) -> None:
        self._sessions = sessions
        self.spec = WRITE_FILE

    async def call(self, arguments: Mapping[str, object], context: CallContext) -> ToolResult:
        path, data = arguments.get("path"), _encoded(arguments.get("content"))
        if not _is_path(path):
            return _failed(NO_PATH)
        if data is None or len(data) > WRITE_BYTES_MAX:
            return _failed(NO_CONTENT)

        async def write(seat: Seat) -> ToolResult:
            await seat.sandbox.stub.PutFile(
                _parts(seat.session_id, path, data), timeout=RPC_S_MAX, metadata=bearer(context.token)
            )
            return ToolResult(content=f"{len(data)} bytes were written to {path}.", failed=False)

        return await _in_session(self._sessions, self.spec, context, write)


async def _in_session(
    sessions: SandboxSessions, spec: ToolSpec, context: CallContext, act: Act
) -> ToolResult:
    async def told(seat: Seat) -> ToolResult:
        if not seat.session_id:
            return _failed(NO_SESSION)
        try:
            return await act(seat)
        except grpc.aio.AioRpcError as error:
            refusal = refused(error)
            if refusal.reason not in OF_FILES:
                raise
            return _failed(f"{refusal}.")

    ends_s = until_s(spec, context)
    try:
        async with asyncio.timeout_at(ends_s), sessions.alone(context.thread_id):
            seat, result = await sessions.using(context, await sessions.find(context), told)
    except TimeoutError:
        return _failed(TOO_LONG)
    except grpc.aio.AioRpcError as error:
        refusal = refused(error)
        return replace(_failed(f"The sandbox did not do it: {refusal}."), may_pass=refusal.reason in AWAY)
    except ThreadNotFound:
        return _failed(NO_THREAD)
    return replace(result, content=f"{seat.note}\n{result.content}") if seat.note else result


def _shown(path: str, offset: int, data: bytes, size_bytes: int) -> ToolResult:
    """What was read, and where it goes on."""
    lead = _lead(data) if offset else 0
    try:
        # What was cut off may end within a character.
        text = codecs.getincrementaldecoder("utf-8")().decode(data[lead:])
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return _failed(f"{path} is no text in UTF-8; it has {size_bytes} bytes.")
    shown = text[:READ_CHARS_MAX]
    end = offset + lead + len(shown.encode())
    if not shown:
        return ToolResult(content=f"(nothing there; {path} has {size_bytes} bytes)", failed=False)
    if end < size_bytes:
        shown += f"\n[It goes on at offset_bytes={end}; it has {size_bytes} bytes.]"
    return ToolResult(content=shown, failed=False)


def _lead(data: bytes) -> int:
    """How many bytes at the front belong to a character that begins before."""
    return next((n for n, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)


async def _parts(session_id: str, path: str, data: bytes) -> AsyncIterator[pb.PutFileRequest]:
    header = pb.PutFileRequest.Header(session_id=session_id, path=path, size_bytes=len(data))
    yield pb.PutFileRequest(header=header)
    for start in range(0, len(data), PIECE_BYTES):
        yield pb.PutFileRequest(chunk=data[start : start + PIECE_BYTES])


def _is_path(path: object) -> TypeGuard[str]:
    data = _encoded(path)
    return data is not None and 1 <= len(data) <= PATH_BYTES_MAX


def _encoded(text: object) -> bytes | None:
    """None for what cannot travel: models also write halves of surrogate pairs."""
    if not isinstance(text, str):
        return None
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


def _failed(why: str) -> ToolResult:
    return ToolResult(content=why, failed=True)
