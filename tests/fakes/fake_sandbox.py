"""A SandboxService that runs nothing and says what a test scripts, over a real socket.

Programs are taken from `script`, one for each execution; when it is empty, `otherwise` answers. Sessions and their
files are kept in memory.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio
from ollamesh.sandbox.v1 import execution_pb2 as pb
from ollamesh.sandbox.v1 import sandbox_service_pb2 as service
from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import (
    SandboxServiceServicer,
    add_SandboxServiceServicer_to_server,
)

from services.common.errors import InvalidRequest, Violation
from services.common.grpc.around import Context, Interceptor
from services.common.grpc.caller import deadline
from services.common.grpc.errors import errors
from services.sandbox.errors import (
    ExecutionNotFound,
    FileNotFound,
    RequestIdReused,
    SessionBusy,
    SessionNotFound,
    SessionsNotSupported,
    TooManySessions,
)
from tests.fakes.fake_execution import Execution, Running

__all__ = ["Execution", "FakeSandbox"]

CHUNK_BYTES = 1 << 16  # Of files.
PAGE = 2  # So that lists have pages.


@dataclass(slots=True)
class FakeSandbox(SandboxServiceServicer):
    script: list[Execution] = field(default_factory=list)
    otherwise: Execution = field(default_factory=lambda: Execution(stdout=[b"42\n"]))
    specs: list[pb.ExecutionSpec] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)  # The id of each.
    authorizations: list[str] = field(default_factory=list)
    remaining_s: dict[str, float] = field(default_factory=dict)  # The deadline of the last call of a stream.
    target: str = ""
    executions: dict[str, Running] = field(default_factory=dict)
    sessions: dict[str, service.Session] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requested: dict[str, tuple[service.CreateSessionRequest, service.Session]] = field(default_factory=dict)
    session_count: int = 0  # That were made.
    sessions_max: int | None = None  # 0: this sandbox keeps none.
    capabilities: service.GetCapabilitiesResponse = field(default_factory=service.GetCapabilitiesResponse)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @classmethod
    @asynccontextmanager
    async def serving(cls) -> AsyncIterator["FakeSandbox"]:
        fake = cls()
        server = grpc.aio.server(interceptors=[Interceptor([errors("sandbox.ollamesh")], [deadline()])])
        add_SandboxServiceServicer_to_server(fake, server)
        fake.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield fake
        finally:
            await server.stop(None)

    @property
    def running(self) -> int:
        """Executions that have not ended."""
        return sum(not found.ended for found in self.executions.values())

    def forget(self) -> None:
        """Lose everything, as a replica does that is started anew."""
        for found in self.executions.values():
            self._keep(found.kill())
        for kept in (self.executions, self.sessions, self.files, self.requested):
            kept.clear()

    # ---- Executions --------------------------------------------------------------------------------

    async def Execute(
        self, request: service.ExecuteRequest, context: Context
    ) -> AsyncIterator[service.ExecuteResponse]:
        self.remaining_s["Execute"] = context.time_remaining() or 0.0
        found = self._start(f"e{len(self.specs) + 1}", request.spec, context)
        try:
            async for event in found.events(service.WatchExecutionRequest()):
                yield service.ExecuteResponse(event=event)
        finally:
            self._keep(found.kill())

    async def StartExecution(
        self, request: service.StartExecutionRequest, context: Context
    ) -> service.StartExecutionResponse:
        found = self.executions.get(request.execution_id)
        found = found or self._start(request.execution_id, request.spec, context)
        if found.spec != request.spec:
            raise RequestIdReused
        return service.StartExecutionResponse(execution=found.message())

    async def GetExecution(
        self, request: service.GetExecutionRequest, context: Context
    ) -> service.GetExecutionResponse:
        return service.GetExecutionResponse(execution=self._found(request.execution_id).message())

    async def WatchExecution(
        self, request: service.WatchExecutionRequest, context: Context
    ) -> AsyncIterator[service.WatchExecutionResponse]:
        self.remaining_s["WatchExecution"] = context.time_remaining() or 0.0
        async for event in self._found(request.execution_id).events(request):
            yield service.WatchExecutionResponse(event=event)

    async def SendInput(
        self, request: service.SendInputRequest, context: Context
    ) -> service.SendInputResponse:
        return service.SendInputResponse(next_offset=await self._found(request.execution_id).give(request))

    async def InterruptExecution(
        self, request: service.InterruptExecutionRequest, context: Context
    ) -> service.InterruptExecutionResponse:
        await self._found(request.execution_id).interrupt()
        return service.InterruptExecutionResponse()

    async def KillExecution(
        self, request: service.KillExecutionRequest, context: Context
    ) -> service.KillExecutionResponse:
        await (found := self._found(request.execution_id)).kill()
        return service.KillExecutionResponse(execution=found.message())

    # ---- Sessions and files ------------------------------------------------------------------------

    async def CreateSession(
        self, request: service.CreateSessionRequest, context: Context
    ) -> service.CreateSessionResponse:
        if (known := self.requested.get(request.request_id)) is not None:
            if known[0] != request:
                raise RequestIdReused
            return service.CreateSessionResponse(session=known[1])
        if self.sessions_max == 0:
            raise SessionsNotSupported
        if self.sessions_max is not None and len(self.sessions) >= self.sessions_max:
            raise TooManySessions
        self.session_count += 1
        session = service.Session(
            session_id=f"s{self.session_count}",
            profile=request.profile or "python",
            engine=request.engine or "fake",
            state=service.SESSION_STATE_IDLE,
            limits=request.limits,
        )
        session.create_time.GetCurrentTime()
        session.expire_time.FromSeconds(session.create_time.seconds + (request.idle_timeout.seconds or 600))
        self.sessions[session.session_id], self.files[session.session_id] = session, {}
        if request.request_id:
            self.requested[request.request_id] = request, session
        return service.CreateSessionResponse(session=session)

    async def GetSession(
        self, request: service.GetSessionRequest, context: Context
    ) -> service.GetSessionResponse:
        return service.GetSessionResponse(session=self._session(request.session_id))

    async def ListSessions(
        self, request: service.ListSessionsRequest, context: Context
    ) -> service.ListSessionsResponse:
        newest, start = list(self.sessions.values())[::-1], int(request.page_token or 0)
        more = str(start + PAGE) if start + PAGE < len(newest) else ""
        return service.ListSessionsResponse(sessions=newest[start : start + PAGE], next_page_token=more)

    async def DeleteSession(
        self, request: service.DeleteSessionRequest, context: Context
    ) -> service.DeleteSessionResponse:
        self.sessions.pop(request.session_id, None)
        for request_id, (_, session) in list(self.requested.items()):
            if session.session_id == request.session_id:
                del self.requested[request_id]
        return service.DeleteSessionResponse()

    async def PutFile(
        self, requests: AsyncIterator[service.PutFileRequest], context: Context
    ) -> service.PutFileResponse:
        header, data = (await anext(requests)).header, bytearray()
        async for request in requests:
            data += request.chunk
        if len(data) != header.size_bytes:
            raise InvalidRequest([Violation("chunk", "is not what the header announced", "chunk")])
        self._files(header.session_id)[header.path] = bytes(data)
        return service.PutFileResponse(file=service.File(path=header.path, size_bytes=len(data)))

    async def GetFile(
        self, request: service.GetFileRequest, context: Context
    ) -> AsyncIterator[service.GetFileResponse]:
        if (data := self._files(request.session_id).get(request.path)) is None:
            raise FileNotFound
        yield service.GetFileResponse(header=service.File(path=request.path, size_bytes=len(data)))
        for start in range(request.offset, len(data), CHUNK_BYTES):
            yield service.GetFileResponse(chunk=data[start : start + CHUNK_BYTES])

    async def ListFiles(
        self, request: service.ListFilesRequest, context: Context
    ) -> service.ListFilesResponse:
        """Of all folders, as the tests that use it make none."""
        files = sorted(self._files(request.session_id).items())
        page = [(path, data) for path, data in files if path > request.page_token]
        return service.ListFilesResponse(
            files=[service.File(path=path, size_bytes=len(data)) for path, data in page[:PAGE]],
            next_page_token=page[PAGE - 1][0] if len(page) > PAGE else "",
        )

    async def DeleteFile(
        self, request: service.DeleteFileRequest, context: Context
    ) -> service.DeleteFileResponse:
        self._files(request.session_id).pop(request.path, None)
        return service.DeleteFileResponse()

    async def GetCapabilities(
        self, request: service.GetCapabilitiesRequest, context: Context
    ) -> service.GetCapabilitiesResponse:
        return self.capabilities

    # ------------------------------------------------------------------------------------------------

    def _start(self, execution_id: str, spec: pb.ExecutionSpec, context: Context) -> Running:
        if spec.session_id:
            self._session(spec.session_id)
            others = (found for found in self.executions.values() if found.spec.session_id == spec.session_id)
            if any(not found.ended for found in others):
                raise SessionBusy
        metadata = dict(context.invocation_metadata() or ())
        self.authorizations.append(str(metadata.get("authorization", "")))
        self.specs.append(spec)
        self.begun.append(execution_id)
        script = self.script.pop(0) if self.script else self.otherwise
        found = self.executions[execution_id] = Running(execution_id, spec, script)
        self._keep(found.play())
        return found

    def _keep(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _found(self, execution_id: str) -> Running:
        if execution_id not in self.executions:
            raise ExecutionNotFound
        return self.executions[execution_id]

    def _session(self, session_id: str) -> service.Session:
        if session_id not in self.sessions:
            raise SessionNotFound
        return self.sessions[session_id]

    def _files(self, session_id: str) -> dict[str, bytes]:
        self._session(session_id)
        return self.files[session_id]
