"""How MCP servers are reached: the SDK's streamable HTTP, and programs over stdio.

The SDK's own way of starting programs reads lines of any length, and leaves a program behind when we are killed. Here
a line has a bound, and the kernel ends the program with us (services/common/launch.py). It is started without anything
running between fork and exec, for gRPC's threads do not survive that.

Over HTTP nothing is derived from what a server or a model says: the URL is the operator's, redirects and proxies of the
environment are not followed, and a body has a bound.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import anyio
import httpx2
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client._transport import TransportStreams
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from services.agent.core.mcp_servers import McpServer
from services.common.launch import Guard

MESSAGE_BYTES_MAX = 1_048_576
CONNECT_S_MAX = 5.0
READ_S_MAX = 300.0  # A call has a deadline of its own, which is shorter.
ENDS_WITHIN_S, POLL_S = 2.0, 0.02  # Once its input is closed, as MCP asks; then it is killed.

_GUARD = Guard(keeps_stdin=True)
_ENVIRONMENT = {"PATH": os.defpath, "HOME": "/", "LANG": "C.UTF-8"}


class RefusedError(Exception):
    """The server answered with what is not taken."""


def transport(server: McpServer) -> AbstractAsyncContextManager[TransportStreams]:
    """Streams to the server, for as long as the block runs. Raises OSError where it cannot be started."""
    return _over_stdio(server) if server.command else _over_http(server)


@asynccontextmanager
async def _over_http(server: McpServer) -> AsyncIterator[TransportStreams]:
    headers = {}
    if server.bearer_token_file:
        token = await asyncio.to_thread(Path(server.bearer_token_file).read_text)
        headers["authorization"] = f"Bearer {token.strip()}"
    timeout = httpx2.Timeout(CONNECT_S_MAX, read=READ_S_MAX)
    async with (
        httpx2.AsyncClient(
            headers=headers,
            timeout=timeout,
            trust_env=False,
            follow_redirects=False,
            max_redirects=0,
            event_hooks={"response": [_take_no_redirect]},
            transport=_Bounded(httpx2.AsyncHTTPTransport(trust_env=False)),
        ) as client,
        streamable_http_client(
            server.url, http_client=client, max_sse_event_size=MESSAGE_BYTES_MAX
        ) as streams,
    ):
        yield streams


async def _take_no_redirect(response: httpx2.Response) -> None:
    if response.has_redirect_location:
        raise RefusedError("a redirect")


class _Bounded(httpx2.AsyncBaseTransport):
    """Bodies end with an error at the bound, unless they are streams of events, whose events have one each."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        if not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _BoundedStream(response.stream)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._inner:
            size += len(part)
            if size > MESSAGE_BYTES_MAX:
                raise RefusedError("a body that is too long")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


@asynccontextmanager
async def _over_stdio(server: McpServer) -> AsyncIterator[TransportStreams]:
    async with _program(server) as (reader, writer):
        heard, read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        write_stream, said = anyio.create_memory_object_stream[SessionMessage](0)
        async with heard, read_stream, write_stream, said, anyio.create_task_group() as tasks:
            tasks.start_soon(_hear, reader, heard)
            tasks.start_soon(_say, writer, said)
            try:
                yield read_stream, write_stream
            finally:
                tasks.cancel_scope.cancel()


@asynccontextmanager
async def _program(server: McpServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """What it says, and what it is told, for as long as the block runs; then it is ended, with all it has started."""
    loop, process = asyncio.get_running_loop(), _started(server)
    try:
        reader = asyncio.StreamReader(limit=MESSAGE_BYTES_MAX)
        hears, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
        says, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, process.stdin)
        try:
            yield reader, asyncio.StreamWriter(says, protocol, None, loop)
        finally:
            says.abort()  # The end of its input: it is to end.
            hears.close()
    finally:
        with anyio.CancelScope(shield=True):
            await _ended(process)


def _started(server: McpServer) -> "subprocess.Popen[bytes]":
    """Not by the event loop: uvloop would fork, where this forks no memory and runs none of gRPC's handlers."""
    return subprocess.Popen(  # noqa: S603 - The operator's program.
        _GUARD.command(server.command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # It may hold what users said.
        env={**_ENVIRONMENT, **server.env},
        start_new_session=True,
        bufsize=0,
    )


async def _hear(
    reader: asyncio.StreamReader, heard: "MemoryObjectSendStream[SessionMessage | Exception]"
) -> None:
    """Ends with the program, or with a line that is too long: then nothing more of it is believed."""
    async with heard:
        with suppress(ValueError, ConnectionError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while line := await reader.readline():
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError as error:
                    await heard.send(error)
                else:
                    await heard.send(SessionMessage(message))


async def _say(writer: asyncio.StreamWriter, said: "MemoryObjectReceiveStream[SessionMessage]") -> None:
    with suppress(ConnectionError):
        async for message in said:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            writer.write(text.encode() + b"\n")
            await writer.drain()


async def _ended(process: "subprocess.Popen[bytes]") -> None:
    """Ended, with all that it has started."""
    for _ in range(int(ENDS_WITHIN_S / POLL_S)):
        if not _is_alive(process.pid):
            break
        await asyncio.sleep(POLL_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # Not waited for yet: the number is still its own.
    process.wait()


def _is_alive(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
