"""`python -m tests.bench.support.echo PORT`: a service that answers any call with its request, as cheaply as grpc.aio can."""

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio
import uvloop
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server


class Echo(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method.startswith("/grpc.health."):
            return None
        return grpc.unary_unary_rpc_method_handler(self._answer)

    @staticmethod
    async def _answer(request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return request


async def main() -> None:
    server, servicer = grpc.aio.server(), health.HealthServicer()
    add_HealthServicer_to_server(servicer, server)
    server.add_generic_rpc_handlers((Echo(),))
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
