"""The system calls that Python's library lacks, each a function that raises OSError.

PyDLL holds the GIL during a call. That costs nothing in a process of one thread, and `clone` needs it:
the child must find the interpreter as a fork would leave it.
"""

import ctypes
import os
import signal
import struct
from pathlib import Path

from .syscalls import numbers

CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000
_CLONE_PIDFD = 0x1000

_HUGE_PAGE_BYTES = 1 << 21
_MADV_COLLAPSE = 25  # Since Linux 6.1.

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x4_0000
_MNT_DETACH = 2

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 4, 22, 24
_PR_SET_SECUREBITS, _PR_SET_NO_NEW_PRIVS = 28, 38
_SECCOMP_MODE_FILTER = 2
# NOROOT, NO_SETUID_FIXUP, KEEP_CAPS off, NO_CAP_AMBIENT_RAISE: each set and locked.
_SECUREBITS_ALL_LOCKED = 0xEF
_CAPABILITY_VERSION_3 = 0x2008_0522

_LANDLOCK_RULE_PATH_BENEATH = 1
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_FILE_ACCESS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # By ABI; newer ones have 16.
LANDLOCK_READ = 1 << 0 | 1 << 2 | 1 << 3  # Execute, read files, read folders.
LANDLOCK_WRITE_FILE = 1 << 1 | 1 << 2
_LANDLOCK_MAKE_DEVICES = 1 << 6 | 1 << 11

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_NUMBER = numbers(os.uname().machine)


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))


def clone(namespaces: int) -> tuple[int, int]:
    """Fork into new `namespaces`. Return the child's pid and pidfd, and (0, -1) in the child."""
    pidfd = ctypes.c_int(-1)
    flags = namespaces | _CLONE_PIDFD | signal.SIGCHLD
    ctypes.pythonapi.PyOS_BeforeFork()
    # Both machines take flags, stack and the address for the pidfd first, and differ only after that.
    pid = _libc.syscall(*_longs(_NUMBER["clone"], flags, 0, ctypes.addressof(pidfd), 0, 0))
    errno = ctypes.get_errno()
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(errno, f"clone: {os.strerror(errno)}")
    return pid, pidfd.value


def gather_memory() -> None:
    """Have our memory in huge pages, where it fills them and the kernel can: a fork copies an entry for each page.

    What is written to after a fork is still copied by small pages.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, _, _, inode, *_ = line.split()
        if rights.startswith("rw") and inode == "0":
            low, high = (int(end, 16) for end in span.split("-"))
            for page in range(-(-low // _HUGE_PAGE_BYTES), high // _HUGE_PAGE_BYTES):
                _libc.madvise(*_longs(page * _HUGE_PAGE_BYTES, _HUGE_PAGE_BYTES, _MADV_COLLAPSE))


def unshare(namespaces: int) -> None:
    _check(_libc.unshare(namespaces), "unshare")


def mount(kind: str | None, target: str, flags: int, *, source: str = "none", options: str = "") -> None:
    result = _libc.mount(source.encode(), target.encode(), kind and kind.encode(), flags, options.encode())
    _check(result, f"mount {target}")


def detach(target: str) -> None:
    _check(_libc.umount2(target.encode(), _MNT_DETACH), f"umount {target}")


def pivot_root_here() -> None:
    """Make the working directory, a mount point, the root; the old root is mounted over it."""
    _check(_libc.syscall(ctypes.c_long(_NUMBER["pivot_root"]), b".", b"."), "pivot_root")


def hide_from_same_uid() -> None:
    """Keep processes of the same uid from reading our memory, descriptors and environment in /proc."""
    _check(_libc.prctl(*_longs(_PR_SET_DUMPABLE, 0, 0, 0, 0)), "dumpable")


def show_to_same_uid() -> None:
    _check(_libc.prctl(*_longs(_PR_SET_DUMPABLE, 1, 0, 0, 0)), "dumpable")


def no_new_privileges() -> None:
    _check(_libc.prctl(*_longs(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)), "no_new_privs")


def drop_capabilities() -> None:
    """Give up every capability, and every way to get one back."""
    capability = 0
    while _libc.prctl(*_longs(_PR_CAPBSET_DROP, capability, 0, 0, 0)) == 0:
        capability += 1  # Until the kernel knows no such capability.
    _check(_libc.prctl(*_longs(_PR_SET_SECUREBITS, _SECUREBITS_ALL_LOCKED, 0, 0, 0)), "securebits")
    _check(_libc.capset(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24)), "capset")


def install_filter(filter_bytes: bytes) -> None:
    """Put a seccomp filter (see `bpf`) on this process and its future children, for ever."""
    steps = ctypes.create_string_buffer(filter_bytes, len(filter_bytes))
    program = _FilterProgram(len(filter_bytes) // 8, ctypes.addressof(steps))
    address = ctypes.addressof(program)
    _check(_libc.prctl(*_longs(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, address, 0, 0)), "seccomp")


def landlock_abi() -> int:
    """The version of Landlock that this kernel has; 0 if none."""
    number = _NUMBER["landlock_create_ruleset"]
    abi = _libc.syscall(*_longs(number, 0, 0, _LANDLOCK_CREATE_RULESET_VERSION))
    return max(0, int(abi))


def landlock(allowed: list[tuple[str, int]], writable: list[str]) -> None:
    """Confine file access to `allowed` (path, accesses) and to all of `writable`.

    Also denies TCP, and signals and abstract sockets to the outside. Does nothing on a kernel without
    Landlock.
    """
    if (abi := landlock_abi()) == 0:
        return
    every = (1 << _LANDLOCK_FILE_ACCESS_BITS.get(abi, 16)) - 1
    attributes = struct.pack("=QQQ", every, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    number = _NUMBER["landlock_create_ruleset"]
    ruleset = _check(_libc.syscall(ctypes.c_long(number), attributes, *_longs(size, 0)), "landlock create")
    grants = [*allowed, *((path, every & ~_LANDLOCK_MAKE_DEVICES) for path in writable)]
    for path, accesses in grants:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", accesses & every, folder)
        arguments = _longs(_NUMBER["landlock_add_rule"], ruleset, _LANDLOCK_RULE_PATH_BENEATH)
        _check(_libc.syscall(*arguments, rule, ctypes.c_long(0)), f"landlock {path}")
        os.close(folder)
    _check(_libc.syscall(*_longs(_NUMBER["landlock_restrict_self"], ruleset, 0)), "landlock restrict")
    os.close(ruleset)


def _longs(*values: int) -> list[ctypes.c_long]:
    return [ctypes.c_long(value) for value in values]  # Variadic calls take what they are given.


def _check(result: int, what: str) -> int:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")
    return result
