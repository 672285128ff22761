"""However the use of a call ends, its server sees it end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest

from services.common.grpc.client import held

WITHIN_S = 20.0


@dataclass(slots=True)
class Seen:
    """What a server saw of its one call."""

    begun: asyncio.Event
    ended: asyncio.Event
    message_count: int = 3  # What it sends before it waits for ever.

    async def stream(self, request: bytes, context: Any) -> None:
        context.add_done_callback(lambda _: self.ended.set())
        self.begun.set()
        for _ in range(self.message_count):
            await context.write(b"more")
        await asyncio.Event().wait()


Start = Callable[[], Any]


@pytest.fixture
async def seen() -> Seen:
    return Seen(asyncio.Event(), asyncio.Event())


@pytest.fixture
async def start(seen: Seen) -> AsyncIterator[Start]:
    server = grpc.aio.server()
    handlers: Any = {"Stream": grpc.unary_stream_rpc_method_handler(seen.stream)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: Any = channel.unary_stream("/test.Service/Stream")
        yield lambda: method(b"", timeout=600)
    await server.stop(None)


async def _breaks_out(start: Start) -> None:
    with held(start()) as call:
        async for _ in call:
            break


async def _fails(start: Start) -> None:
    with suppress(ZeroDivisionError), held(start()) as call:
        async for _ in call:
            raise ZeroDivisionError


async def _returns_between_messages(start: Start) -> None:
    with held(start()) as call:
        await call.read()


async def _is_cancelled_while_it_waits(start: Start) -> None:
    waiting = asyncio.Event()

    async def read() -> None:
        with held(start()) as call:
            for _ in range(3):
                await call.read()
            waiting.set()
            await call.read()

    task = asyncio.create_task(read())
    await waiting.wait()
    task.cancel()
    await asyncio.wait([task])


async def _stops_in_a_generator(start: Start) -> None:
    async def messages() -> AsyncIterator[bytes]:
        with held(start()) as call:
            async for message in call:
                yield message

    async for _ in messages():
        break  # And nobody closes it: Python does, when it is collected.


Leaves = Callable[[Start], Awaitable[None]]


@pytest.mark.parametrize(
    "leaves",
    [
        _breaks_out,
        _fails,
        _returns_between_messages,
        _is_cancelled_while_it_waits,
        _stops_in_a_generator,
    ],
)
async def test_a_call_that_is_held_ends_with_its_block(seen: Seen, start: Start, leaves: Leaves) -> None:
    await leaves(start)
    await asyncio.wait_for(seen.ended.wait(), WITHIN_S)


async def test_before_the_first_message(seen: Seen, start: Start) -> None:
    seen.message_count = 0
    with held(start()):
        await asyncio.wait_for(seen.begun.wait(), WITHIN_S)
    await asyncio.wait_for(seen.ended.wait(), WITHIN_S)


async def test_one_that_has_ended_stays_as_it_ended(seen: Seen, start: Start) -> None:
    with held(start()) as call:
        await call.read()
        call.cancel()
        assert call.cancelled()
    await asyncio.wait_for(seen.ended.wait(), WITHIN_S)
