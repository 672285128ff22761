"""`python launcher.py UID MAP SOURCE PLACE LIBRARIES PROGRAM ARGUMENT...`: from root to the jail's user to bubblewrap.

A program of its own, and not Popen's `user`, because that makes Popen fork where it otherwise would
vfork, and gRPC's threads do not survive a fork of the service. It is run by path, and imports nothing
of ours.

If PLACE is not SOURCE, the folder SOURCE is shown at PLACE, to this process and what it becomes: SOURCE
may lie where UID cannot walk, as below a home folder.

If MAP is not empty, bubblewrap is given a user namespace to use. It belongs to UID and holds what MAP says, in the form
of /proc/PID/uid_map: the uids that jails get. Nobody but root can make one that holds more than its maker.
"""

import ctypes
import os
import sys

CLONE_NEWNS, CLONE_NEWUSER = 0x0002_0000, 0x1000_0000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 0x1000, 0x4000, 0x4_0000

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    uid, (mapped, source, place, libraries, program, *arguments) = int(sys.argv[1]), sys.argv[2:]
    if place != source:
        _show(source, place)
    if mapped:
        arguments = ["--userns", str(_namespace(uid, mapped)), *arguments]
    _become(uid)
    # Set here and not by the caller: root must not load libraries from where others may put them.
    os.execve(program, [program, *arguments], {"LD_LIBRARY_PATH": libraries})  # noqa: S606 -- that is what it is for.


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _show(source: str, place: str) -> None:
    _check(_libc.unshare(CLONE_NEWNS))
    _check(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    _check(_libc.mount(source.encode(), place.encode(), None, MS_BIND | MS_NOSUID | MS_NODEV, None))


def _namespace(uid: int, mapped: str) -> int:
    """Return a descriptor of it, to be inherited. A child makes it as `uid`, and we, still root, fill the map."""
    made, making = os.pipe()
    waiting, done = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(done)
        _become(uid)
        _check(_libc.unshare(CLONE_NEWUSER))
        os.write(making, b"1")
        os.read(waiting, 1)  # As long as it lives, the namespace does.
        os._exit(0)
    os.close(making)
    if not os.read(made, 1):
        raise OSError("no user namespace was made")
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "w") as file:  # noqa: PTH123 -- imports take time.
            file.write(mapped)
    for descriptor in (made, waiting, done):
        os.close(descriptor)
    os.waitpid(pid, 0)
    os.set_inheritable(namespace, True)  # noqa: FBT003 -- its only form.
    return namespace


def _check(result: int) -> None:
    if result != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


if __name__ == "__main__":
    main()
