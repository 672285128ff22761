"""The init of a session: it hands programs to the interpreter, one after another, and keeps its files.

Between programs the interpreter stands still, and nothing else lives. What it says is believed in one matter only: that
a program has ended, and with which status. It can be made to say that too early or never; then its own program is
stopped, or runs into its limits. Whatever else it says ends the session.
"""

import os
import resource
import select
import signal
import socket
import time
from contextlib import suppress

from services.sandbox.guest import reaping

from . import processes
from .meter import PERIOD_S, Meter, files_full
from .order import (
    PACKET_BYTES_MAX,
    PROGRAM_DESCRIPTORS_COUNT,
    Delete,
    Ended,
    Finished,
    Get,
    Interrupt,
    Kill,
    List,
    Message,
    Order,
    Put,
    Run,
    pack,
    unpack,
)
from .running import NEXT, STARTED, told_status
from .transfers import Transfers

SETTLED_WITHIN_S = 5.0  # It takes less than a millisecond, unless a program does what it can against it.
_LOOK_AGAIN_MS = 1.0
_WAKES_BYTES = 4096


class Session:
    def __init__(
        self, order: Order, interpreter: int, channel: socket.socket, service: socket.socket
    ) -> None:
        """`interpreter` is the process at the other end of `channel`."""
        self._order, self._interpreter = order, interpreter
        self._channel, self._service = channel, service
        self._events = select.poll()
        self._transfers = Transfers(self._events, self._tell)
        self._children = _told_of_children()
        self._runs = self._begun = self._is_wanted_interrupted = False
        self._breach: str | None = None
        self._status: int | None = None  # Of the interpreter, once that has ended.
        self._meter = Meter(memory_bytes=order.memory_bytes, cpu_s=None)
        self._cpu_before_s = processes.cpu_s()

    def live(self) -> Ended:
        """Until the interpreter has ended, by itself or at the service's wish. Nothing of the session is left then."""
        self._channel.settimeout(0)
        for descriptor in (self._service.fileno(), self._children):
            self._events.register(descriptor, select.POLLIN)
        self._stop_interpreter()
        while True:
            metered = self._order.memory_bytes is not None or self._order.cpu_s is not None
            period_ms = 1000 * PERIOD_S if metered and self._runs else None
            ready = {descriptor for descriptor, _ in self._events.poll(period_ms)}
            self._reap()
            if self._status is not None:
                return self._ended(self._status)
            if metered and self._runs:
                self._measure()
            for descriptor in ready - {self._service.fileno()}:
                self._on(descriptor)
            if self._service.fileno() in ready:  # Last: what was given up before it spoke is given up then.
                self._obey()

    def _on(self, descriptor: int) -> None:
        if descriptor == self._channel.fileno():
            self._hear()
        elif descriptor == self._children:
            self._await_children(0)
        else:
            self._transfers.on(descriptor)

    def _obey(self) -> None:
        packet, descriptors, _, _ = socket.recv_fds(
            self._service, PACKET_BYTES_MAX, PROGRAM_DESCRIPTORS_COUNT
        )
        if not packet:
            os._exit(0)  # The service is gone.
        match unpack(packet):
            case Run():
                self._run(descriptors)
            case Interrupt():
                self._is_wanted_interrupted = self._runs
                self._interrupt()
            case Kill():
                reaping.kill_others()
            case Put() | Get() | List() | Delete() as order:
                self._transfers.begin(order, descriptors)
            case other:
                raise RuntimeError(f"{type(other).__name__} is not for a jail")

    def _run(self, descriptors: list[int]) -> None:
        self._runs, self._begun, self._is_wanted_interrupted = True, False, False
        self._cpu_before_s = processes.cpu_s()
        self._meter = Meter(memory_bytes=self._order.memory_bytes, cpu_s=None)
        try:
            socket.send_fds(self._channel, [NEXT], descriptors)
        except OSError:  # It is dead, or reads nothing.
            reaping.kill_others()
            return
        finally:
            for descriptor in descriptors:  # The program's streams must end with the program.
                os.close(descriptor)
        self._events.register(self._channel, select.POLLIN)
        with suppress(ProcessLookupError):
            os.kill(self._interpreter, signal.SIGCONT)

    def _hear(self) -> None:
        """The interpreter says something, or somebody in its place. Descriptors that come along are not taken."""
        try:
            said = self._channel.recv(PACKET_BYTES_MAX)
        except OSError:
            return
        if said == STARTED and not self._begun:
            self._begun = True
            self._interrupt()
        elif (status := told_status(said)) is not None:
            self._finish(status)
        else:
            reaping.kill_others()

    def _interrupt(self) -> None:
        """As soon as there is something to be interrupted: what comes before would be lost."""
        if self._begun and self._is_wanted_interrupted:
            self._is_wanted_interrupted = False
            with suppress(ProcessLookupError):
                os.killpg(self._interpreter, signal.SIGINT)

    def _finish(self, status: int) -> None:
        self._runs = False
        self._events.unregister(self._channel)
        self._stop_interpreter()
        if self._status is not None:
            return  # Its end is told instead.
        cpu_s = processes.cpu_s() - self._cpu_before_s
        self._tell(Finished(status, cpu_s, self._meter.peak_memory_bytes, files_full()))

    def _measure(self) -> None:
        breach = self._meter.breach()
        if breach is None and self._order.cpu_s is not None:
            breach = "cpu" if processes.cpu_s() - self._cpu_before_s > self._order.cpu_s else None
        if breach is not None:
            self._breach = self._breach or breach
            reaping.kill_others()

    def _stop_interpreter(self) -> None:
        """End everything else, and have it stand still.

        A signal to all reaches all: none that forks meanwhile escapes it. Whoever was about to wake another is
        stopped then too, or has done it, and is seen to.
        """
        until_s = time.monotonic() + SETTLED_WITHIN_S
        while time.monotonic() < until_s:
            with suppress(ProcessLookupError):
                os.kill(-1, signal.SIGSTOP)
            self._reap()
            others = [
                pid
                for pid in processes.others()
                if pid != self._interpreter and processes.state(pid) not in "ZX"
            ]
            for pid in others:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not others and self._stands_still():
                return
            self._await_children(_LOOK_AGAIN_MS)
        reaping.kill_others()

    def _stands_still(self) -> bool:
        states = {
            processes.state(self._interpreter, thread) for thread in processes.threads(self._interpreter)
        }
        return states <= set("TZX")

    def _await_children(self, period_ms: float) -> None:
        """Until one has ended or stopped, and no longer than that."""
        awaited = select.poll()
        awaited.register(self._children, select.POLLIN)
        awaited.poll(period_ms)
        with suppress(BlockingIOError):
            os.read(self._children, _WAKES_BYTES)

    def _reap(self) -> None:
        if (status := reaping.reaped(self._interpreter)) is not None:
            self._status = status

    def _ended(self, status: int) -> Ended:
        reaping.kill_others()
        processes.reap_all()
        peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        cpu_s = processes.cpu_s() - self._cpu_before_s
        return Ended(
            status, self._breach, cpu_s, max(self._meter.peak_memory_bytes, peak_bytes), files_full()
        )

    def _tell(self, message: Message) -> None:
        self._service.send(pack(message))


def _told_of_children() -> int:
    """A descriptor that can be read whenever a child has ended or stopped."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    return reading
