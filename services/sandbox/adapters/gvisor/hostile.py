"""A program for the inside of a gVisor jail: tries what no program in one may do.

It prints a line for each act that was not refused. It learns from its standard input what is there outside. Most acts
are those of the engine `ns`. Others are about what is gVisor's own: that the kernel is another one than outside, and
that the init, by whose word it is known how a program ended, is out of reach.
"""

import ctypes
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

CLONE_NEWUSER = 0x1000_0000
PTRACE_ATTACH = 16
HOST_DEVICES = ("kvm", "mem", "kmsg", "sda", "vda", "nvme0n1", "loop0", "dri")

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
        raise OSError(ctypes.get_errno(), "")


def rewrite(path: str) -> None:
    """Write to a file what is in it already: proves the right and changes nothing."""
    file = Path(path)
    file.write_text(file.read_text())


def connect(family: int, address: tuple[str, int]) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        made.connect(address)
        made.send(b"x")


def run_from(folder: str) -> None:
    program = Path(folder, "program")
    program.write_bytes(Path(sys.executable).read_bytes()[:4096])
    program.chmod(0o700)
    os.execv(program, ["program"])  # noqa: S606 -- it is refused.


def main() -> None:
    outside = json.load(sys.stdin)
    version = Path("/proc/version").read_text()
    held("runs on the host's kernel", holds=version != outside["version"])
    refused("rewrites core_pattern", lambda: rewrite("/proc/sys/kernel/core_pattern"))
    refused("reaches a network", lambda: connect(socket.AF_INET, ("192.0.2.1", 9)))
    refused("reaches a network by IPv6", lambda: connect(socket.AF_INET6, ("2001:db8::1", 9)))
    refused("opens a packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    refused("opens a netlink socket", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
    refused("makes a user namespace", lambda: succeed(libc.unshare(CLONE_NEWUSER)))
    refused("maps users", lambda: Path("/proc/self/uid_map").write_text("0 0 1"))
    refused("mounts", lambda: succeed(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)))
    refused("unmounts", lambda: succeed(libc.umount2(b"/work", 2)))
    refused("becomes root", lambda: os.setuid(0))
    refused("traces the init", lambda: succeed(libc.ptrace(PTRACE_ATTACH, 1, 0, 0)))
    refused("signals the init", lambda: os.kill(1, 0))
    refused("opens the init's memory", lambda: os.open("/proc/1/mem", os.O_RDONLY))
    refused("sees what the init has open", lambda: list(Path("/proc/1/fd").iterdir()))
    refused("sees where the init's memory lies", lambda: Path("/proc/1/maps").read_bytes())
    refused("reads a file of the host", lambda: Path(outside["host_file"]).read_bytes())
    refused("writes to its root", lambda: Path("/usr/written").write_text(""))
    refused("changes its root", lambda: Path("/usr").chmod(0o777))
    refused("runs what it wrote", lambda: run_from("/work"))
    for device in HOST_DEVICES:
        held("sees a device of the host", holds=not Path("/dev", device).exists())

    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    capabilities = (status[name] for name in ("CapPrm", "CapEff", "CapBnd") if name in status)
    held("has capabilities", holds=all(int(mask, 16) == 0 for mask in capabilities))
    held("may gain privileges", holds=libc.prctl(39, 0, 0, 0, 0) == 1)
    held("has no filter", holds=status["Seccomp"].strip() == "2")
    held("is root", holds=0 not in (*os.getresuid(), *os.getresgid()))
    held("has groups", holds=not os.getgroups())
    held("sees the environment", holds=not set(outside["environment"]) & set(os.environ))
    descriptors = {path.name for path in Path("/proc/self/fd").iterdir()}
    held("inherits descriptors", holds=len(descriptors - {"0", "1", "2", "255"}) <= 1)  # This listing's.
    processes = {path.name for path in Path("/proc").iterdir() if path.name.isdigit()}
    held("sees other processes", holds=processes == {"1", str(os.getpid())})


if __name__ == "__main__":
    main()
