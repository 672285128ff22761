"""The sandbox service in a process of its own, with real jails, behind a real socket."""

import asyncio
import atexit
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from google.api.httpbody_pb2 import HttpBody
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ollamesh.auth.v1.auth_service_pb2 import (
    RecordAuditEventsRequest,
    RecordAuditEventsResponse,
    RevocationHeartbeat,
    RevocationSnapshot,
    WatchRevocationsRequest,
    WatchRevocationsResponse,
)
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceServicer, add_AuthServiceServicer_to_server
from ollamesh.auth.v1.oauth_service_pb2 import GetJwksRequest
from ollamesh.auth.v1.oauth_service_pb2_grpc import OAuthServiceServicer, add_OAuthServiceServicer_to_server
from ollamesh.sandbox.v1 import execution_pb2 as pb
from ollamesh.sandbox.v1.sandbox_service_pb2 import (
    ExecuteRequest,
    ExecuteResponse,
    GetCapabilitiesRequest,
    GetCapabilitiesResponse,
)
from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import SandboxServiceStub

from deploy.local.settings import Settings
from services.common.grpc.revocations import HEARTBEAT_EVERY_S
from services.sandbox import rootfs
from services.sandbox.rootfs import trees

Call = grpc.aio.UnaryStreamCall[ExecuteRequest, ExecuteResponse]

REPOSITORY = Path(__file__).parents[2]
ORDINARY_UID = 65534
ISSUER = "http://ollamesh"
TIMEOUT_S = 30
SECRET = "must-not-be-seen-inside"


class Authority(OAuthServiceServicer, AuthServiceServicer):
    """Signs tokens, and serves the key that proves them."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        document = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key()))
        self._jwks = json.dumps({"keys": [{**document, "kid": "1", "alg": "ES256"}]}).encode()

    def GetJwks(self, request: GetJwksRequest, context: grpc.ServicerContext) -> HttpBody:
        return HttpBody(content_type="application/json", data=self._jwks)

    def WatchRevocations(
        self, request: WatchRevocationsRequest, context: grpc.ServicerContext
    ) -> Iterator[WatchRevocationsResponse]:
        """Nothing is revoked here, and the service has to hear it."""
        yield WatchRevocationsResponse(snapshot=RevocationSnapshot(complete=True))
        while context.is_active():
            time.sleep(HEARTBEAT_EVERY_S)
            yield WatchRevocationsResponse(heartbeat=RevocationHeartbeat())

    def RecordAuditEvents(
        self, request: RecordAuditEventsRequest, context: grpc.ServicerContext
    ) -> RecordAuditEventsResponse:
        """Without a store; else the service would tell them again and again."""
        return RecordAuditEventsResponse()

    def token(self, user_id: str = "ada") -> str:
        now_s = int(time.time())
        claims: dict[str, object] = {"iss": ISSUER, "aud": ["sandbox"], "sub": user_id, "user_id": user_id}
        claims |= {"role": "user", "org": "o", "project": "p", "client_id": "c", "scope": "sandbox"}
        claims |= {"iat": now_s, "nbf": now_s, "exp": now_s + 600, "jti": secrets.token_hex(8)}
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": "1", "typ": "at+jwt"})


@contextmanager
def authority() -> Iterator[tuple[Authority, str]]:
    """An authority and where it is reached."""
    made = Authority()
    server = grpc.server(ThreadPoolExecutor(4))
    add_AuthServiceServicer_to_server(made, server)
    add_OAuthServiceServicer_to_server(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield made, f"127.0.0.1:{port}"
    server.stop(None).wait()


@cache
def built_root(profile: str = "python") -> Path:
    """A root that every user can reach, made once for all tests of this process of what the machine has."""
    built = Settings.from_env().cache / "sandbox" / profile
    rootfs.build(built)
    trees.link(built, root := _reachable() / profile)
    return root


@cache
def _reachable() -> Path:
    parent = Path(tempfile.mkdtemp(prefix="sandbox-root-"))
    atexit.register(shutil.rmtree, parent)
    parent.chmod(0o755)
    return parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A running service."""

    process: "subprocess.Popen[bytes]"
    target: str
    authority: Authority

    @asynccontextmanager
    async def connected(self, user_id: str = "ada") -> AsyncIterator["Sandbox"]:
        async with grpc.aio.insecure_channel(self.target) as channel:
            yield Sandbox(channel, self.authority.token(user_id))

    @asynccontextmanager
    async def ready(self, user_id: str = "ada") -> AsyncIterator["Sandbox"]:
        """Likewise, once programs can run."""
        async with self.connected(user_id) as sandbox:
            await sandbox.until_ready()
            yield sandbox


@contextmanager
def serving(root: Path, *, uid: int | None = None, settings: Mapping[str, str] = {}) -> Iterator[Service]:
    """Run the service, as `uid` if given; it is up, but perhaps not ready."""
    with authority() as (trusted, target):
        variables = {
            "OLLAMESH_SANDBOX_ROOT": str(root.parent),
            "OLLAMESH_SANDBOX_PORT": "0",
            "OLLAMESH_SANDBOX_METRICS_PORT": "0",
            "OLLAMESH_INSECURE_INSIDE": "true",
            "OLLAMESH_AUTH_TARGET": target,
            "OLLAMESH_LAME_DUCK_S": "0",
            "OLLAMESH_GRACE_S": "1",
            "SECRET_KEY": SECRET,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.service.sandbox_process", *([str(uid)] if uid else [])],
            cwd=REPOSITORY,
            env={**os.environ, **variables, **settings},
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        with process.stdout as told:
            port = int(told.readline())
            try:
                yield Service(process=process, target=f"127.0.0.1:{port}", authority=trusted)
            finally:
                process.terminate()
                process.wait(TIMEOUT_S)


@dataclass(slots=True)
class Ran:
    """Everything that one call told."""

    events: list[pb.ExecutionEvent] = field(default_factory=list)

    @property
    def stdout(self) -> str:
        return b"".join(event.stdout.data for event in self.events).decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        return b"".join(event.stderr.data for event in self.events).decode("utf-8", "replace")

    @property
    def exited(self) -> pb.ExecutionEvent.Exited:
        return self.events[-1].exited

    @property
    def outcome(self) -> str:
        return pb.Outcome.Name(self.exited.outcome).removeprefix("OUTCOME_")

    @property
    def kinds(self) -> list[str | None]:
        return [event.WhichOneof("event") for event in self.events]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A client."""

    channel: grpc.aio.Channel
    token: str

    @property
    def stub(self) -> Any:  # The stubs' types are those of blocking calls.
        return SandboxServiceStub(self.channel)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),)

    def call(
        self, code: str, *, limits: pb.Limits | None = None, stdin: bytes = b"", profile: str = ""
    ) -> Call:
        spec = pb.ExecutionSpec(code=code, limits=limits, stdin=stdin, profile=profile)
        call: Call = self.stub.Execute(ExecuteRequest(spec=spec), timeout=TIMEOUT_S, metadata=self.metadata)
        return call

    async def run(
        self, code: str, *, limits: pb.Limits | None = None, stdin: bytes = b"", profile: str = ""
    ) -> Ran:
        ran = Ran()
        async for response in self.call(code, limits=limits, stdin=stdin, profile=profile):
            ran.events.append(response.event)
        return ran

    async def health(self) -> int:
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        status: int = (await stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)).status
        return status

    async def capabilities(self) -> GetCapabilitiesResponse:
        answer: GetCapabilitiesResponse = await self.stub.GetCapabilities(
            GetCapabilitiesRequest(), timeout=TIMEOUT_S, metadata=self.metadata
        )
        return answer

    async def until_ready(self) -> None:
        """Health tells it too, but looks only once a second."""
        async with asyncio.timeout(TIMEOUT_S):
            while not (await self.capabilities()).engines:
                await asyncio.sleep(0.02)


def reason(error: grpc.aio.AioRpcError) -> ErrorInfo:
    """What the service says about a failure."""
    raw = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    found = ErrorInfo()
    assert any(detail.Unpack(found) for detail in Status.FromString(bytes(raw)).details)
    return found


def descendants(pid: int) -> list[int]:
    """Every process below `pid`."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, new = [], [pid]
    while new:
        new = [child for parent in new for child in parents.get(parent, [])]
        found += new
    return found


def owners(pids: Iterable[int]) -> list[int]:
    """The uids of the host that own `pids`, but for those that have ended meanwhile."""
    found = []
    for pid in pids:
        with suppress(FileNotFoundError):
            found.append(owner(pid))
    return found


def owner(pid: int) -> int:
    """The uid that `pid` has outside of its jail."""
    return Path("/proc", str(pid)).stat().st_uid


def forked(service: Service) -> list[int]:
    """Processes that a program has made: in a jail, the init is 1 and the program 2."""
    return [pid for pid in descendants(service.process.pid) if inner_pid(pid) > 2]


def inner_pid(pid: int) -> int:
    """Its pid in its jail; 0 if it is not in one, or has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return 0
    (pids,) = (line.split()[1:] for line in lines if line.startswith("NSpid"))
    return int(pids[-1]) if len(pids) == 3 else 0  # Here, in the outer jail, in its own.
