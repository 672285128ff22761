"""The agent service on a real socket, its PostgreSQL real, the services behind it fakes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypedDict

import grpc
import grpc.aio
import pytest
from cryptography.fernet import Fernet
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from ollamesh.agent.v1.assistant_pb2 import RunConfig
from ollamesh.agent.v1.run_pb2 import BUSY_POLICY_UNSPECIFIED, BusyPolicy, Run, RunEvent
from ollamesh.agent.v1.thread_pb2 import Message, Thread

from deploy.local.ports import free_ports
from services.agent.app import run
from services.agent.config import Config
from services.common.config import Environment
from services.common.grpc.client import bearer
from tests.fakes.fake_inference import FakeInference
from tests.fakes.fake_sandbox import FakeSandbox
from tests.fakes.identity import Identity
from tests.stack import Database

if TYPE_CHECKING:  # Known to the stubs' types alone.
    from ollamesh.agent.v1.agent_service_pb2_grpc import AgentServiceAsyncStub

TIMEOUT_S = 20.0
ENCRYPTION_KEY = Fernet.generate_key().decode()  # One for all replicas.
WITH_PYTHON = RunConfig(model="tiny", tools=["run_python"])


class Options(TypedDict):
    timeout: float
    metadata: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class User:
    """Calls the service with one token: `stub.Method(request, **options)`, or in short what is below."""

    stub: "AgentServiceAsyncStub"
    token: str = field(repr=False)

    @property
    def options(self) -> Options:
        return {"timeout": TIMEOUT_S, "metadata": bearer(self.token)}

    async def thread(self, name: str = "") -> str:
        made = await self.stub.CreateThread(pb.CreateThreadRequest(display_name=name), **self.options)
        return made.thread.thread_id

    async def find_thread(self, thread_id: str) -> Thread:
        return (await self.stub.GetThread(pb.GetThreadRequest(thread_id=thread_id), **self.options)).thread

    async def start(
        self,
        thread_id: str,
        text: str = "What is 6 * 7?",
        *,
        config: RunConfig = WITH_PYTHON,
        request_id: str = "",
        busy_policy: BusyPolicy = BUSY_POLICY_UNSPECIFIED,
    ) -> Run:
        request = pb.StartRunRequest(
            request_id=request_id, thread_id=thread_id, input=text, config=config, busy_policy=busy_policy
        )
        return (await self.stub.StartRun(request, **self.options)).run

    async def run(self, run_id: str) -> Run:
        return (await self.stub.GetRun(pb.GetRunRequest(run_id=run_id), **self.options)).run

    async def cancel(self, run_id: str) -> Run:
        return (await self.stub.CancelRun(pb.CancelRunRequest(run_id=run_id), **self.options)).run

    async def messages(self, thread_id: str) -> Sequence[Message]:
        request = pb.ListMessagesRequest(thread_id=thread_id, page_size=100)
        return (await self.stub.ListMessages(request, **self.options)).messages

    async def watch(self, run_id: str, *, after: int = 0) -> list[RunEvent]:
        """Every event after the given one, to the end of the stream."""
        request = pb.WatchRunRequest(run_id=run_id, after_sequence=after)
        return [response.event async for response in self.stub.WatchRun(request, **self.options)]


@dataclass(slots=True)
class App:
    """One replica of the service."""

    channel: grpc.aio.Channel
    identity: Identity
    inference: FakeInference
    sandbox: FakeSandbox
    config: Config

    def user(self, name: str = "ann", *, org: str = "o") -> User:
        return User(AgentServiceStub(self.channel), self.identity.token(user_id=name, org=org))


@dataclass(slots=True)
class Mesh:
    """What a replica needs around it."""

    dsn: str
    identity: Identity
    auth_target: str
    inference: FakeInference
    sandbox: FakeSandbox

    def config(self, **changes: object) -> Config:
        env = {
            "DATABASE_URL": self.dsn,
            "ENCRYPTION_KEY": ENCRYPTION_KEY,
            "OLLAMESH_AGENT_PORT": "0",
            "OLLAMESH_AGENT_METRICS_PORT": str(free_ports(1)[0]),
            "OLLAMESH_AGENT_MODEL": "default-model",
            "OLLAMESH_INSECURE_INSIDE": "true",
            "OLLAMESH_AUTH_TARGET": self.auth_target,
            "OLLAMESH_INFERENCE_TARGET": self.inference.target,
            "OLLAMESH_SANDBOX_TARGET": self.sandbox.target,
            "OLLAMESH_AGENT_LEASE_S": "8",  # A busy machine does not lose it.
            "OLLAMESH_LAME_DUCK_S": "0",
            "OLLAMESH_GRACE_S": "0.2",
        }
        environment = Environment(env)
        config = Config.read(environment)
        environment.check()
        return replace(config, **changes)  # type: ignore[arg-type]

    @asynccontextmanager
    async def replica(self, **changes: object) -> AsyncIterator[App]:
        """The service, serving; at the end it is stopped as by SIGTERM."""
        config, stop = self.config(**changes), asyncio.Event()
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(run(config, stop, started=port.set_result))
        futures: set[asyncio.Future[Any]] = {task, port}
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port.result()}") as channel:
            try:
                yield App(channel, self.identity, self.inference, self.sandbox, config)
            finally:
                stop.set()
                await task


@asynccontextmanager
async def mesh(dsn: str) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as opened:
        identity = Identity()
        auth_target = await opened.enter_async_context(identity.served())
        inference = await opened.enter_async_context(FakeInference.serving())
        sandbox = await opened.enter_async_context(FakeSandbox.serving())
        yield Mesh(dsn, identity, auth_target, inference, sandbox)


@pytest.fixture
async def around(module_database: Database) -> AsyncIterator[Mesh]:
    async with mesh(module_database("agent")) as made:
        yield made


@pytest.fixture
async def app(around: Mesh) -> AsyncIterator[App]:
    async with around.replica() as running:
        yield running


async def until(holds: Callable[[], bool], *, within_s: float = TIMEOUT_S) -> None:
    """Wait for a condition, and fail if it does not come."""
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.005)


async def broken_fields(call: Awaitable[object]) -> set[str]:
    """The fields that a refusal complains of."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        bad = BadRequest()
        assert any(
            detail.Unpack(bad) for detail in Status.FromString(trailing["grpc-status-details-bin"]).details
        )
        return {violation.field for violation in bad.field_violations}
    raise AssertionError("the call was not refused")


async def refusal(call: Awaitable[object]) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """The status, the reason and the metadata with which a call is refused."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        status, info = Status.FromString(trailing["grpc-status-details-bin"]), ErrorInfo()
        assert status.details[0].Unpack(info)
        assert info.domain == "agent.ollamesh"
        return error.code(), info.reason, dict(info.metadata)
    raise AssertionError("the call was not refused")
