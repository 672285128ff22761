"""What the edge needs to know, read once from the environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from services.common.config import Environment
from services.common.process_ports import process_ports

SERVICES = ("auth", "agent", "inference", "sandbox")
FIRST_PORT = 50051
WITH_PROCESSES = "inference"  # The service that can be several processes on one machine.
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - Where one reaches who listens everywhere.


@dataclass(frozen=True, slots=True)
class Endpoint:
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    listen: Endpoint
    admin_port: int  # On loopback, always.
    issuer: str
    upstreams: Mapping[str, tuple[Endpoint, ...]]  # Replicas, by service.
    cors_origins: tuple[str, ...]  # `*` in the place of a port stands for any.

    @classmethod
    def read(cls, env: Environment) -> Self:
        bind = env.text("OLLAMESH_BIND", "127.0.0.1").strip("[]")
        return cls(
            listen=Endpoint(bind, env.integer("OLLAMESH_EDGE_PORT", 8080, high=65_535)),
            admin_port=env.integer("OLLAMESH_ADMIN_PORT", 9901, high=65_535),
            issuer=env.text("OLLAMESH_ISSUER", "http://ollamesh"),
            upstreams={
                name: _replicas(env, name, Endpoint(LOOPBACK.get(bind, bind), FIRST_PORT + n))
                for n, name in enumerate(SERVICES)
            },
            cors_origins=tuple(
                env.text("OLLAMESH_CORS_ORIGINS", "http://localhost:*,http://127.0.0.1:*").split(",")
            ),
        )


def _replicas(env: Environment, service: str, default: Endpoint) -> tuple[Endpoint, ...]:
    """`OLLAMESH_X_REPLICAS` as host:port pairs, or the one at `OLLAMESH_X_PORT` of this machine, or its processes."""
    name = f"OLLAMESH_{service.upper()}_REPLICAS"
    given = env.optional(name)
    if given is None and service == WITH_PROCESSES:
        ports = process_ports(env, service, default=default.port, low=1)
        return tuple(Endpoint(default.host, port) for port in ports)
    if given is None:
        port = env.integer(f"OLLAMESH_{service.upper()}_PORT", default.port, low=1, high=65_535)
        return (Endpoint(default.host, port),)
    pairs = [pair.strip().rpartition(":") for pair in given.split(",")]
    if not all(
        host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536 for host, _, port in pairs
    ):
        env.reject(name, "is not a list of host:port pairs")
        return (default,)
    return tuple(Endpoint(host.strip("[]"), int(port)) for host, _, port in pairs)
