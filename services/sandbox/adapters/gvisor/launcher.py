"""`python launcher.py UID SOURCE PLACE RUNSC DOORS ARGUMENT...`: from the service to runsc.

A program of its own, because between the fork of the service and runsc there is something to do, and gRPC's
threads do not survive a fork that does more than start a program. It is run by path, and imports nothing of ours.

It enters control groups (DOORS, descriptors separated by commas), shows the folder SOURCE at PLACE if they differ
(SOURCE may lie where UID cannot walk), becomes UID if that is not "-", sees to it that it ends with the service, and
becomes RUNSC, a descriptor.
"""

import ctypes
import os
import signal
import sys

CLONE_NEWNS = 0x0002_0000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 0x1000, 0x4000, 0x4_0000
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    uid, source, place, runsc, doors, service = sys.argv[1:7]
    for door in filter(None, doors.split(",")):
        os.write(int(door), b"0")  # "Me." Opened by the service, whose right it is.
        os.close(int(door))
    if place != source:
        _show(source, place)
    if uid != "-":
        os.setgroups([])
        os.setresgid(int(uid), int(uid), int(uid))
        os.setresuid(int(uid), int(uid), int(uid))
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    if os.getppid() != int(service):  # It ended before that.
        sys.exit(1)
    os.set_inheritable(int(runsc), False)  # noqa: FBT003 -- it takes no keyword.
    os.execve(int(runsc), ["runsc", *sys.argv[7:]], {})  # noqa: S606 -- that is what it is for.


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
