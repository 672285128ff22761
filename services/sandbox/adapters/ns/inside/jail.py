"""From a fresh clone of the zygote to a jail that waits for a program, and to the program's end.

The clone is process 1 of its own pid namespace: the init. It builds the walls, forks the process that
will become the program, and stays to tell how that ended: a report by the program itself could be
forged. When the init ends, the kernel kills whatever else is left in the jail.

Invariant: the program's process has no descriptor but its standard streams, no capability, and every
wall up, before it receives a byte of code. It is told apart from the init by `oom_score_adj`, so that
the kernel, short of memory, takes the program.
"""

import os
import resource
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from services.sandbox.guest import reaping

from . import filters, kernel, processes, program
from .meter import PERIOD_S, Meter, files_full
from .order import PACKET_BYTES_MAX, PROGRAM_DESCRIPTORS_COUNT, SESSION, Ended, Failed, Order, Ready, pack
from .running import Runner
from .session import Session

# The cgroup namespace follows apart: it must begin where the jail's cgroup is.
NAMESPACES = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
)
UID = 65534
FIRST_SLOT_UID = 100_000  # As the zygote sees them.
INODE_COUNT_MAX = 4096
FOR_EVER_S = 86_400

_SERVICE = 3  # The descriptor of the socket to the service, in the init.
_NEW_ROOT = "/mnt"
_WRITABLE = {"work": "/work", "tmp": "/tmp", "shm": "/dev/shm"}  # noqa: S108 -- the jail's own.
# By the init, from its children and from the service. The program's process lets SIGINT through only when it runs one.
_AWAITED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
_CHILD_FILTER = filters.child(os.uname().machine)


def inhabit(
    order: Order, service: int, cgroups: list[int], mapped: int, runner_made: Callable[[], Runner]
) -> NoReturn:
    """Become the jail's init. `service` and `cgroups` are descriptors; `mapped` ends when we have a uid.

    `runner_made` makes what runs programs.
    """
    try:
        for cgroup in cgroups:
            os.write(cgroup, b"0")  # "Me." Opened by the service, whose right it is.
        os.read(mapped, 1)
        service = _take_descriptors(service)
        _build(order)
        signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        pid, channel = _fork_program(order, runner_made)
        _serve(order, pid, channel)
    except BaseException as error:  # noqa: BLE001 -- told, whatever it is.
        os.write(service, pack(Failed(_text(error))))
    finally:
        os._exit(1)  # Nothing may climb back into the zygote's loop.


def _fork_program(order: Order, runner_made: Callable[[], Runner]) -> tuple[int, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if (pid := os.fork()) > 0:
        theirs.close()
        return pid, ours
    try:
        ours.close()
        os.close(_SERVICE)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED - {signal.SIGINT})
        program.inhabit(theirs, order, runner_made, _lock)
    except BaseException as error:  # noqa: BLE001 -- told, whatever it is.
        theirs.send(_text(error).encode())
    finally:
        os._exit(1)


def _serve(order: Order, pid: int, channel: socket.socket) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Which for process 1 is to ignore it.
    kernel.hide_from_same_uid()
    _lock()
    pack(_told(None, None, Meter(memory_bytes=None, cpu_s=None)))  # Rehearsed, as in Interpreter.prepare.
    if (said := channel.recv(PACKET_BYTES_MAX)) != program.READY:
        raise RuntimeError(said.decode() or "the process for the program ended")
    service = socket.socket(fileno=_SERVICE)
    service.send(pack(Ready()))
    asked, descriptors = _awaited(service, channel)
    if asked == SESSION:
        ended = Session(order, pid, channel, service).live()
    else:
        _hand_on(channel, asked, descriptors)
        ended = _watch(pid, order)
    service.send(pack(ended))
    os._exit(0)


def _awaited(service: socket.socket, channel: socket.socket) -> tuple[bytes, list[int]]:
    """What the jail is wanted for. Ends it if it is not wanted any more, or has nobody to run a program."""
    waiting = select.poll()
    waiting.register(service, select.POLLIN)
    waiting.register(channel, select.POLLIN)
    if [descriptor for descriptor, _ in waiting.poll()] != [service.fileno()]:
        os._exit(0)  # Only its end can make the other side of the channel readable.
    asked, descriptors, _, _ = socket.recv_fds(service, PACKET_BYTES_MAX, PROGRAM_DESCRIPTORS_COUNT)
    if asked != SESSION and len(descriptors) != PROGRAM_DESCRIPTORS_COUNT:
        os._exit(0)
    return asked, descriptors


def _hand_on(channel: socket.socket, asked: bytes, descriptors: list[int]) -> None:
    socket.send_fds(channel, [asked], descriptors)
    channel.close()
    os.closerange(_SERVICE + 1, 64)  # The program's streams must end with the program.


def _watch(pid: int, order: Order) -> Ended:
    """Wait for the program's end, or bring it about; leave nothing of it."""
    metered = order.memory_bytes is not None or order.cpu_s is not None
    meter = Meter(memory_bytes=order.memory_bytes, cpu_s=order.cpu_s)
    breach: str | None = None
    while (status := reaping.reaped(pid)) is None:
        told = signal.sigtimedwait(_AWAITED, PERIOD_S if metered else FOR_EVER_S)
        if metered and breach is None:
            breach = meter.breach()
        # Only the service is outside, where we see no pid; what the program sends is nothing to us.
        asked = told.si_signo if told is not None and told.si_pid == 0 else None
        if breach is not None or asked == signal.SIGTERM:
            reaping.kill_others()
        elif asked == signal.SIGINT:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGINT)  # Its group, as a terminal does.
    reaping.kill_others()  # What it left behind.
    processes.reap_all()
    return _told(status, breach, meter)


def _told(status: int | None, breach: str | None, meter: Meter) -> Ended:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak_bytes = max(meter.peak_memory_bytes, used.ru_maxrss * 1024)
    return Ended(status, breach, used.ru_utime + used.ru_stime, peak_bytes, files_full())


def _take_descriptors(service: int) -> int:
    """Keep `service`, as descriptor 3, and nothing else of the zygote's."""
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    if service != _SERVICE:
        os.dup2(service, _SERVICE, inheritable=False)
    os.closerange(_SERVICE + 1, os.sysconf("SC_OPEN_MAX"))
    return _SERVICE


def _build(order: Order) -> None:
    os.setsid()
    if order.slot is None:
        _map_zygote()
    else:
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
        kernel.show_to_same_uid()  # Undumpable since, we could not write to our own files in /proc.
    kernel.unshare(kernel.CLONE_NEWCGROUP)
    _enter_root(order.files_bytes)


def _map_zygote() -> None:
    """Keep the uid that the zygote has in its user namespace."""
    write("/proc/self/uid_map", f"{UID} {UID} 1")
    write("/proc/self/setgroups", "deny")
    write("/proc/self/gid_map", f"{UID} {UID} 1")


def _enter_root(files_bytes: int) -> None:
    """A root of its own: an overlay, because locks and names of host folders cross a bind mount."""
    private = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount(None, "/", kernel.MS_REC | kernel.MS_PRIVATE)
    layers = f"lowerdir={_NEW_ROOT}:/run/empty"  # The outer jail has the same root there once more.
    kernel.mount("overlay", _NEW_ROOT, private | kernel.MS_RDONLY, options=layers)
    kernel.mount(None, f"{_NEW_ROOT}/dev", kernel.MS_BIND | kernel.MS_REC, source="/dev")
    kernel.mount("proc", f"{_NEW_ROOT}/proc", private | kernel.MS_NOEXEC, options="subset=pid,hidepid=2")

    # One file system for all writable folders, so that one limit holds for them together.
    store = f"{_NEW_ROOT}/run"
    size = f"size={files_bytes},nr_inodes={INODE_COUNT_MAX},mode=0700"
    kernel.mount("tmpfs", store, private | kernel.MS_NOEXEC, options=size)
    for name, path in _WRITABLE.items():
        os.mkdir(f"{store}/{name}", 0o700)  # noqa: PTH102 -- as plain as its neighbours.
        kernel.mount(None, _NEW_ROOT + path, kernel.MS_BIND, source=f"{store}/{name}")
    kernel.detach(store)

    os.chdir(_NEW_ROOT)
    kernel.pivot_root_here()
    kernel.detach(".")
    os.chdir("/work")


def _lock() -> None:
    """Give up what only building needed."""
    kernel.drop_capabilities()
    kernel.no_new_privileges()
    kernel.install_filter(_CHILD_FILTER)


def _text(error: BaseException) -> str:
    return repr(error)[:1000]


def write(path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY)
    os.write(file, text.encode())
    os.close(file)
