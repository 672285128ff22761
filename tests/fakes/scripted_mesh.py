"""A mesh that answers what a test scripts, over a real socket and through the services' own call path.

Requests are validated and failures are packed as the real services do it, so a client that gets along
with this one has seen real statuses and real details. Tokens are plain strings: the mesh knows those that
it issued, and refuses them once they have lived for `token_lifetime_s`.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import grpc.aio
from ollamesh.agent.v1.agent_service_pb2_grpc import (
    AgentServiceServicer,
    add_AgentServiceServicer_to_server,
)
from ollamesh.auth.v1.auth_service_pb2 import (
    ExchangeTokenRequest,
    ExchangeTokenResponse,
    LoginRequest,
    LoginResponse,
    Tokens,
)
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceServicer, add_AuthServiceServicer_to_server
from ollamesh.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)
from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import (
    SandboxServiceServicer,
    add_SandboxServiceServicer_to_server,
)

from services.common.errors import Kind, MeshError, TokenExpired, TokenInvalid
from services.common.grpc.around import Around, Context, Interceptor, Rest
from services.common.grpc.caller import deadline
from services.common.grpc.errors import errors

Unary = Callable[[Any, Context], Awaitable[Any]]
Stream = Callable[[Any, Context], AsyncIterator[Any]]

USERNAME, PASSWORD = "admin", "correct horse"
CLIENT_ID, CLIENT_SECRET = "robot", "battery staple"
PUBLIC = {"Login", "ExchangeToken"}
UNARY = {
    "AuthService": (
        *("GetCaller", "CreateApiKey", "ListApiKeys", "RevokeApiKey", "RotateSigningKey"),
        *("GetQuota", "SetQuota"),
        *("CreateUser", "ListUsers", "SetRole", "SetProject", "SetPassword", "DisableUser", "EnableUser"),
        *("CreateOrganization", "ListOrganizations", "CreateProject", "ListProjects"),
        *("CreateServiceAccount", "ListServiceAccounts", "DisableServiceAccount"),
        *("ListAuditEvents", "VerifyAuditLog", "PutSecret", "ListSecrets", "DeleteSecret", "ResealSecrets"),
    ),
    "InferenceService": (
        "Embed",
        "ListModels",
        "GetFleet",
        "DeleteModel",
        "CopyModel",
        "LoadModel",
        "UnloadModel",
        "CancelStream",
        *("CreateBatch", "GetBatch", "ListBatches", "CancelBatch"),
    ),
    "AgentService": (
        *("CreateThread", "StartRun", "StartRuns", "CancelRun", "GetRun", "ListRuns"),
        *("SubmitApproval", "ListTools"),
    ),
    "SandboxService": (
        *("StartExecution", "GetExecution", "SendInput", "InterruptExecution", "KillExecution"),
        *("CreateSession", "GetSession", "ListSessions", "DeleteSession"),
        *("PutFile", "ListFiles", "DeleteFile", "GetCapabilities"),
    ),
}
STREAMS = {
    "InferenceService": ("Chat", "ResumeStream", "PullModel", "WatchFleet", "StreamBatchResults"),
    "AgentService": ("WatchRun",),
    "SandboxService": ("Execute", "WatchExecution", "GetFile"),
}


class CredentialsInvalid(MeshError):
    kind, reason = Kind.UNAUTHENTICATED, "CREDENTIALS_INVALID"
    message = "the name or the password is wrong"


class Unavailable(MeshError):
    kind, reason = Kind.UNAVAILABLE, "STORE_UNAVAILABLE"
    message = "the store does not answer"


class ScriptedMesh:
    """Set `unary[method]` and `streams[method]` to what shall answer; what is not set is UNIMPLEMENTED."""

    def __init__(self) -> None:
        self.unary: dict[str, Unary] = {}
        self.streams: dict[str, Stream] = {}
        self.token_lifetime_s = 600.0
        self.login_delay_s = 0.0
        self.login_failures: list[MeshError] = []  # Raised by the next logins, one each.
        self.logins: list[LoginRequest | ExchangeTokenRequest] = []
        self.calls: list[str] = []  # Every call that was let through, by method.
        self.remaining_s: dict[str, float] = {}  # The deadline that the last call of a method had left.
        self.left = asyncio.Event()  # Set when a caller has left a stream early.
        self.port = 0
        self._expiry_s: dict[str, float] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer_by(self, servicer: SandboxServiceServicer) -> None:
        """Have every call of the sandbox answered by `servicer`."""
        self.unary |= {method: getattr(servicer, method) for method in UNARY["SandboxService"]}
        self.streams |= {method: getattr(servicer, method) for method in STREAMS["SandboxService"]}

    def issue(self) -> Tokens:
        token = f"token-{len(self._expiry_s) + 1}"
        self._expiry_s[token] = time.time() + self.token_lifetime_s
        tokens = Tokens(access_token=token)
        tokens.expire_time.FromMilliseconds(round(self._expiry_s[token] * 1000))
        return tokens

    def expire_all(self) -> None:
        """From now on every token is refused, whatever its owner was told."""
        self._expiry_s = dict.fromkeys(self._expiry_s, 0.0)

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator["ScriptedMesh"]:
        server = grpc.aio.server(
            interceptors=[Interceptor([_domains()], [deadline(), self._caller])],
            options=[("grpc.so_reuseport", 0)],
        )
        servicer = _servicer(self)
        add_AuthServiceServicer_to_server(servicer, server)
        add_AgentServiceServicer_to_server(servicer, server)
        add_InferenceServiceServicer_to_server(servicer, server)
        add_SandboxServiceServicer_to_server(servicer, server)
        self.port = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    @contextmanager
    def serving_in_a_thread(self) -> Iterator["ScriptedMesh"]:
        """For tests whose own thread is taken, as by a command line that runs to its end."""
        started = threading.Event()
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()

        async def serve() -> None:
            self.left = asyncio.Event()
            async with self.serving():
                started.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
        thread.start()
        assert started.wait(10)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
            loop.close()

    async def _caller(self, method: str, context: Context) -> None:
        name = method.rpartition("/")[2]
        if name not in PUBLIC:
            self._check(dict(context.invocation_metadata() or ()))
        self.calls.append(name)
        self.remaining_s[name] = context.time_remaining() or 0.0

    def _check(self, metadata: Mapping[str, str | bytes]) -> None:
        expires_at_s = self._expiry_s.get(str(metadata.get("authorization", "")).removeprefix("Bearer "))
        if expires_at_s is None:
            raise TokenInvalid
        if expires_at_s < time.time():
            raise TokenExpired


def _domains() -> Around:
    """As `errors`, with the domain of whichever service is called."""
    known = {name: errors(f"{name}.ollamesh") for name in ("auth", "agent", "inference", "sandbox")}

    async def around(method: str, context: Context, rest: Rest) -> object:
        return await known[method.split(".")[1]](method, context, rest)

    return around


class _Servicer(AuthServiceServicer, AgentServiceServicer, InferenceServiceServicer, SandboxServiceServicer):
    def __init__(self, mesh: ScriptedMesh) -> None:
        self._mesh = mesh

    async def Login(self, request: LoginRequest, context: Context) -> LoginResponse:
        await self._log_in(request, (request.username, request.password) == (USERNAME, PASSWORD))
        return LoginResponse(tokens=self._mesh.issue())

    async def ExchangeToken(self, request: ExchangeTokenRequest, context: Context) -> ExchangeTokenResponse:
        grant = request.client_credentials
        await self._log_in(request, (grant.client_id, grant.client_secret) == (CLIENT_ID, CLIENT_SECRET))
        return ExchangeTokenResponse(tokens=self._mesh.issue())

    async def _log_in(self, request: LoginRequest | ExchangeTokenRequest, good: bool) -> None:  # noqa: FBT001
        self._mesh.logins.append(request)
        await asyncio.sleep(self._mesh.login_delay_s)
        if self._mesh.login_failures:
            raise self._mesh.login_failures.pop(0)
        if not good:
            raise CredentialsInvalid


def _servicer(mesh: ScriptedMesh) -> Any:
    servicer: Any = _Servicer(mesh)
    for method in (method for methods in UNARY.values() for method in methods):
        setattr(servicer, method, _unary(mesh, method))
    for method in (method for methods in STREAMS.values() for method in methods):
        setattr(servicer, method, _stream(mesh, method))
    return servicer


def _unary(mesh: ScriptedMesh, method: str) -> Unary:
    async def answer(request: Any, context: Context) -> Any:
        if method not in mesh.unary:
            raise NotImplementedError
        return await mesh.unary[method](request, context)

    return answer


def _stream(mesh: ScriptedMesh, method: str) -> Stream:
    async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
        if method not in mesh.streams:
            raise NotImplementedError
        finished = False
        try:
            async for response in mesh.streams[method](request, context):
                yield response
            finished = True
        except MeshError:
            finished = True
            raise
        finally:
            if not finished:
                mesh.left.set()

    return answer
