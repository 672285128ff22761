"""The first process in a gVisor jail: it builds what is left to build, and tells how the program ended.

It is root of gVisor's kernel, with a few capabilities there (none on the host), and the program is not: so the
program can neither stop nor trace nor imitate it. The descriptors that it talks to the service by are closed
in the program's process before that receives a byte of code.
"""

import json
import os
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import NoReturn

from services.sandbox.guest import reaping

from . import kernel, program
from .meter import PERIOD_S, Meter
from .wire import (
    CONTROL,
    RESULTS,
    STDIN,
    TOLD,
    Begin,
    Ended,
    Failed,
    Interrupt,
    Kill,
    Make,
    Message,
    Ready,
    pack,
    unpack,
)

_SIZE = struct.Struct(">II")  # Of the Begin and of the code, on their way to the program's process.
_READ_BYTES = 1 << 16
_LINE_BYTES_MAX = 1 << 12
_STORE = "/run"
_WRITABLE = {"work": "/work", "tmp": "/tmp", "shm": "/dev/shm"}  # noqa: S108 -- the jail's own.
_HIDDEN = ("/mnt", "/sys")  # Where this very code lies, and what no program needs.


def main() -> NoReturn:
    """`python -m ... MAKE`."""
    try:
        _live(Make(**json.loads(sys.argv[1])))
    except BaseException as error:  # noqa: BLE001 -- told, whatever it is.
        _tell(Failed(repr(error)[:1000]))
    finally:
        os._exit(1)


def _live(make: Make) -> NoReturn:
    _let_go_of_host()
    del sys.path[0]  # Where this very code lies.
    meter = Meter()
    for place in _HIDDEN:
        kernel.detach(place)
    # gVisor lets anybody read where the memory of a process lies, and what it has open.
    kernel.mount("tmpfs", f"/proc/{os.getpid()}", kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV)
    _open_store(make.files_bytes)
    kernel.bound_capabilities()
    wake, pid = _fork_program(make)
    meter.enter(pid)
    children = _told_of_children()
    if os.read(wake, 1) != program.READY:
        raise RuntimeError("the process for the program ended")
    _tell(Ready())
    control = Control()
    if (begun := control.next_begin()) is None:
        os._exit(0)
    order, code = begun
    if order.files_bytes != make.files_bytes:
        _open_store(order.files_bytes)  # Over the other one.
    meter.limit(process_count=order.process_count, memory_bytes=order.memory_bytes)
    _write_all(wake, _SIZE.pack(len(pack(order)), len(code)) + pack(order) + code)
    os.close(wake)
    _tell(_watch(pid, control, children, meter))
    control.wait_for_end()  # The service kills the jail, which is quicker than its own end.
    os._exit(0)


def _let_go_of_host() -> None:
    """What runsc itself reads and writes is of the host; programs may see the init's descriptors."""
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1):
        os.dup2(null, stream)
    os.close(null)


def _fork_program(make: Make) -> tuple[int, int]:
    """Return what speaks to the program's process, and its pid.

    It is forked early: what both have is copied, two MiB at a time, when either first writes to it.
    """
    ours, theirs = (end.detach() for end in socket.socketpair())
    if (pid := os.fork()) > 0:
        os.close(theirs)
        # The program's streams must end with the program.
        os.closerange(STDIN, RESULTS + 1)
        return ours, pid
    try:
        program.inhabit(theirs, make, _receive)
    finally:
        os._exit(1)


def _receive(wake: int) -> tuple[Begin, bytes]:
    """In the program's process: wait for what to run."""
    with open(wake, "rb", closefd=False) as pipe:
        head = pipe.read(_SIZE.size)
        if len(head) < _SIZE.size:
            os._exit(0)
        order_bytes, code_bytes = _SIZE.unpack(head)
        order = unpack(pipe.read(order_bytes))
        assert isinstance(order, Begin)
        return order, pipe.read(code_bytes)


def _told_of_children() -> int:
    """A descriptor that can be read whenever a child has ended."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading


def _open_store(files_bytes: int) -> None:
    """One file system for all writable folders, so that one limit holds for them together."""
    private = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("tmpfs", _STORE, private, options=f"size={files_bytes},mode=0700")
    for name, path in _WRITABLE.items():
        folder = f"{_STORE}/{name}"
        os.mkdir(folder, 0o700)  # noqa: PTH102 -- as plain as its neighbours.
        os.chown(folder, program.UID, program.UID)
        kernel.mount("none", path, kernel.MS_BIND | private, source=folder)
    kernel.detach(_STORE)


class Control:
    """What the service says. Never waits, but for the first program."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._is_open = True

    def next_begin(self) -> tuple[Begin, bytes] | None:
        """Wait for a program. None if none will come."""
        while (message := self._take_line()) is None and self._is_open:
            self._read()
        if not isinstance(message, Begin):
            return None
        while len(self._pending) < message.code_bytes and self._is_open:
            self._read()
        code = bytes(self._pending[: message.code_bytes])
        del self._pending[: message.code_bytes]
        os.set_blocking(CONTROL, False)
        return message, code

    def heard(self) -> list[Message]:
        """Everything that was said since. A service that is gone wants everything ended."""
        with suppress(BlockingIOError):
            self._read()
        messages: list[Message] = []
        while (message := self._take_line()) is not None:
            messages.append(message)
        return messages if self._is_open else [*messages, Kill()]

    def wait_for_end(self) -> None:
        """Until the service is gone."""
        os.set_blocking(CONTROL, True)
        while self._is_open:
            self._read()

    def _read(self) -> None:
        data = os.read(CONTROL, _READ_BYTES)
        self._is_open = bool(data)
        self._pending += data

    def _take_line(self) -> Message | None:
        line, found, _ = self._pending.partition(b"\n")
        if not found:
            return None
        del self._pending[: len(line) + 1]
        return unpack(bytes(line))


def _watch(pid: int, control: Control, children: int, meter: Meter) -> Ended:
    """Wait for the program's end, or bring it about; leave nothing of it."""
    events = select.poll()
    events.register(CONTROL, select.POLLIN)
    events.register(children, select.POLLIN)
    passed: str | None = None
    while (status := reaping.reaped(pid)) is None:
        if _obey(control.heard(), pid):
            reaping.kill_others()
        ready = [descriptor for descriptor, _ in events.poll(PERIOD_S * 1000)]
        if children in ready:
            os.read(children, _READ_BYTES)
        if (passed := passed or meter.passed()) is not None:
            reaping.kill_others()
    meter.passed()
    _clear()
    store = os.statvfs("/work")
    reached = ["processes"] * (passed == "processes") + ["files"] * (store.f_bfree == 0)
    breach = None if passed == "processes" else passed
    return Ended(status, breach, reached, meter.peak_memory_bytes)


def _obey(messages: list[Message], pid: int) -> bool:
    """Return whether everything is to be ended."""
    if any(isinstance(message, Interrupt) for message in messages):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
    return any(isinstance(message, Kill) for message in messages)


def _clear() -> None:
    """End what the program left, and what that starts while it ends."""
    with suppress(ChildProcessError):
        while True:
            reaping.kill_others()
            os.waitpid(-1, 0)


def _tell(message: Message) -> None:
    with suppress(BrokenPipeError):
        _write_all(TOLD, pack(message))


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
