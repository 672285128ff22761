"""What is done once for each request, timed by itself: a token that is known, and a request of ten messages."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median

from ollamesh.inference.v1.completion_pb2 import ChatRequest, Message, Role

from services.common.grpc.caller import Verifier
from services.common.grpc.keys import parse_keys
from services.common.grpc.validation import parse
from tests.fakes.identity import Identity

BATCHES, BATCH = 30, 200
MESSAGES = 10


async def cached_auth_s() -> tuple[float, float]:
    """Return what a known token costs, and what an unknown one does."""
    identity = Identity()
    keys = parse_keys(identity.jwks())

    async def fetch() -> dict[str, object]:
        return dict(keys)

    verifier = Verifier(fetch, issuer=identity.issuer, audience="inference")  # type: ignore[arg-type]
    known = identity.token()
    unknown = iter([identity.token() for _ in range(BATCHES * 20 + 20)])
    await verifier.verify(known)
    cached_s = await _per_call_s(lambda: verifier.verify(known), BATCH)
    return cached_s, await _per_call_s(lambda: verifier.verify(next(unknown)), 20)


async def validation_s() -> tuple[float, float]:
    """Return what parsing and validating a request of ten messages costs, and what parsing alone does."""
    messages = [
        Message(role=Role.ROLE_USER, content=f"Message {number}. " * 10) for number in range(MESSAGES)
    ]
    body = ChatRequest(model="llama3.2:3b", messages=messages).SerializeToString()

    async def validated() -> None:
        parse(ChatRequest.FromString, body)

    async def parsed() -> None:
        ChatRequest.FromString(body)

    return await _per_call_s(validated, BATCH), await _per_call_s(parsed, BATCH)


async def _per_call_s(call: Callable[[], Awaitable[object]], batch: int) -> float:
    """Return the median over batches, in processor time: what others do meanwhile does not count."""
    found = []
    for _ in range(BATCHES):
        began_ns = time.thread_time_ns()
        for _ in range(batch):
            await call()
        found.append((time.thread_time_ns() - began_ns) / batch / 1e9)
        await asyncio.sleep(0)
    return median(found)
