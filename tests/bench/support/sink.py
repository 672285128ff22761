"""`python -m tests.bench.support.sink`: a collector of traces that throws them away; it prints its port."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import uvloop


class _Sink(grpc.GenericRpcHandler):
    def service(self, _details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    @staticmethod
    async def _answer(_request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return b""


async def main() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Sink(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
