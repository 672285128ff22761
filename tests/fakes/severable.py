"""A TCP proxy whose cable can be pulled, and put back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.fakes.ports import bound, port_of


class Severable:
    """Forwards to `target_port`. Cut, it drops its connections and refuses new ones."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._reserved = bound()  # While the cable is cut.
        self.port = port_of(self._reserved)

    @classmethod
    @asynccontextmanager
    async def to(cls, target_port: int) -> AsyncIterator["Severable"]:
        cable = cls(target_port)
        await cable.mend()
        try:
            yield cable
        finally:
            await cable.cut()
            cable._reserved.close()

    async def mend(self) -> None:
        if self._server is not None:
            return
        self._server = await asyncio.start_server(self._connect, sock=bound(self.port))

    async def cut(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for writer in self._writers:
            writer.transport.abort()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        for source, sink in ((reader, back), (there, writer)):
            pump = asyncio.create_task(_pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
        sink.write_eof()
