"""The RPCs of sessions and files over a real socket, on jails that do as they are told."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from ollamesh.sandbox.v1 import sandbox_service_pb2 as pb
from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import (
    SandboxServiceStub,
    add_SandboxServiceServicer_to_server,
)
from prometheus_client import CollectorRegistry

from services.common.grpc import caller
from services.common.grpc.around import Context, Interceptor
from services.common.grpc.caller import deadline
from services.common.grpc.errors import errors
from services.common.tokens import Caller, Role
from services.sandbox.catalogue import Catalogue
from services.sandbox.core.limits import MIB, Caps, Limits
from services.sandbox.core.owners import Owner
from services.sandbox.limits_config import ROLES, RoleCaps
from services.sandbox.rpc.files import FileMethods
from services.sandbox.rpc.sessions import SessionMethods
from services.sandbox.servicer import SandboxServicer
from services.sandbox.sessions import Sessions, SessionSettings
from services.sandbox.sessions_told import SessionsTold
from tests.fakes.fake_jails import FakeJails
from tests.fakes.fake_session_jail import FakeSessionJail
from tests.fakes.trail import KeptTrail

TIMEOUT_S = 20.0
FILE_BYTES_MAX = 2 * MIB
_LIMITS = Caps(usual=Limits(), most=Limits())
CAPS = RoleCaps(Limits(), dict.fromkeys(ROLES, _LIMITS))


class Free:
    """Memory without end."""

    async def held(self) -> None: ...

    def give_back(self) -> None: ...


def place(_owner: Owner, _size_bytes: int) -> Free:
    return Free()


async def recognise(method: str, context: Context) -> None:
    """Callers say who they are."""
    user_id, _, organization_id = str(dict(context.invocation_metadata() or ())["who"]).partition("@")
    known = Caller(
        user_id=user_id,
        role=Role.USER,
        organization_id=organization_id,
        project_id="p",
        client_id="c",
        scopes=frozenset({"sandbox"}),
        token_id="t",
        expires_at_s=2**40,
        token="",
    )
    caller._caller.set(known)


@dataclass
class Rpcs:
    """A client of it, and all that is behind it."""

    sessions: Sessions
    jails: FakeJails
    trail: KeptTrail
    registry: CollectorRegistry
    channel: grpc.aio.Channel
    calls: list[Any] = field(default_factory=list)

    def call(self, method: str, request: Any, who: str = "ada@o", timeout_s: float = TIMEOUT_S) -> Any:
        stub: Any = SandboxServiceStub(self.channel)
        return getattr(stub, method)(request, timeout=timeout_s, metadata=(("who", who),))

    async def session(self, who: str = "ada@o", **fields: Any) -> pb.Session:
        answer = await self.call("CreateSession", pb.CreateSessionRequest(**fields), who)
        found: pb.Session = answer.session
        return found

    async def get(self, session_id: str, who: str = "ada@o") -> pb.Session:
        answer = await self.call("GetSession", pb.GetSessionRequest(session_id=session_id), who)
        found: pb.Session = answer.session
        return found

    async def put(
        self,
        session_id: str,
        path: str,
        chunks: Iterable[bytes],
        *,
        size_bytes: int | None = None,
        who: str = "ada@o",
    ) -> pb.File:
        parts = [pb.PutFileRequest(chunk=chunk) for chunk in chunks]
        size_bytes = sum(len(part.chunk) for part in parts) if size_bytes is None else size_bytes
        answer = await self.call("PutFile", iter([header(session_id, path, size_bytes), *parts]), who)
        found: pb.File = answer.file
        return found

    async def read(
        self, session_id: str, path: str, offset: int = 0, who: str = "ada@o"
    ) -> tuple[pb.File, list[bytes]]:
        request = pb.GetFileRequest(session_id=session_id, path=path, offset=offset)
        parts = [part async for part in self.call("GetFile", request, who)]
        assert [part.WhichOneof("part") for part in parts] == ["header", *["chunk"] * (len(parts) - 1)]
        return parts[0].header, [part.chunk for part in parts[1:]]

    async def listed(self, session_id: str, path: str = "", **fields: Any) -> pb.ListFilesResponse:
        request = pb.ListFilesRequest(session_id=session_id, path=path, **fields)
        answer: pb.ListFilesResponse = await self.call("ListFiles", request)
        return answer

    @property
    def jail(self) -> FakeSessionJail:
        return self.jails.opened[-1]

    @property
    def acts(self) -> list[tuple[str, str, Mapping[str, str]]]:
        return [(each.action.name, each.reason, each.details) for each in self.trail.events]


def header(session_id: str, path: str, size_bytes: int) -> pb.PutFileRequest:
    return pb.PutFileRequest(
        header=pb.PutFileRequest.Header(session_id=session_id, path=path, size_bytes=size_bytes)
    )


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Rpcs]:
    jails, trail, registry = FakeJails(), KeptTrail(), CollectorRegistry()
    told = SessionsTold(registry, trail)
    sessions = Sessions(Catalogue([jails]), SessionSettings(**settings), reserve=place, told=told)
    told.count_by(lambda: sessions.count)
    server = grpc.aio.server(
        interceptors=[Interceptor([errors("sandbox.ollamesh")], [deadline(), recognise])]
    )
    servicer = SandboxServicer(
        SessionMethods(sessions, CAPS), FileMethods(sessions, told, file_bytes_max=FILE_BYTES_MAX)
    )
    add_SandboxServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    task = asyncio.create_task(sessions.run())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Rpcs(sessions, jails, trail, registry, channel)
    await server.stop(None)
    task.cancel()
    await asyncio.wait([task])


@dataclass(frozen=True)
class Refusal:
    code: str
    reason: str
    facts: Mapping[str, str]
    fields: tuple[str, ...]


async def refusal(call: Any) -> Refusal:
    """What a call is refused with."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            if hasattr(call, "__aiter__"):
                async for _ in call:
                    pass
            else:
                await call
    except grpc.aio.AioRpcError as error:
        raw = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
        info, bad = ErrorInfo(), BadRequest()
        for detail in Status.FromString(bytes(raw)).details:
            _ = detail.Unpack(info) or detail.Unpack(bad)
        fields = tuple(violation.field for violation in bad.field_violations)
        return Refusal(error.code().name, info.reason, dict(info.metadata), fields)
    raise AssertionError("it succeeded")
