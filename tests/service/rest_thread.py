"""Servers in a thread of their own, for tests that block: LangChain's have no loop to share."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from tests.service import inference_app
from tests.service.rest_app import Rest, edge_before

START_WITHIN_S = 60.0


class Server(Protocol):
    """What is served."""

    @property
    def url(self) -> str: ...

    def token(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    """The inference service, without an edge."""

    service: inference_app.Service

    @property
    def url(self) -> str:
        """Where gRPC is to go."""
        return self.service.target

    def token(self) -> str:
        return self.service.identity.token(org="org-1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What a client needs."""

    url: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        # LangChain's clients cannot be closed; this has the server do it after each reply.
        return {"Authorization": f"Bearer {self.token}", "Connection": "close"}


@contextmanager
def in_thread(opened: Callable[[], AbstractAsyncContextManager[Server]]) -> Iterator[Edge]:
    """Run what `opened` opens until the block ends."""
    ready, found = threading.Event(), []
    loop = asyncio.new_event_loop()
    over: asyncio.Event = asyncio.Event()

    async def serve() -> None:
        async with opened() as server:
            found.append(Edge(url=server.url, token=server.token()))
            ready.set()
            await over.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run, name="edge")
    thread.start()
    try:
        assert ready.wait(START_WITHIN_S)
        assert found, "the edge did not start"
        yield found[0]
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(over.set)
        thread.join()


@asynccontextmanager
async def before(url: str) -> AsyncIterator[Rest]:
    """The edge before one instance in another process."""
    async with edge_before(url, instance_slots=2) as rest:
        yield rest


@asynccontextmanager
async def direct(url: str) -> AsyncIterator[Direct]:
    """The inference service before one instance in another process."""
    async with inference_app.serving(url, instance_slots=2) as service:
        yield Direct(service=service)
