"""A client of the sandbox's sessions, for tests of the real service."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollamesh.sandbox.v1 import execution_pb2 as pb
from ollamesh.sandbox.v1 import sandbox_service_pb2 as service_pb

from tests.service.sandbox_app import TIMEOUT_S, Call, Ran, Sandbox, Service, serving

CHUNK_BYTES = 1 << 20


@asynccontextmanager
async def ready(
    root: Path, uid: int | None = None, **settings: str
) -> AsyncIterator[tuple[Service, "Client"]]:
    with serving(root, uid=uid, settings={"OLLAMESH_SANDBOX_WARM_COUNT": "2", **settings}) as service:
        async with service.ready() as sandbox:
            yield service, Client(sandbox)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not holds():
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Client:
    sandbox: Sandbox

    async def ask(self, method: str, **fields: Any) -> Any:
        """One unary call."""
        request = getattr(service_pb, f"{method}Request")(**fields)
        call = getattr(self.sandbox.stub, method)
        return await call(request, timeout=TIMEOUT_S, metadata=self.sandbox.metadata)

    async def session(self, **fields: Any) -> str:
        session_id: str = (await self.ask("CreateSession", **fields)).session.session_id
        return session_id

    async def described(self, session_id: str) -> service_pb.Session:
        found: service_pb.Session = (await self.ask("GetSession", session_id=session_id)).session
        return found

    async def idle(self, session_id: str) -> service_pb.Session:
        """The session, once nothing runs in it."""
        async with asyncio.timeout(TIMEOUT_S):
            while (found := await self.described(session_id)).state != service_pb.SESSION_STATE_IDLE:
                await asyncio.sleep(0.01)
        return found

    def begin(self, session_id: str, code: str, **spec: Any) -> Call:
        request = service_pb.ExecuteRequest(spec=pb.ExecutionSpec(code=code, session_id=session_id, **spec))
        call: Call = self.sandbox.stub.Execute(request, timeout=TIMEOUT_S, metadata=self.sandbox.metadata)
        return call

    async def run(self, session_id: str, code: str, **spec: Any) -> Ran:
        ran = Ran()
        async for response in self.begin(session_id, code, **spec):
            ran.events.append(response.event)
        return ran

    async def begun(self, session_id: str, code: str, **spec: Any) -> Call:
        """A call whose program has printed something."""
        call = self.begin(session_id, code, **spec)
        async for response in call:
            if response.event.HasField("stdout"):
                return call
        raise AssertionError("the program printed nothing")

    async def put(self, session_id: str, path: str, data: bytes) -> service_pb.File:
        def parts() -> Iterator[service_pb.PutFileRequest]:
            header = service_pb.PutFileRequest.Header(session_id=session_id, path=path, size_bytes=len(data))
            yield service_pb.PutFileRequest(header=header)
            for at in range(0, len(data), CHUNK_BYTES):
                yield service_pb.PutFileRequest(chunk=data[at : at + CHUNK_BYTES])

        answer = await self.sandbox.stub.PutFile(parts(), timeout=TIMEOUT_S, metadata=self.sandbox.metadata)
        file: service_pb.File = answer.file
        return file

    async def get(self, session_id: str, path: str, offset: int = 0) -> bytes:
        request = service_pb.GetFileRequest(session_id=session_id, path=path, offset=offset)
        call = self.sandbox.stub.GetFile(request, timeout=TIMEOUT_S, metadata=self.sandbox.metadata)
        return b"".join([part.chunk async for part in call])

    async def names(self, session_id: str, path: str = "") -> list[str]:
        return [file.path for file in (await self.ask("ListFiles", session_id=session_id, path=path)).files]
