"""The life of a gRPC server: start, serve, stop being ready, drain, end."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import grpc.aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from services.common.certificates import Followed
from services.common.config import Environment
from services.common.grpc.around import Around, Check, Interceptor
from services.common.grpc.client import MESSAGE_BYTES_MAX
from services.common.grpc.peer import peers
from services.common.grpc.tls import server_credentials
from services.common.inside import Inside
from services.common.tracing.config import TracingConfig
from services.common.version import UNKNOWN, read_version

READINESS, LIVENESS = "", "liveness"
READINESS_CHECK_EVERY_S = 1.0
FAREWELL_S = 1.0  # For calls to be told what the drain did to their work, if it took all the grace.
CALL_S_MAX = 3600  # No call inside is given longer; what an old connection still has is cut after it.


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """What every service's server needs to know."""

    inside: Inside  # Who the service is, to those who call it and whom it calls.
    bind: str
    port: int  # 0 picks a free one.
    metrics_port: int
    reflection: bool
    lame_duck_s: float  # Not ready but still serving, so that balancers look away first. The edge takes two seconds to.
    grace_s: float  # Longest wait for calls in flight; should exceed one completion.
    connection_age_s: float = (
        3600.0  # After it, a connection takes no new calls: who calls must prove itself again.
    )
    tracing: TracingConfig = field(default_factory=TracingConfig)
    name: str = ""
    version: str = UNKNOWN

    @property
    def insecure_inside(self) -> bool:
        """Whether whoever reaches the port passes for a service: for development."""
        return self.inside.files is None

    @classmethod
    def read(cls, env: Environment, name: str, *, port: int, metrics_port: int) -> "ServerConfig":
        prefix = f"OLLAMESH_{name.upper()}"
        bind = env.text("OLLAMESH_BIND", "127.0.0.1")
        return cls(
            name=name,
            version=read_version(env),
            inside=Inside.read(env, name, plain_hosts=[bind]),
            bind=bind,
            port=env.integer(f"{prefix}_PORT", port, high=65_535),
            metrics_port=env.integer(f"{prefix}_METRICS_PORT", metrics_port, high=65_535),
            reflection=env.flag("OLLAMESH_REFLECTION", default=False),
            lame_duck_s=env.seconds("OLLAMESH_LAME_DUCK_S", 3, high=60),
            grace_s=env.seconds("OLLAMESH_GRACE_S", 10, high=3600),
            connection_age_s=env.seconds("OLLAMESH_CONNECTION_AGE_S", 3600, low=1),
            tracing=TracingConfig.read(env),
        )


class Server:
    """A gRPC server with health, optional reflection, and our one interceptor."""

    def __init__(self, config: ServerConfig, arounds: Sequence[Around], checks: Sequence[Check] = ()) -> None:
        self._config = config
        if config.inside.files is not None:
            checks = (peers(config.inside), *checks)
        self.grpc = grpc.aio.server(
            interceptors=[Interceptor(arounds, checks)],
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.so_reuseport", 0),  # A port in use must be an error, not a lottery.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.max_connection_age_ms", int(config.connection_age_s * 1000)),
                ("grpc.max_connection_age_grace_ms", CALL_S_MAX * 1000),
            ],
        )
        self.is_ready = False  # As it was last told to whoever asks for its health.
        self._health = health.HealthServicer()
        add_HealthServicer_to_server(self._health, self.grpc)

    async def serve(
        self,
        stop: asyncio.Event,
        *,
        services: Sequence[str],
        ready: Callable[[], Awaitable[bool]],
        started: Callable[[int], None] = lambda _: None,
        drained: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        """Serve until `stop`, then drain. `services` are full names, for reflection.

        Liveness is SERVING throughout; readiness follows `ready`, asked every second. `started` is told
        the port. `drained` is given the grace first, for work that outlives its calls, while all is still served;
        calls have what it leaves.
        """
        if self._config.reflection:
            reflection.enable_server_reflection((*services, reflection.SERVICE_NAME), self.grpc)
        port = self._listen(f"{self._config.bind}:{self._config.port}")
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self._say(is_ready=False)
        await self.grpc.start()
        started(port)
        await self._follow(ready, stop)
        await self._say(is_ready=False)
        await asyncio.sleep(self._config.lame_duck_s)
        grace_s = self._config.grace_s
        if drained is not None:
            ends_s = asyncio.get_running_loop().time() + grace_s
            await drained(grace_s)
            grace_s = max(ends_s - asyncio.get_running_loop().time(), FAREWELL_S)
        await self.grpc.stop(grace_s)

    def _listen(self, address: str) -> int:
        if self._config.inside.files is None:
            return self.grpc.add_insecure_port(address)
        return self.grpc.add_secure_port(address, server_credentials(Followed(self._config.inside.files)))

    async def _follow(self, ready: Callable[[], Awaitable[bool]], stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._say(is_ready=await ready())
            with suppress(TimeoutError):
                async with asyncio.timeout(READINESS_CHECK_EVERY_S):
                    await stop.wait()

    async def _say(self, *, is_ready: bool) -> None:
        status = health_pb2.HealthCheckResponse
        self.is_ready = is_ready
        await self._health.set(READINESS, status.SERVING if is_ready else status.NOT_SERVING)
