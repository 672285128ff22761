"""Jails that do as they are told, for tests of what is built on them."""

import asyncio
from dataclasses import dataclass, field

from services.sandbox.core.lifecycle import Ending
from services.sandbox.core.limits import Limits
from services.sandbox.errors import SandboxUnavailable, SessionsNotSupported
from services.sandbox.ports import Program, Strength, Warm, Write
from services.sandbox.profiles import Profile
from tests.fakes.fake_session_jail import FakeSessionJail


class FakeJail:
    """Runs until it is told how it ends; a kill ends it with SIGKILL."""

    def __init__(self) -> None:
        self._over: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.write: Write = lambda _stream, _data: None
        self.begun = asyncio.Event()
        self.fed = b""
        self.is_input_ended = False
        self.reads = asyncio.Event()  # Cleared, it reads no input.
        self.reads.set()
        self.interrupt_count = self.kill_count = 0

    def begin(self, program: Program, write: Write) -> None:
        self.write = write
        self.begun.set()

    async def feed(self, data: bytes, *, end: bool) -> None:
        await self.reads.wait()
        self.fed += data
        self.is_input_ended = end

    def interrupt(self) -> None:
        self.interrupt_count += 1

    def end(self, status: int | None) -> None:
        if not self._over.done():
            self._over.set_result(Ending(status, None, cpu_s=0.5, peak_memory_bytes=7))

    def kill(self) -> None:
        self.kill_count += 1
        self.end(-9)

    async def ended(self) -> Ending:
        return await asyncio.shield(self._over)


@dataclass
class FakeJails:
    """Gives a jail whenever it is asked for one."""

    engine: str = "fake"
    profile: Profile = field(default_factory=lambda: Profile(name="python"))
    problem: str | None = None
    strength: Strength = field(default_factory=lambda: Strength((), ()))
    warm: Warm = field(default_factory=Warm)
    given: "asyncio.Queue[FakeJail]" = field(default_factory=asyncio.Queue)
    keeps_sessions: bool = True
    opened: list[FakeSessionJail] = field(default_factory=list)

    async def take(self, limits: Limits) -> FakeJail:
        await asyncio.sleep(0)
        if self.problem is not None:
            raise SandboxUnavailable(problem=self.problem)
        jail = FakeJail()
        self.given.put_nowait(jail)
        return jail

    async def open(self, limits: Limits) -> FakeSessionJail:
        await asyncio.sleep(0)
        if self.problem is not None:
            raise SandboxUnavailable(problem=self.problem)
        if not self.keeps_sessions:
            raise SessionsNotSupported(profile=self.profile.name)
        jail = FakeSessionJail(limits)
        self.opened.append(jail)
        return jail

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def next_begun(self) -> FakeJail:
        jail = await self.given.get()
        await jail.begun.wait()
        return jail
