"""The sandbox: programs, sessions that keep their state, and files; one method for each call."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar, Unpack

import grpc.aio
from ollamesh.client import capabilities, executions, sessions, transfers
from ollamesh.client.calls import Calls
from ollamesh.client.errors import CallError
from ollamesh.client.executions import Limits, limits_message
from ollamesh.client.feeding import feed
from ollamesh.client.sandbox_session import SandboxSession
from ollamesh.client.transfers import Content
from ollamesh.client.values import duration
from ollamesh.client.watching import watched
from ollamesh.sandbox.v1 import sandbox_service_pb2 as pb
from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import SandboxServiceStub

Request = TypeVar("Request")
Response = TypeVar("Response")

TRANSFER_DEADLINE_S = 600.0


class Sandbox:
    """Runs programs that nobody has read. It is `Client.sandbox`."""

    def __init__(
        self, calls: Calls, channel: grpc.aio.Channel, *, deadline_s: float, stream_deadline_s: float
    ) -> None:
        self._calls, self._stub = calls, SandboxServiceStub(channel)
        self._deadline_s, self._stream_deadline_s = deadline_s, stream_deadline_s

    async def capabilities(self) -> capabilities.Capabilities:
        """Tell engines, profiles and limits."""
        response = await self._call(self._stub.GetCapabilities, pb.GetCapabilitiesRequest())
        return capabilities.capabilities_of(response)

    # ---- Programs ----------------------------------------------------------------------------------

    async def execute(
        self,
        code: str,
        *,
        stdin: bytes | AsyncIterable[bytes] = b"",
        deadline_s: float | None = None,
        **options: Unpack[executions.Options],
    ) -> AsyncGenerator[executions.Event, None]:
        """Run a program and stream what it does. Leaving the stream kills it.

        It runs in a fresh jail, or in a session. `stdin` may go on while the program runs; what it raises
        kills the program and is raised here.
        """
        spec = executions.spec_of(code, stdin if isinstance(stdin, bytes) else b"", options)
        spec.stdin_open = not isinstance(stdin, bytes)
        limit_s = self._stream_deadline_s if deadline_s is None else deadline_s
        request = pb.ExecuteRequest(spec=spec)
        feeder: asyncio.Task[None] | None = None
        broken: list[Exception] = []
        try:
            responses = self._calls.stream(self._stub.Execute, request, deadline_s=limit_s)
            async with aclosing(responses):
                async for response in responses:
                    event = executions.event_of(response.event)
                    if isinstance(event, executions.Started) and not isinstance(stdin, bytes):
                        feeder = asyncio.create_task(self._feed_or_kill(event.execution_id, stdin, broken))
                    if event is not None:
                        yield event
            if broken:
                raise broken[0]
        finally:
            if feeder is not None:
                feeder.cancel()
                await asyncio.wait([feeder])

    async def run(
        self,
        code: str,
        *,
        stdin: bytes | AsyncIterable[bytes] = b"",
        deadline_s: float | None = None,
        **options: Unpack[executions.Options],
    ) -> executions.Completed:
        """Run a program to its end and return all that it told."""
        async with aclosing(self.execute(code, stdin=stdin, deadline_s=deadline_s, **options)) as events:
            return await executions.completed(events)

    async def start(
        self,
        code: str,
        *,
        execution_id: str | None = None,
        stdin: bytes = b"",
        stdin_open: bool = False,
        **options: Unpack[executions.Options],
    ) -> executions.Execution:
        """Run a program that goes on without a reader.

        With an `execution_id` of one's own, the same call again finds the same execution. With `stdin_open` its
        input goes on after `stdin`: see `feed` and `send_input`.
        """
        spec = executions.spec_of(code, stdin, options)
        spec.stdin_open = stdin_open
        request = pb.StartExecutionRequest(execution_id=execution_id or str(uuid.uuid4()), spec=spec)
        return executions.execution_of((await self._call(self._stub.StartExecution, request)).execution)

    async def get(self, execution_id: str) -> executions.Execution:
        """Tell how far an execution is."""
        request = pb.GetExecutionRequest(execution_id=execution_id)
        return executions.execution_of((await self._call(self._stub.GetExecution, request)).execution)

    async def watch(
        self,
        execution_id: str,
        *,
        stdout_offset: int = 0,
        stderr_offset: int = 0,
        result_count: int = 0,
        deadline_s: float | None = None,
    ) -> AsyncGenerator[executions.Event, None]:
        """Stream an execution from any byte of its output on, live or finished. Leaving it does nothing to the program.

        A lost connection is made anew, a few times and ever more patiently, and the stream goes on from the byte
        where it was.
        """
        start = pb.WatchExecutionRequest(
            execution_id=execution_id,
            stdout_offset=stdout_offset,
            stderr_offset=stderr_offset,
            result_count=result_count,
        )

        def opened(
            request: pb.WatchExecutionRequest, left_s: float
        ) -> AsyncGenerator[pb.WatchExecutionResponse, None]:
            return self._calls.stream(self._stub.WatchExecution, request, deadline_s=left_s)

        limit_s = self._stream_deadline_s if deadline_s is None else deadline_s
        async with aclosing(watched(opened, start, deadline_s=limit_s)) as events:
            async for told in events:
                if (event := executions.event_of(told)) is not None:
                    yield event

    async def send_input(self, execution_id: str, data: bytes, *, offset: int, end: bool = False) -> int:
        """Write to the standard input of a running execution, and end it if `end`; return where the next bytes belong.

        `offset` is how many bytes were sent before, after what it was started with; so a repeated call writes nothing
        twice.
        """
        request = pb.SendInputRequest(execution_id=execution_id, offset=offset, data=data, end=end)
        return (await self._call(self._stub.SendInput, request)).next_offset

    async def feed(self, execution_id: str, chunks: AsyncIterable[bytes], *, offset: int = 0) -> None:
        """Send `chunks` to the standard input as they come, and then its end."""
        await feed(
            lambda request: self._call(self._stub.SendInput, request), execution_id, chunks, offset=offset
        )

    async def interrupt(self, execution_id: str) -> None:
        """Send SIGINT, which the program may handle."""
        await self._call(
            self._stub.InterruptExecution, pb.InterruptExecutionRequest(execution_id=execution_id)
        )

    async def kill(self, execution_id: str) -> executions.Execution:
        """End an execution at once, and tell how it ended."""
        request = pb.KillExecutionRequest(execution_id=execution_id)
        return executions.execution_of((await self._call(self._stub.KillExecution, request)).execution)

    # ---- Sessions ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def session(
        self,
        *,
        profile: str = "",
        engine: str = "",
        limits: Limits | None = None,
        idle_timeout_s: float | None = None,
    ) -> AsyncIterator[SandboxSession]:
        """A session of one's own, deleted at the end. (If that cannot be said, its idleness ends it.)"""
        made = await self.create_session(
            profile=profile, engine=engine, limits=limits, idle_timeout_s=idle_timeout_s
        )
        try:
            yield SandboxSession(self, made.session_id)
        finally:
            with suppress(CallError):
                await self.delete_session(made.session_id)

    async def create_session(
        self,
        *,
        profile: str = "",
        engine: str = "",
        limits: Limits | None = None,
        idle_timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> sessions.Session:
        """Make a session. With a `request_id` of one's own, the same call again finds the same session."""
        request = pb.CreateSessionRequest(
            request_id=request_id or str(uuid.uuid4()),
            profile=profile,
            engine=engine,
            limits=None if limits is None else limits_message(limits),
            idle_timeout=duration(idle_timeout_s),
        )
        return sessions.session_of((await self._call(self._stub.CreateSession, request)).session)

    def open_session(self, session_id: str) -> SandboxSession:
        """A session that is there, to work in. It is not deleted by itself."""
        return SandboxSession(self, session_id)

    async def get_session(self, session_id: str) -> sessions.Session:
        """Describe a session."""
        request = pb.GetSessionRequest(session_id=session_id)
        return sessions.session_of((await self._call(self._stub.GetSession, request)).session)

    async def list_sessions(self) -> AsyncGenerator[sessions.Session, None]:
        """List the caller's sessions, newest first."""
        request = pb.ListSessionsRequest()
        while True:
            response = await self._call(self._stub.ListSessions, request)
            for session in response.sessions:
                yield sessions.session_of(session)
            if not response.next_page_token:
                return
            request = pb.ListSessionsRequest(page_token=response.next_page_token)

    async def delete_session(self, session_id: str) -> None:
        """End a session and forget its files. Idempotent."""
        await self._call(self._stub.DeleteSession, pb.DeleteSessionRequest(session_id=session_id))

    # ---- Files of a session ------------------------------------------------------------------------

    async def put_file(
        self,
        session_id: str,
        path: str,
        content: Content,
        *,
        size_bytes: int | None = None,
        deadline_s: float = TRANSFER_DEADLINE_S,
    ) -> sessions.File:
        """Write a file, whole or not at all: bytes, a local Path, or an iterator of `size_bytes` in all."""
        transfers.require_size(content, size_bytes)
        parts = transfers.parts_of(session_id, path, content, size_bytes)
        response = await self._calls.upload(self._stub.PutFile, parts, deadline_s=deadline_s)
        return sessions.file_of(response.file)

    async def read_file(
        self, session_id: str, path: str, *, offset: int = 0, deadline_s: float = TRANSFER_DEADLINE_S
    ) -> AsyncGenerator[bytes, None]:
        """Stream a file's bytes from `offset` on."""
        request = pb.GetFileRequest(session_id=session_id, path=path, offset=offset)
        responses = self._calls.stream(self._stub.GetFile, request, deadline_s=deadline_s)
        async with aclosing(responses):
            async for response in responses:
                if response.WhichOneof("part") == "chunk":
                    yield response.chunk

    async def get_file(self, session_id: str, path: str) -> bytes:
        """Return a file's bytes."""
        async with aclosing(self.read_file(session_id, path)) as pieces:
            return b"".join([piece async for piece in pieces])

    async def save_file(self, session_id: str, path: str, to: Path) -> None:
        """Write a file of the session to `to`, on this machine, whole or not at all."""
        async with aclosing(self.read_file(session_id, path)) as pieces:
            await transfers.write(pieces, to)

    async def list_files(self, session_id: str, path: str = "") -> AsyncGenerator[sessions.File, None]:
        """List what is in a folder, by name; in the session's own if none is named."""
        request = pb.ListFilesRequest(session_id=session_id, path=path)
        while True:
            response = await self._call(self._stub.ListFiles, request)
            for file in response.files:
                yield sessions.file_of(file)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def delete_file(self, session_id: str, path: str) -> None:
        """Remove a file, or a folder with all in it. Idempotent."""
        await self._call(self._stub.DeleteFile, pb.DeleteFileRequest(session_id=session_id, path=path))

    # ------------------------------------------------------------------------------------------------

    async def _call(
        self, method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request
    ) -> Response:
        return await self._calls.unary(method, request, deadline_s=self._deadline_s)

    async def _feed_or_kill(
        self, execution_id: str, chunks: AsyncIterable[bytes], broken: list[Exception]
    ) -> None:
        """Feed, and tell by `broken` what fails. A program must not wait for input that will never come."""
        try:
            await self.feed(execution_id, chunks)
        except Exception as error:  # noqa: BLE001 - It is raised by who reads.
            broken.append(error)
            with suppress(CallError):
                await self.kill(execution_id)
