"""What mTLS inside costs: a unary call between two services in plain text and with certificates, in the same run.

The called service is a process of its own; both speak through the code that the services use. Rounds take turns. The
check of the caller's certificate is measured as part of the call, and a handshake by itself.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median

from ollamesh.inference.v1.fleet_pb2 import GetFleetRequest, GetFleetResponse
from ollamesh.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)

from services.common.certificates import Files
from services.common.grpc.around import Context
from services.common.grpc.client import channel
from services.common.grpc.errors import errors
from services.common.grpc.server import Server, ServerConfig
from services.common.inside import Inside
from tests.bench.support.report import Figure, percentile, report
from tests.fakes.authority import Authority

ROUNDS, CALLS, AT_ONCE, HANDSHAKES = 10, 300, 16, 30
TIMEOUT_S = 10


class _Answering(InferenceServiceServicer):
    async def GetFleet(self, request: GetFleetRequest, context: Context) -> GetFleetResponse:
        return GetFleetResponse()


async def serve(inside: Inside) -> None:
    """Print the port, then answer until killed."""
    config = ServerConfig(
        inside=inside, bind="127.0.0.1", port=0, metrics_port=0, reflection=False, lame_duck_s=0, grace_s=0
    )
    server = Server(config, [errors("inference.ollamesh")])
    add_InferenceServiceServicer_to_server(_Answering(), server.grpc)

    async def ready() -> bool:
        return True

    await server.serve(
        asyncio.Event(), services=(), ready=ready, started=lambda port: print(port, flush=True)
    )


@asynccontextmanager
async def serving(folder: str) -> AsyncIterator[str]:
    """`folder` holds the certificate; without one it is plain text."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.inside", "serve", folder, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.kill()
        await process.wait()


class Way:
    """Calls over one channel, and what they took."""

    def __init__(self, target: str, inside: Inside) -> None:
        self.target, self.inside = target, inside
        self.channel = channel(target, inside=inside, to="inference")
        self.stub = InferenceServiceStub(self.channel)
        self.took_s: list[float] = []
        self.rates: list[float] = []

    async def call(self) -> None:
        await self.stub.GetFleet(GetFleetRequest(), timeout=TIMEOUT_S)

    async def measure(self) -> None:
        for _ in range(CALLS):
            began_s = time.perf_counter()
            await self.call()
            self.took_s.append(time.perf_counter() - began_s)
        began_s = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(self._several(CALLS // AT_ONCE))
        self.rates.append(CALLS // AT_ONCE * AT_ONCE / (time.perf_counter() - began_s))

    async def _several(self, count: int) -> None:
        for _ in range(count):
            await self.call()

    async def connect_s(self) -> float:
        """A first call over a connection of its own."""
        began_s = time.perf_counter()
        async with channel(self.target, inside=self.inside, to="inference") as fresh:
            await InferenceServiceStub(fresh).GetFleet(GetFleetRequest(), timeout=TIMEOUT_S)
        return time.perf_counter() - began_s


def figures(plain: Way, secure: Way, connects_s: dict[str, list[float]]) -> list[Figure]:
    def in_us(percent: int) -> tuple[float, float]:
        return percentile(secure.took_s, percent) * 1e6, percentile(plain.took_s, percent) * 1e6

    rows = [
        Figure(name=f"unary call, p{percent}", value=value, baseline=baseline, unit="us")
        for percent, (value, baseline) in ((percent, in_us(percent)) for percent in (50, 95))
    ]
    connects = (median(connects_s[name]) * 1e3 for name in ("secure", "plain"))
    return [
        *rows,
        Figure(
            name=f"unary calls per second, {AT_ONCE} at once",
            value=median(secure.rates),
            baseline=median(plain.rates),
            unit="/s",
        ),
        Figure(
            name="connect and first call, median",
            value=next(connects),
            baseline=next(connects),
            unit="ms",
        ),
    ]


async def main() -> None:
    authority = Authority()
    async with AsyncExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        authority.issue("inference", folder / "inference")
        plain = Way(await opened.enter_async_context(serving("-")), Inside.plain("agent"))
        secure = Way(
            await opened.enter_async_context(serving(str(folder / "inference"))),
            authority.inside("agent", folder),
        )
        for way in (plain, secure):
            await opened.enter_async_context(way.channel)
            await way.measure()  # Warm.
            way.took_s, way.rates = [], []
        connects_s: dict[str, list[float]] = {"plain": [], "secure": []}
        for _ in range(ROUNDS):
            await plain.measure()
            await secure.measure()
        for _ in range(HANDSHAKES):
            connects_s["plain"].append(await plain.connect_s())
            connects_s["secure"].append(await secure.connect_s())
    report("inside", rounds=ROUNDS, figures=figures(plain, secure, connects_s))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        given = sys.argv[2]
        files = None if given == "-" else Files.of(Path(given))
        asyncio.run(serve(Inside(service="inference", files=files)))
    else:
        asyncio.run(main())
