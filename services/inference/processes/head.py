"""The head, as a worker has it: a link, the engine at its end, and the duty to tell what was counted."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from services.inference.core.ledger import Ledger
from services.inference.ports import Instance
from services.inference.processes.far_engine import FarEngine
from services.inference.processes.link import Link
from services.inference.processes.messages import Counts, Family, Serving

COUNTS_EVERY_S = 1.0


class HeadLost(Exception):
    """There is nobody left to decide: the worker must end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The other side of a worker's link."""

    engine: FarEngine
    _link: Link
    _counted: Callable[[], tuple[Family, ...]]

    def serving(self, port: int) -> None:
        """Say that the worker takes calls."""
        self._link.send(Serving(port=port))

    async def run(self) -> None:
        """Tell what was counted until cancelled. Raises HeadLost when there is nobody to be told."""
        while not self._link.lost:
            self.tell()
            with suppress(TimeoutError):
                async with asyncio.timeout(COUNTS_EVERY_S):
                    await self._link.until_lost()
        raise HeadLost

    def tell(self) -> None:
        self._link.send(Counts(families=self._counted()))


@asynccontextmanager
async def head_at(
    descriptor: int,
    instances: Mapping[str, Instance],
    ledger: Ledger,
    *,
    stop: asyncio.Event,
    counted: Callable[[], tuple[Family, ...]],
    refused: Callable[[str], None],
) -> AsyncIterator[Head]:
    """The head at the other end of an inherited socket. Leaving it, end what runs and tell the last counts first."""
    link = Link()
    engine = FarEngine(instances, ledger, send=link.send, stop=stop, refused=refused)
    link.gives(engine.take)
    sock = socket.socket(fileno=descriptor)
    await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=sock)
    head = Head(engine=engine, _link=link, _counted=counted)
    try:
        yield head
    finally:
        await engine.end()
        head.tell()
        await link.close()
