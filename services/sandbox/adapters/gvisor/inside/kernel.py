"""The system calls of gVisor's kernel that Python's library lacks. They raise OSError."""

import ctypes
import os

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 0x20, 0x1000
_MNT_DETACH = 2
_PR_CAPBSET_DROP = 24
_CAPABILITY_COUNT_MAX = 64

_libc = ctypes.CDLL(None, use_errno=True)


def mount(kind: str, place: str, flags: int, *, source: str = "none", options: str = "") -> None:
    done = _libc.mount(
        source.encode(), place.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    _check(done)


def detach(place: str) -> None:
    _check(_libc.umount2(place.encode(), _MNT_DETACH))


def bound_capabilities() -> None:
    """Let no program that is run from here on have any."""
    for number in range(_CAPABILITY_COUNT_MAX):
        if _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            return  # One more than there are.


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
