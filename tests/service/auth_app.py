"""The auth service in this process, over a real socket and a real database."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import grpc.aio
from cryptography.fernet import Fernet
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from ollamesh.auth.v1.oauth_service_pb2 import GetJwksRequest
from ollamesh.auth.v1.oauth_service_pb2_grpc import OAuthServiceStub

if TYPE_CHECKING:  # Known to type checkers only.
    from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceAsyncStub
    from ollamesh.auth.v1.oauth_service_pb2_grpc import OAuthServiceAsyncStub

from services.auth.app import run
from services.auth.config import Config
from services.common.grpc.caller import Keys
from services.common.grpc.keys import parse_keys
from services.common.grpc.server import ServerConfig
from services.common.inside import Inside

ADMIN_PASSWORD = "correct horse battery staple"
CLIENT_SECRET = "c" * 40
ISSUER = "http://ollamesh"
TIMEOUT_S = 20
START_WITHIN_S = 60  # A process imports for a while, on a busy machine.


def config(
    database_url: str, *, encryption_key: str = Fernet.generate_key().decode(), port: int = 0
) -> Config:
    return Config(
        server=ServerConfig(
            inside=Inside.plain("auth"),
            bind="127.0.0.1",
            port=port,
            metrics_port=0,
            reflection=False,
            lame_duck_s=0,
            grace_s=1,
        ),
        issuer=ISSUER,
        database_url=database_url,
        secret_key="s" * 32,
        encryption_keys=(encryption_key,),
        admin_password=ADMIN_PASSWORD,
        service_client_secret=CLIENT_SECRET,
    )


@dataclass(frozen=True, slots=True)
class Auth:
    """A running service and its stubs."""

    port: int
    channel: grpc.aio.Channel
    stop: asyncio.Event

    @property
    def service(self) -> "AuthServiceAsyncStub":
        return AuthServiceStub(self.channel)

    @property
    def oauth(self) -> "OAuthServiceAsyncStub":
        return OAuthServiceStub(self.channel)

    async def keys(self) -> Keys:
        return parse_keys((await self.oauth.GetJwks(GetJwksRequest(), timeout=TIMEOUT_S)).data)


@asynccontextmanager
async def serving(settings: Config, *, wait: bool = True) -> AsyncIterator[Auth]:
    """Run the service. `wait` until it is founded: until then it has no keys."""
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run(settings, stop, started=port.set_result))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await port}") as channel:
            auth = Auth(port.result(), channel, stop)
            if wait:
                await until_founded(auth)
            yield auth
    finally:
        stop.set()
        await task


async def until_founded(auth: Auth) -> None:
    async with asyncio.timeout(START_WITHIN_S):
        while True:
            try:
                await auth.keys()
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)
            else:
                return


def port_of(dsn: str) -> int:
    port = urlsplit(dsn).port
    assert port is not None
    return port


def failure(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str]:
    """Status and reason."""
    return error.code(), info(error).reason


def info(error: grpc.aio.AioRpcError) -> ErrorInfo:
    found = ErrorInfo()
    assert any(detail.Unpack(found) for detail in details(error).details), "no ErrorInfo"
    return found


def retry_after_s(error: grpc.aio.AioRpcError) -> float | None:
    found = RetryInfo()
    told = any(detail.Unpack(found) for detail in details(error).details)
    return found.retry_delay.ToTimedelta().total_seconds() if told else None


def details(error: grpc.aio.AioRpcError) -> Status:
    trailers = error.trailing_metadata() or ()
    raw = [value for key, value in trailers if key == "grpc-status-details-bin"]
    assert len(raw) == 1, "no details"
    assert isinstance(raw[0], bytes)
    return Status.FromString(raw[0])
