"""The service's end of one jail."""

import asyncio
from contextlib import suppress

import structlog

from services.sandbox.adapters.gvisor.inside.wire import (
    CONTROL,
    RESULTS,
    STDERR,
    STDIN,
    STDOUT,
    TOLD,
    Begin,
    Ended,
    Failed,
    Interrupt,
    Kill,
    Ready,
    pack,
    unpack,
)
from services.sandbox.adapters.gvisor.pipes import Incoming, Outgoing
from services.sandbox.adapters.gvisor.processes import Processes
from services.sandbox.adapters.gvisor.runsc import Started
from services.sandbox.adapters.ns.cgroups import Cgroup
from services.sandbox.core.lifecycle import Ending
from services.sandbox.core.limits import MIB, LimitKind, Limits
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.ports import Program, Stream, Write

log = structlog.get_logger(__name__)

ANSWER_WITHIN_S = 0.5
LINE_BYTES_MAX = 1 << 13  # Of what the init tells.
KERNEL_BYTES = 96 * MIB  # What gVisor's own processes may take besides the program's memory.
WEIGH_EVERY_S = 0.1
_STREAMS = {STDOUT: Stream.STDOUT, STDERR: Stream.STDERR, RESULTS: Stream.RESULTS}


class GvisorJail:
    """Ready once `ready` is done, over once `ended` returns, buried once `buried` is done.

    The init tells how the program ended when nothing that could run it is left; what is left then is gVisor's own
    kernel, which is killed. Without that word, it is over when the host's processes are gone.
    """

    def __init__(
        self, jail_id: int, started: Started, cgroup: Cgroup, limits: Limits, *, is_weighed: bool
    ) -> None:
        """Watch what has just been started. `is_weighed`: no control group limits its memory."""
        loop = asyncio.get_running_loop()
        self.jail_id, self.cgroup, self.limits = jail_id, cgroup, limits
        self.ready: asyncio.Future[None] = loop.create_future()
        self.buried: asyncio.Future[None] = loop.create_future()
        self._over: asyncio.Future[Ending] = loop.create_future()
        self._begun = self._killed = False
        self._is_weighed, self._idle_bytes, self._idle_cpu_s = is_weighed, 0, 0.0
        self._breach: LimitKind | None = None
        self._used_s = 0.0
        self._write: Write = lambda _stream, _data: None
        self._line = bytearray()
        self._control = Outgoing(started.pipes[CONTROL])
        self._stdin = Outgoing(started.pipes[STDIN])
        self._told = Incoming(started.pipes[TOLD], self._hear)
        self._outputs = [self._output(started.pipes[number], stream) for number, stream in _STREAMS.items()]
        self._processes = Processes(started.process, self._bury)
        if cgroup.oom_event is not None:
            loop.add_reader(cgroup.oom_event, self._suffocate, cgroup.oom_event)

    @property
    def alive(self) -> bool:
        return not self._over.done()

    @property
    def pids(self) -> frozenset[int]:
        """Of the host's processes that belong to it and live."""
        return self._processes.pids

    def begin(self, program: Program, write: Write) -> None:
        self._write, self._begun = write, True
        self._idle_bytes = self._processes.private_bytes() if self._is_weighed else self.cgroup.memory_bytes()
        self._idle_cpu_s = self._processes.cpu_s()
        if self._is_weighed or self.limits.cpu_s is not None:
            self._weigh()
        order = Begin(
            code_bytes=len(program.code),
            process_count=self.limits.process_count,
            files_bytes=self.limits.files_bytes,
            memory_bytes=self.limits.memory_bytes,
        )
        self._control.write(pack(order) + program.code)
        self._stdin.write(program.stdin)
        if not program.stdin_open:
            self._stdin.end()

    async def feed(self, data: bytes, *, end: bool) -> None:
        self._stdin.write(data)
        if end:
            self._stdin.end()
        await self._stdin.drained()

    def interrupt(self) -> None:
        if self._begun:
            self._control.write(pack(Interrupt()))

    def kill(self) -> None:
        """Have the init end everything and tell what it used; without a program, or an answer, end the kernel."""
        if self._killed:
            return
        self._killed = True
        if self._begun and self.alive:
            self._cpu_s()
            self._control.write(pack(Kill()))
            asyncio.get_running_loop().call_later(ANSWER_WITHIN_S, self._processes.kill)
        else:
            self._processes.kill()

    async def ended(self) -> Ending:
        return await asyncio.shield(self._over)  # A waiter that is cancelled leaves the rest as it is.

    def _output(self, pipe: int, stream: Stream) -> Incoming:
        return Incoming(pipe, lambda data: self._write(stream, data) if data else None)

    def _hear(self, data: bytes) -> None:
        self._line += data
        while b"\n" in self._line:
            line, _, rest = bytes(self._line).partition(b"\n")
            self._line[:] = rest
            self._take(line)
        if not data or len(self._line) > LINE_BYTES_MAX:
            self._processes.kill()

    def _take(self, line: bytes) -> None:
        match unpack(line):
            case Ready():
                self._processes.know_all()
                if not self.ready.done():
                    self.ready.set_result(None)
            case Failed(why):
                log.error("jail_failed", engine="gvisor", why=why)
            case Ended() as told:
                self._end(told)

    def _end(self, told: Ended | None) -> None:
        """Nothing that could run the program is left."""
        if self._over.done():
            return
        for output in self._outputs:
            output.take_rest()
        self._over.set_result(self._ending(told))
        self._processes.kill()

    def _ending(self, told: Ended | None) -> Ending:
        used_bytes = max(0, self.cgroup.peak_memory_bytes() - self._idle_bytes)
        if self.cgroup.memory_exceeded():
            self._breach = LimitKind.MEMORY
        if told is None:
            return Ending(status=None, breach=self._breach, cpu_s=self._used_s, peak_memory_bytes=used_bytes)
        breach = LimitKind(told.breach) if told.breach else None
        return Ending(
            told.status,
            self._breach or breach,
            self._cpu_s(),
            max(told.peak_memory_bytes, used_bytes),
            frozenset(map(LimitKind, told.reached)),
        )

    def _weigh(self) -> None:
        """Look what the host's processes have used, and end them when it is too much.

        Memory, because a program may have gVisor's kernel keep things for it.
        """
        if not self.alive:
            return
        self._processes.know_all()
        self._cpu_s()
        if self._is_weighed and self._processes.private_bytes() > self._idle_bytes + KERNEL_BYTES:
            self._breach = LimitKind.MEMORY
            self._processes.kill()
            return
        if self.limits.cpu_s is not None and self._cpu_s() > self.limits.cpu_s:
            self._breach = LimitKind.CPU
            self.kill()
            return
        asyncio.get_running_loop().call_later(WEIGH_EVERY_S, self._weigh)

    def _cpu_s(self) -> float:
        """Since it began; once its processes are gone, as far as was seen."""
        self._used_s = max(self._used_s, self._processes.cpu_s() - self._idle_cpu_s)
        return self._used_s

    def _suffocate(self, oom_event: int) -> None:
        """The host kills for memory: gVisor's kernel, or one of its stubs, without which it is of no use."""
        asyncio.get_running_loop().remove_reader(oom_event)
        self._breach = LimitKind.MEMORY
        self._processes.kill()

    def _bury(self) -> None:
        """The host's processes are gone."""
        with suppress(ValueError):  # A line that was cut off.
            self._told.take_rest()
        if not self._killed and not self._over.done():
            log.error("jail_died", engine="gvisor", complaint=self._processes.complaint)
        self._end(None)
        if not self.ready.done():
            self.ready.set_exception(SandboxUnavailable(problem="a jail could not be built"))
            self.ready.exception()  # Perhaps nobody waits for it any more.
        for going in (self._control, self._stdin):
            going.close()
        for coming in (self._told, *self._outputs):
            coming.close()
        if self.cgroup.oom_event is not None:
            asyncio.get_running_loop().remove_reader(self.cgroup.oom_event)
        self.buried.set_result(None)
