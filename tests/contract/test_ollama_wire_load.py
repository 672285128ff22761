"""Several callers at once: slots, the bound of the queue, and callers that leave."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import ollama
import pytest

from tests.contract.ollama_servers import (
    CHAT,
    COUNTING,
    HELLO,
    PARALLEL,
    SHORT,
    WAITING_MAX,
    OllamaServer,
)

ENOUGH_S = 40.0


@asynccontextmanager
async def counting(http: httpx.AsyncClient) -> AsyncIterator[asyncio.Task[None]]:
    """A reply that has begun and is long in coming. The task is done when it has ended; leaving hangs up."""
    async with http.stream("POST", "/api/generate", json=COUNTING) as reply:
        lines = reply.aiter_lines()
        assert '"done":false' in await anext(lines)

        async def read_on() -> None:
            async for _ in lines:
                pass

        reading = asyncio.create_task(read_on())
        try:
            yield reading
        finally:
            reading.cancel()
            await asyncio.wait([reading])


async def short(http: httpx.AsyncClient) -> httpx.Response:
    return await http.post(
        "/api/chat", json={"model": CHAT, "messages": HELLO, "options": SHORT, "stream": False}
    )


async def until_full(http: httpx.AsyncClient) -> asyncio.Task[httpx.Response]:
    """When every slot is taken; returns the request that found it so and waits."""
    while True:
        probe = asyncio.create_task(short(http))
        await asyncio.wait([probe], timeout=1.0)
        if not probe.done():
            return probe


async def test_requests_run_side_by_side(server: OllamaServer) -> None:
    async with server.async_client() as http, counting(http) as first:
        assert (await short(http)).json()["done"]
        assert not first.done()


async def test_a_caller_that_leaves_frees_its_slot(server: OllamaServer) -> None:
    async with server.async_client() as http, AsyncExitStack() as rest, asyncio.timeout(ENOUGH_S):
        leaver = AsyncExitStack()
        await leaver.enter_async_context(counting(http))
        others = [await rest.enter_async_context(counting(http)) for _ in range(PARALLEL - 1)]
        waiting = asyncio.create_task(short(http))
        await asyncio.wait([waiting], timeout=0.2)
        assert not waiting.done()
        await leaver.aclose()
        assert (await waiting).json()["done"]
        assert not any(other.done() for other in others)


async def test_it_need_not_be_streaming_to_leave(server: OllamaServer) -> None:
    async with server.async_client() as http, asyncio.timeout(ENOUGH_S):
        whole = [
            asyncio.create_task(http.post("/api/generate", json={**COUNTING, "stream": False}))
            for _ in range(PARALLEL)
        ]
        waiting = await until_full(http)
        for task in whole:
            task.cancel()
        await asyncio.wait(whole)
        assert (await waiting).json()["done"]


async def test_a_caller_may_leave_the_queue(server: OllamaServer) -> None:
    async with server.async_client() as http, AsyncExitStack() as running, asyncio.timeout(ENOUGH_S):
        for _ in range(PARALLEL):
            await running.enter_async_context(counting(http))
        for _ in range(WAITING_MAX + 2):  # More than may wait, one after the other.
            waiting = asyncio.create_task(short(http))
            await asyncio.wait([waiting], timeout=0.05)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.wait([waiting])
        await running.aclose()
        assert (await short(http)).json()["done"]


@pytest.mark.parametrize("kept", ["fake_ollama", "runtime"])
async def test_the_queue_has_a_bound(kept: str, request: pytest.FixtureRequest) -> None:
    """Even for slots of a loaded model, for which Ollama itself, and so the fake with a machine, has none."""
    server: OllamaServer = request.getfixturevalue(kept)
    async with server.async_client() as http, AsyncExitStack() as running, asyncio.timeout(ENOUGH_S):
        for _ in range(PARALLEL):
            await running.enter_async_context(counting(http))
        callers = [asyncio.create_task(short(http)) for _ in range(WAITING_MAX + 3)]
        refused = [await reply for reply in itertools.islice(asyncio.as_completed(callers), 3)]
        for reply in refused:
            assert reply.status_code == 503
            text = "server busy, please try again.  maximum pending requests exceeded"
            assert reply.json() == {"error": text}
        await running.aclose()
        statuses = [(await task).status_code for task in callers]
        assert statuses.count(200) == WAITING_MAX


async def test_the_async_client_can_stop_listening(server: OllamaServer) -> None:
    client = ollama.AsyncClient(host=server.url, headers={"Connection": "close"})
    async with server.async_client() as http, asyncio.timeout(ENOUGH_S):
        for _ in range(PARALLEL + 1):
            stream = await client.generate(
                CHAT, "1, 2, 3, 4,", raw=True, stream=True, options={"num_predict": 20_000}
            )
            await anext(aiter(stream))
            await stream.aclose()  # type: ignore[attr-defined]  # It is a generator.
        assert (await short(http)).json()["done"]
