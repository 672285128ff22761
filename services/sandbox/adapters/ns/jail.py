"""The service's end of one jail."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import structlog

from services.sandbox.adapters.ns.cgroups import Cgroup
from services.sandbox.adapters.ns.inside.order import (
    ONLY,
    PACKET_BYTES_MAX,
    SESSION,
    TRIAL,
    Ended,
    Failed,
    Interrupt,
    Kill,
    Message,
    Ready,
    Reaped,
    Run,
    pack,
    unpack,
)
from services.sandbox.adapters.ns.streams import Streams
from services.sandbox.core.lifecycle import Ending
from services.sandbox.core.limits import LimitKind
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.ports import Program, Write

log = structlog.get_logger(__name__)

ANSWER_WITHIN_S = 0.5
LOST = "the session's jail was lost"
SHORT = "the service is short of descriptors or memory"


class NsJail:
    """Ready once `ready` is done, over once `ended` returns, and gone once `gone` is done.

    All of it happens in callbacks of the event loop: Born and Ready, `begin`, output, Ended, Reaped. With Ended
    every process of the program is dead, so that what the pipes hold is all the output there will ever be; only
    the init, which told it, has still to die, with the walls. That takes the kernel longer than a short program
    takes, and nobody need wait for it but who uses again what the jail had. Without Ended, Reaped is the end.
    """

    def __init__(self, jail_id: int, service: socket.socket, cgroup: Cgroup) -> None:
        loop = asyncio.get_running_loop()
        self.jail_id = jail_id
        self.cgroup = cgroup
        self.ready: asyncio.Future[None] = loop.create_future()
        self._service = service
        self._pidfd: int | None = None
        self._is_ready = self._begun = self._killed = self._out_of_memory = False
        self._over: asyncio.Future[Ending] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self._streams = Streams(lambda _stream, _data: None)
        self._kind = ONLY
        self._hear_session: Callable[[Message], None] | None = None  # If it is one.
        service.settimeout(0)
        loop.add_reader(service, self._hear)
        if cgroup.oom_event is not None:
            loop.add_reader(cgroup.oom_event, self._suffocate, cgroup.oom_event)

    @property
    def alive(self) -> bool:
        return not self._over.done()

    @property
    def killed(self) -> bool:
        """Whether somebody has called `kill`."""
        return self._killed

    def begin(self, program: Program, write: Write) -> None:
        self._streams = Streams(write)
        self._begun = True
        try:
            with ExitStack() as theirs:
                descriptors = self._streams.connect(program, theirs)
                self.send(self._kind if self._hear_session is None else pack(Run()), descriptors)
        except OSError as error:
            log.exception("program_not_begun", jail_id=self.jail_id)
            raise SandboxUnavailable(problem=SHORT) from error

    def kill(self) -> None:
        """Have the init end everything and tell what it used; without a program, or an answer, end the init."""
        if self._killed:
            return
        self._killed = True
        if not self._begun or not self.alive:
            self._signal(signal.SIGKILL)
            return
        if self._hear_session is None:
            self._signal(signal.SIGTERM)
        else:
            with suppress(SandboxUnavailable):
                self.send(pack(Kill()))
        asyncio.get_running_loop().call_later(ANSWER_WITHIN_S, self._signal, signal.SIGKILL)

    async def feed(self, data: bytes, *, end: bool) -> None:
        await self._streams.feed(data, end=end)

    def interrupt(self) -> None:
        if not self._begun or not self.alive:
            return
        if self._hear_session is None:
            self._signal(signal.SIGINT)
        else:
            self.send(pack(Interrupt()))

    def become_trial(self) -> None:
        """It will be tried by a program for the interpreter, whatever its profile runs."""
        self._kind = TRIAL

    def become_session(self, hear: Callable[[Message], None], over: Callable[[], None]) -> None:
        """From now on its init runs one program after another. `hear` is told what it says of them and of files, and
        `over` that nothing more will come. Raises SandboxUnavailable.
        """
        self._hear_session = hear
        self._over.add_done_callback(lambda _: over())
        self.send(SESSION)

    def send(self, packet: bytes, descriptors: Sequence[int] = ()) -> None:
        """Say something to the init. Raises SandboxUnavailable."""
        assert len(packet) <= PACKET_BYTES_MAX, "the init would read a part of it, and die"
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # It has died; Reaped follows.
                socket.send_fds(self._service, [packet], descriptors)
        except OSError as error:
            raise SandboxUnavailable(problem=SHORT) from error

    def drain(self) -> None:
        """What ran has ended, and nobody writes any more."""
        self._streams.drain()

    def result(self) -> Ending:
        """How it ended; it has."""
        return self._over.result()

    def ending(self, told: Ended) -> Ending:
        """What the init has told, and what the cgroup knows better."""
        breach = LimitKind(told.breach) if told.breach else None
        if self._out_of_memory or self.cgroup.memory_exceeded():
            breach = LimitKind.MEMORY
        found = {
            LimitKind.PROCESSES: self.cgroup.processes_refused(),
            LimitKind.FILES: told.files_full,
        }
        reached = frozenset(kind for kind, holds in found.items() if holds)
        peak_bytes = self.cgroup.peak_memory_bytes() or told.peak_memory_bytes
        return Ending(told.status, breach, told.cpu_s, peak_bytes, reached)

    async def ended(self) -> Ending:
        return await asyncio.shield(self._over)  # A waiter that is cancelled leaves the rest as it is.

    def born(self, pidfd: int | None) -> None:
        """`pidfd` is None if the service had no descriptor left for it. Then its init, which waits for us, is hung up on."""
        if pidfd is None:
            log.error("jail_not_held", jail_id=self.jail_id, problem=SHORT)
            self._service.shutdown(socket.SHUT_RDWR)
            return
        self._pidfd = pidfd
        if self._killed:
            self._signal(signal.SIGKILL)
        self._settle_ready()

    def reaped(self, usage: Reaped) -> None:
        """Nothing of it is left."""
        while self._hear():
            pass
        if not self._over.done():
            nobody_told = Ended(None, None, usage.cpu_s, usage.peak_memory_bytes, files_full=False)
            self._finish(nobody_told)
        self._close()
        self.gone.set_result(None)

    def _finish(self, told: Ended) -> None:
        self.drain()
        self._over.set_result(self.ending(told))

    def _signal(self, number: signal.Signals) -> None:
        if not self.gone.done() and self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _suffocate(self, oom_event: int) -> None:
        """The kernel kills for memory, but perhaps not enough: end the rest too."""
        asyncio.get_running_loop().remove_reader(oom_event)
        self._out_of_memory = True
        self.kill()

    def _hear(self) -> bool:
        """Take one packet from the init. Return whether there may be another."""
        try:
            packet = self._service.recv(PACKET_BYTES_MAX)
        except BlockingIOError:
            return False
        except ConnectionResetError:  # It died with something of ours unread.
            packet = b""
        if not packet:
            asyncio.get_running_loop().remove_reader(self._service)
            return False
        try:
            self._take_in(unpack(packet))
        except ValueError:
            log.exception("jail_not_understood", jail_id=self.jail_id)
            self._signal(signal.SIGKILL)
        return True

    def _take_in(self, message: Message) -> None:
        match message:
            case Ready():
                self._is_ready = True
                self._settle_ready()
            case Failed(why):
                log.error("jail_failed", why=why)
            case Ended() if self.alive:
                self._finish(message)
            case _ if self._hear_session is not None and self.alive:
                self._hear_session(message)

    def _settle_ready(self) -> None:
        if self._is_ready and self._pidfd is not None and not self.ready.done():
            self.ready.set_result(None)

    def _close(self) -> None:
        if not self.ready.done():
            self.ready.set_exception(SandboxUnavailable(problem="a jail could not be built"))
        asyncio.get_running_loop().remove_reader(self._service)
        self._service.close()
        if self.cgroup.oom_event is not None:
            asyncio.get_running_loop().remove_reader(self.cgroup.oom_event)
        self._streams.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
