"""`python -m services.common.healthcheck [liveness]`: does the service of this container serve?

For what can run a program but brings no certificate: Docker's HEALTHCHECK, Kubernetes' exec probes. It reads the service's
own environment, so it asks with the service's own certificate, which says nothing else to it (peers.py). Without an
argument it asks whether calls should come; `liveness` asks only whether the process answers. Exit status 0 means yes.
"""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc.aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from services.common.config import ConfigError, Environment
from services.common.grpc.client import channel
from services.common.grpc.server import LIVENESS, READINESS
from services.common.inside import Inside
from services.common.peers import PEERS
from services.common.process_ports import process_ports

SERVICE = "OLLAMESH_SERVICE"
FIRST_PORT = 50051  # Of the services in the order of PEERS.
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - Asked at, not bound to.
WITHIN_S = 4.0  # Docker and Kubernetes are told to wait five.


class Unhealthy(Exception):
    """Why not, as one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    service: str
    target: str
    inside: Inside

    @classmethod
    def read(cls, env: Environment) -> "Asked":
        service = env.text(SERVICE)
        if service and service not in PEERS:
            env.reject(SERVICE, f"is none of {', '.join(PEERS)}")
        bind = env.text("OLLAMESH_BIND", "127.0.0.1")
        usual = FIRST_PORT + [*PEERS].index(service) if service in PEERS else FIRST_PORT
        port = process_ports(env, service or "auth", default=usual, low=1)[0]
        return cls(
            service=service,
            target=f"{ANY_ADDRESS.get(bind, bind)}:{port}",
            inside=Inside.read(env, service, plain_hosts=[bind]),
        )


async def check(asked: Asked, name: str) -> None:
    """Return if it serves. Raises Unhealthy."""
    async with channel(asked.target, inside=asked.inside, to=asked.service) as opened:
        ask = opened.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        try:
            reply = await ask(HealthCheckRequest(service=name), timeout=WITHIN_S)
        except grpc.aio.AioRpcError as error:
            raise Unhealthy(f"the health check of {asked.service} ends with {error.code().name}") from error
    if reply.status != HealthCheckResponse.SERVING:
        raise Unhealthy(f"{asked.service} answers {HealthCheckResponse.ServingStatus.Name(reply.status)}")


def main(arguments: Sequence[str], variables: Mapping[str, str]) -> int:
    if list(arguments) not in ([], [LIVENESS]):
        sys.stderr.write(f"usage: {__doc__}")
        return 2
    env = Environment(variables)
    asked = Asked.read(env)
    try:
        env.check()
        asyncio.run(check(asked, LIVENESS if arguments else READINESS))
    except ConfigError as error:
        sys.stderr.write("".join(f"{mistake}\n" for mistake in error.mistakes))
        return 2
    except Unhealthy as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
