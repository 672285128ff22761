"""`python launcher.py UID SOURCE PLACE LIBRARIES PROGRAM ARGUMENT...`: from root to the jail's user to bubblewrap.

A program of its own, and not Popen's `user`, because that makes Popen fork where it otherwise would
vfork, and gRPC's threads do not survive a fork of the service. It is run by path, and imports nothing
of ours.

If PLACE is not SOURCE, the folder SOURCE is shown at PLACE, to this process and what it becomes: SOURCE
may lie where UID cannot walk, as below a home folder.
"""

import ctypes
import os
import sys

CLONE_NEWNS = 0x0002_0000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 0x1000, 0x4000, 0x4_0000

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    uid, (source, place, libraries, program) = int(sys.argv[1]), sys.argv[2:6]
    if place != source:
        _show(source, place)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # Set here and not by the caller: root must not load libraries from where others may put them.
    os.execve(program, sys.argv[5:], {"LD_LIBRARY_PATH": libraries})  # noqa: S606 -- that is what it is for.


def _show(source: str, place: str) -> None:
    _check(_libc.unshare(CLONE_NEWNS))
    _check(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    _check(_libc.mount(source.encode(), place.encode(), None, MS_BIND | MS_NOSUID | MS_NODEV, None))


def _check(result: int) -> None:
    if result != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


if __name__ == "__main__":
    main()
