"""Programs in jails of this process, and what they write."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from services.sandbox.adapters.ns.engine import NsJails
from services.sandbox.core.lifecycle import Ending
from services.sandbox.core.limits import Limits
from services.sandbox.core.results import Decoder, Result
from services.sandbox.ports import Jail, Program, SessionJail, Stream
from tests.service.sandbox_app import TIMEOUT_S


@dataclass(slots=True)
class Output:
    """What programs wrote, in the order in which it came."""

    written: list[tuple[Stream, bytes]] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, stream: Stream, data: bytes) -> None:
        self.written.append((stream, data))
        self.came.set()

    def of(self, stream: Stream) -> bytes:
        return b"".join(data for written, data in self.written if written is stream)

    @property
    def stdout(self) -> str:
        return self.of(Stream.STDOUT).decode()

    @property
    def stderr(self) -> str:
        return self.of(Stream.STDERR).decode()

    @property
    def results(self) -> list[Result]:
        return Decoder(bytes_max=1 << 24, count_max=100).feed(self.of(Stream.RESULTS))

    @property
    def plain(self) -> list[str]:
        return [result["text/plain"].decode() for result in self.results]

    async def until(self, stdout: str) -> None:
        """Return when that has been written."""
        async with asyncio.timeout(TIMEOUT_S):
            while stdout not in self.stdout:
                self.came.clear()
                await self.came.wait()


def begin(jail: Jail, code: str, stdin: bytes = b"", *, stdin_open: bool = False) -> Output:
    output = Output()
    jail.begin(Program(code.encode(), stdin, stdin_open), output.write)
    return output


@asynccontextmanager
async def session_of(jails: NsJails, limits: Limits) -> AsyncIterator[SessionJail]:
    """A session that is ended with the test."""
    opened = await jails.open(limits)
    yield opened
    opened.kill()
    await ended(opened)


async def ended(jail: Jail) -> Ending:
    async with asyncio.timeout(TIMEOUT_S):
        return await jail.ended()


async def finished(jail: SessionJail) -> Ending:
    async with asyncio.timeout(TIMEOUT_S):
        return await jail.finished()
