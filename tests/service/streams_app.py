"""Replicas that share a Redis, over instances of a test's own."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc.aio
from ollamesh.inference.v1 import completion_pb2 as pb

from tests.fakes.fake_ollama import FakeOllama
from tests.fakes.identity import Identity
from tests.service.inference_app import TINY, WITHIN_S, Call, Service, preload, serving_for

STEADY = pb.Options(temperature=0)  # Always answered in the same way.
SECRETS = {
    "SECRET_KEY": "a secret that only tests have, and nobody else",
    "ENCRYPTION_KEY": base64.urlsafe_b64encode(b"k" * 32).decode(),
}


@asynccontextmanager
async def replicas(redis_url: str, *fakes: FakeOllama, **settings: object) -> AsyncIterator[list[Service]]:
    """A replica for each fake, which has its model in memory."""
    identity = Identity()
    shared = {"REDIS_URL": redis_url, "redis_timeout_s": 0.5, **SECRETS, **settings}
    async with AsyncExitStack() as opened:
        made = []
        for fake in fakes:
            await opened.enter_async_context(fake)
            await preload(fake, TINY)
            made.append(await opened.enter_async_context(serving_for(identity, fake.url, **shared)))
        yield made


def fake() -> FakeOllama:
    return FakeOllama(TINY, parallel=64)


def resume(service: Service, stream_id: str, *, after: int = 0, **who: Any) -> Call:
    request = pb.ResumeStreamRequest(stream_id=stream_id, after_sequence=after)
    call: Call = service.call("ResumeStream", request, **who)
    return call


async def cancel(service: Service, stream_id: str, **who: Any) -> None:
    await service.call("CancelStream", pb.CancelStreamRequest(stream_id=stream_id), **who)


async def frames_of(call: Call) -> list[bytes]:
    """Read the rest of a stream; return its messages as they were sent."""
    return [response.SerializeToString() for response in await _rest(call, [])]


async def rest_of(call: Call) -> list[pb.CompletionEvent]:
    """Read the rest of a stream."""
    return [response.event for response in await _rest(call, [])]


async def event_of(call: Call, kind: str) -> pb.CompletionEvent:
    """Read a stream up to the next event of a kind."""
    async with asyncio.timeout(WITHIN_S):
        while (response := await call.read()) is not grpc.aio.EOF:
            event: pb.CompletionEvent = response.event  # type: ignore[attr-defined]
            if event.WhichOneof("event") == kind:
                return event
    raise AssertionError("it ended")


def text_of(events: Sequence[pb.CompletionEvent]) -> str:
    return "".join(event.delta.text for event in events)


async def failure_of(call: Call) -> tuple[list[pb.CompletionEvent], grpc.aio.AioRpcError]:
    """Read the rest of a stream that fails."""
    responses: list[Any] = []
    try:
        await _rest(call, responses)
    except grpc.aio.AioRpcError as error:
        return [response.event for response in responses], error
    raise AssertionError("it ended well")


async def _rest(call: Call, responses: list[Any]) -> list[Any]:
    async with asyncio.timeout(WITHIN_S):
        while (response := await call.read()) is not grpc.aio.EOF:
            responses.append(response)
    return responses
