"""A program for the inside of a jail: tries what no program in one may do.

It prints a line for each act that was not refused. It learns from its standard input what is there
outside. `selftest` runs it at every start of an engine.
"""

import ctypes
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

AF_VSOCK = 40
CLONE_NEWUSER = 0x1000_0000
PTRACE_TRACEME = 0

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
