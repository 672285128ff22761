"""What streams with many readers cost: 100 who join one, 1,000 who come back at any place, 200 who do not read; and what
it costs to keep streams in Redis at all.

Streams flat out and paced, with and without a Redis, alternate, in gateways of their own.
"""

import asyncio
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from typing import Any

import grpc.aio
from cryptography.fernet import Fernet
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from services.common.grpc.client import bearer, held
from tests.bench.support.report import Figure, report
from tests.bench.support.service import Service, service
from tests.bench.support.stub import stub
from tests.bench.support.watched import Watched
from tests.stack import own_redis

ROUNDS = int(os.environ.get("ROUNDS", "3"))
SEED = int(os.environ.get("SEED", "1"))
JOINERS, CUTS, STALLED = 100, 1000, 200
PACED = "stub-n200-i20000:latest"  # 4 s.
FLAT_OUT = "stub-n2000-i0:latest"
SHORT = "stub-n500-i0:latest"  # To be cut.
ENDLESS = "stub-n400000-i0:latest"
FLAT_OUT_STREAMS = 200
AT_ONCE = 8
PER_CHANNEL = 20
MIB = 2**20
TIMEOUT_S = 120.0
PLACED = "ollamesh_queue_wait_seconds_count"


def ask(model: str, text: str = "go", *, steady: bool = False) -> pb.ChatRequest:
    options = pb.Options(output_token_count_max=400_000)
    if steady:
        options.temperature = 0
    return pb.ChatRequest(
        model=model,
        messages=[pb.Message(role=pb.ROLE_USER, content=text)],
        options=options,
        cache_policy=pb.CACHE_POLICY_NEVER,
    )


class Readers:
    """Opens streams as one user."""

    def __init__(self, gateway: Service) -> None:
        self._gateway = gateway
        self._metadata = bearer(gateway.token("org-1"))

    def chat(self, request: pb.ChatRequest) -> Any:
        return self._gateway.stub.Chat(request, timeout=TIMEOUT_S, metadata=self._metadata)

    async def text(self, request: pb.ChatRequest) -> str:
        with held(self.chat(request)) as call:
            return "".join([response.event.delta.text async for response in call])

    async def frames(self, call: Any) -> list[bytes]:
        with held(call):
            return [response.SerializeToString() async for response in call]

    async def resumed(self, stream_id: str, *, after: int) -> list[bytes]:
        request = pb.ResumeStreamRequest(stream_id=stream_id, after_sequence=after)
        return await self.frames(
            self._gateway.stub.ResumeStream(request, timeout=TIMEOUT_S, metadata=self._metadata)
        )


async def joined(gateway: Service, watched: Watched) -> list[Figure]:
    """100 who ask the same at once, in a gateway that has had as many before."""
    readers = Readers(gateway)
    await asyncio.gather(*(readers.text(ask(PACED, f"warm {number}")) for number in range(JOINERS)))
    (before,) = await gateway.totals(PLACED)
    same = ask(PACED, "same", steady=True)
    first = asyncio.create_task(readers.text(same))
    await asyncio.sleep(0.5)
    rest = (await watched.sample()).rss_bytes
    others = [asyncio.create_task(readers.text(same)) for _ in range(JOINERS - 1)]
    await asyncio.sleep(1.5)
    added_bytes = (await watched.sample()).rss_bytes - rest
    texts = await asyncio.gather(first, *others)
    (after,) = await gateway.totals(PLACED)
    digests = {hashlib.sha256(text.encode()).hexdigest() for text in texts}
    return [
        Figure(name=f"{JOINERS} joiners: calls upstream", value=after - before, unit="", goal=1),
        Figure(name=f"{JOINERS} joiners: different texts", value=len(digests), unit="", goal=1),
        Figure(name=f"{JOINERS} joiners: added memory", value=added_bytes / MIB, unit="MB", goal=2),
    ]


async def resumed(gateway: Service) -> list[Figure]:
    """A stream that has ended, and one that goes on, read again from places that a seed chooses."""
    readers, choose = Readers(gateway), random.Random(SEED)
    live_call = readers.chat(ask(PACED, "live"))
    live_id = (await live_call.read()).event.opened.stream_id
    request = ask(SHORT, "ended")
    request.delta_per_token = True  # So that there are places to cut at.
    whole = await readers.frames(readers.chat(request))
    stream_id = pb.ChatResponse.FromString(whole[0]).event.opened.stream_id
    places = [choose.randrange(len(whole) + 1) for _ in range(CUTS)]
    wrong = 0
    began_s = time.perf_counter()
    for start in range(0, CUTS, AT_ONCE):
        some = places[start : start + AT_ONCE]
        found = await asyncio.gather(*(readers.resumed(stream_id, after=place) for place in some))
        wrong += sum(frames != whole[place:] for frames, place in zip(found, some, strict=True))
    took_s = time.perf_counter() - began_s
    lives = await asyncio.gather(*(readers.resumed(live_id, after=place) for place in range(20)))
    rest = [response.SerializeToString() async for response in _iterated(live_call)]
    wrong += sum(frames != lives[0][place:] for place, frames in enumerate(lives))
    wrong += lives[0][1:] != rest
    return [
        Figure(name=f"{CUTS} cuts (and 20 of a live stream): with other bytes", value=wrong, unit="", goal=0),
        Figure(name="a resumed stream, on average", value=took_s / CUTS * 1e3, unit="ms"),
    ]


async def _iterated(call: Any) -> AsyncIterator[Any]:
    while (response := await call.read()) is not grpc.aio.EOF:
        yield response


async def stalled(gateway: Service, watched: Watched) -> list[Figure]:
    """Readers that take the first event and then nothing, each with a window of its own."""
    rest = (await watched.sample()).rss_bytes
    async with AsyncExitStack() as opened:
        for number in range(STALLED):
            if number % PER_CHANNEL == 0:
                options = [("grpc.use_local_subchannel_pool", 1)]  # Else they would share one connection.
                channel = await opened.enter_async_context(
                    grpc.aio.insecure_channel(gateway.address, options)
                )
            call: Any = InferenceServiceStub(channel).Chat(
                ask(ENDLESS, f"stalled {number}"),
                timeout=TIMEOUT_S,
                metadata=bearer(gateway.token(f"org-{number}")),
            )
            opened.callback(call.cancel)
            await call.read()
        await gateway.until_idle()
        added = (await watched.sample()).rss_bytes - rest
    return [Figure(name=f"{STALLED} stalled readers: added memory", value=added / MIB, unit="MB", goal=64)]


async def flat_out(gateway: Service) -> float:
    """Return how many tokens are relayed in a second of the gateway's processor time."""
    readers = Readers(gateway)
    began_s = gateway.cpu_s()
    for start in range(0, FLAT_OUT_STREAMS, AT_ONCE):
        await asyncio.gather(*(readers.text(ask(FLAT_OUT, f"{start + number}")) for number in range(AT_ONCE)))
    return FLAT_OUT_STREAMS * 2000 / (gateway.cpu_s() - began_s)


async def paced(gateway: Service) -> float:
    """Return the processor time of the gateway per token, in microseconds, for 100 streams of 50 tokens/s."""
    readers = Readers(gateway)
    began_s = gateway.cpu_s()
    await asyncio.gather(*(readers.text(ask(PACED, f"{number}")) for number in range(JOINERS)))
    return (gateway.cpu_s() - began_s) / (JOINERS * 200) * 1e6


@asynccontextmanager
async def gateways(url: str) -> AsyncIterator[tuple[Service, Service]]:
    """One that keeps its streams in Redis, and one that keeps them in memory."""
    slots = {"instance_slots": 256, "queue_max": 512, "output_tokens_max": 1_000_000}
    with own_redis() as redis:
        secrets = {
            "REDIS_URL": redis.url,
            "SECRET_KEY": "of a benchmark, and of nobody else at all",
            "ENCRYPTION_KEY": Fernet.generate_key().decode(),
        }
        async with service([url], **slots, **secrets) as kept, service([url], **slots) as alone:
            yield kept, alone


async def main() -> None:
    names = (PACED, FLAT_OUT, SHORT, ENDLESS)
    with stub(*names) as upstream:
        async with gateways(upstream.url) as (kept, alone):
            watched = Watched(kept, [upstream.port])
            found = [*await joined(kept, watched), *await resumed(kept)]
            rates: dict[bool, list[float]] = {True: [], False: []}
            costs: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(ROUNDS):
                for gateway, is_kept in ((kept, True), (alone, False)):
                    rates[is_kept].append(await flat_out(gateway))
                    costs[is_kept].append(await paced(gateway))
            found += [
                Figure(
                    name="flat out, kept in Redis, against in memory",
                    value=median(rates[True]),
                    unit="tokens per processor second",
                    baseline=median(rates[False]),
                ),
                Figure(
                    name="paced, kept in Redis, against in memory",
                    value=median(costs[True]),
                    unit="us per token",
                    baseline=median(costs[False]),
                ),
            ]
            found += await stalled(kept, watched)
    report("streams", rounds=ROUNDS, figures=found)


if __name__ == "__main__":
    asyncio.run(main())
