"""A program for the inside of a jail: tries what no program in one may do.

It prints a line for each act that was not refused. It learns from its standard input what is there
outside. `selftest` runs it at every start of an engine.
"""

import ctypes
import errno
import fcntl
import json
import os
import resource
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

AF_VSOCK = 40
CLONE_NEWUSER = 0x1000_0000
PTRACE_TRACEME = 0
PR_SET_DUMPABLE = 4
F_NOTIFY, DN_ACCESS = 1026, 1

# What has opened kernels from within sandboxes before, and no program needs: the number on x86-64 and on ARM64, arguments.
CALLS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "makes an io_uring": (425, 425, (1, 0)),
    "loads BPF": (321, 280, (0, 0, 0)),
    "handles page faults": (323, 282, (0,)),
    "counts events of the processor": (298, 241, (0, 0, -1, -1, 0)),
    "asks for a key": (250, 219, (0, -3, 0)),
    "watches files": (294, 26, (0,)),
    "makes memory that is no file's": (319, 279, (0, 0)),
    "joins a namespace": (308, 268, (0, 0)),
    "reads another's memory": (310, 270, (0, 0, 0, 0, 0, 0)),
    "clones with flags that no filter sees": (435, 435, (0, 0)),
    "loads a module": (313, 273, (-1, 0, 0)),
}

libc = ctypes.CDLL(None, use_errno=True)


def refused(name: str, act: Callable[[], object]) -> None:
    try:
        act()
    except OSError:
        return
    print(name)  # noqa: T201 -- a program.


def held(name: str, *, holds: bool) -> None:
    if not holds:
        print(name)  # noqa: T201 -- a program.


def succeed(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno())


def call(number: int, arguments: tuple[int, ...]) -> None:
    """Any other answer than these two says that the kernel has looked at it."""
    if libc.syscall(number, *arguments) < 0 and ctypes.get_errno() in {errno.EPERM, errno.ENOSYS}:
        raise OSError(ctypes.get_errno())


def be_told() -> None:
    folder = os.open("/usr", os.O_RDONLY)
    try:
        fcntl.fcntl(folder, F_NOTIFY, DN_ACCESS)
    finally:
        os.close(folder)


def have_cores() -> None:
    """A limit of 1 means that no core is dumped, to no file and no program; 0 does not."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except ValueError as error:
        raise PermissionError from error


def execute_written() -> None:
    for folder in ("/work", "/tmp", "/dev/shm"):  # noqa: S108 -- the jail's own.
        copy = Path(folder, "copy")
        copy.write_bytes(b"")
        copy.chmod(0o700)
        executable = os.access(copy, os.X_OK)
        copy.unlink()
        if executable:
            return
    raise PermissionError


def rewrite(path: str) -> None:
    """Write to a file what is in it already: proves the right and changes nothing."""
    file = Path(path)
    file.write_text(file.read_text())


def main() -> None:
    outside = json.load(sys.stdin)
    refused("rewrites core_pattern", lambda: rewrite("/proc/sys/kernel/core_pattern"))
    refused("opens a network socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    refused("opens a socket to the hypervisor", lambda: socket.socket(AF_VSOCK, socket.SOCK_STREAM))
    refused("opens a netlink socket", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
    refused("makes a user namespace", lambda: succeed(libc.unshare(CLONE_NEWUSER)))
    refused("mounts", lambda: succeed(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)))
    refused("traces", lambda: succeed(libc.ptrace(PTRACE_TRACEME, 0, 0, 0)))
    refused("becomes root", lambda: os.setuid(0))
    refused("hides from the meter", lambda: succeed(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)))
    refused("is told of accesses", be_told)
    refused("hands cores to the host", have_cores)
    refused("names the host", lambda: socket.sethostname("x"))
    refused("executes what it wrote", execute_written)
    for name, (on_x86, on_arm, arguments) in CALLS.items():
        number = on_x86 if os.uname().machine == "x86_64" else on_arm
        refused(name, partial(call, number, arguments))
    refused("reads a file of the host", lambda: Path(outside["host_file"]).read_bytes())
    refused("writes to its root", lambda: Path("/usr/written").write_text(""))
    refused("changes its root", lambda: Path("/usr").chmod(0o777))

    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    capabilities = (status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb"))
    held("has capabilities", holds=all(int(mask, 16) == 0 for mask in capabilities))
    held("may gain privileges", holds=status["NoNewPrivs"].strip() == "1")
    held("has no filter", holds=status["Seccomp"].strip() == "2")
    held("is root", holds=0 not in (*os.getresuid(), *os.getresgid()))
    held("sees the environment", holds=not set(outside["environment"]) & set(os.environ))
    held(
        "inherits descriptors", holds=len(list(Path("/proc/self/fd").iterdir())) <= 5
    )  # Three streams, results, this listing.
    processes = [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]
    held("sees other processes", holds=processes == [str(os.getpid())])


if __name__ == "__main__":
    main()
