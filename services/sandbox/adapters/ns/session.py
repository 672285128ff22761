"""The service's end of a session's jail."""

import asyncio

from services.sandbox.adapters.ns.files import NsFiles
from services.sandbox.adapters.ns.inside.order import Closed, Ended, Finished, Found, Message
from services.sandbox.adapters.ns.jail import LOST, NsJail
from services.sandbox.core.lifecycle import Ending
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.ports import Program, Write


class NsSession:
    """The port `SessionJail`: a jail that has not run anything, asked to go on after each program."""

    def __init__(self, jail: NsJail, *, files_bytes_max: int) -> None:
        """Raises SandboxUnavailable."""
        self._jail = jail
        self._finished: asyncio.Future[Ending] | None = None  # Of the program begun last.
        self.files = NsFiles(jail, bytes_max=files_bytes_max)
        jail.become_session(self._hear, self._lose)

    @property
    def alive(self) -> bool:
        return (
            self._jail.alive and not self._jail.killed
        )  # Its program may have ended before the kill arrived.

    def begin(self, program: Program, write: Write) -> None:
        assert self._finished is None or self._finished.done()
        if not self.alive:
            raise SandboxUnavailable(problem=LOST)
        self._jail.cgroup.begin_anew()
        self._jail.begin(program, write)
        self._finished = asyncio.get_running_loop().create_future()

    async def feed(self, data: bytes, *, end: bool) -> None:
        await self._jail.feed(data, end=end)

    def interrupt(self) -> None:
        if self._finished is not None and not self._finished.done():
            self._jail.interrupt()

    def kill(self) -> None:
        self._jail.kill()

    async def finished(self) -> Ending:
        assert self._finished is not None
        return await asyncio.shield(self._finished)  # A waiter that is cancelled leaves the rest as it is.

    async def ended(self) -> Ending:
        return await self._jail.ended()

    def _hear(self, message: Message) -> None:
        match message:
            case Finished() if self._finished and not self._finished.done():
                self._jail.drain()
                ended = Ended(
                    message.status, None, message.cpu_s, message.peak_memory_bytes, message.files_full
                )
                self._finished.set_result(self._jail.ending(ended))
            case Found() | Closed():
                self.files.hear(message)
            case _:
                raise ValueError("not a message of a session")

    def _lose(self) -> None:
        """The jail is over, and what ran in it."""
        self.files.lose()
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(self._jail.result())
