"""Stands before every attack, inside of the jail. `OUTSIDE` says what is there outside."""

import ctypes
import errno
import json
import os
import platform
import sys
from collections.abc import Callable

OUTSIDE = json.loads("""@OUTSIDE@""")
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

# Of x86-64 and 64-bit ARM; newer calls have the same number everywhere.
_NUMBERS = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "chroot": (161, 51),
    "clock_adjtime": (305, 266), "clock_settime": (227, 112), "clone": (56, 220), "clone3": (435, 435),
    "delete_module": (176, 106), "fanotify_init": (300, 262), "finit_module": (313, 273), "fsopen": (430, 430),
    "fsmount": (432, 432), "fspick": (433, 433), "get_mempolicy": (239, 236), "init_module": (175, 105),
    "inotify_init1": (294, 26), "io_setup": (206, 0), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425), "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104),
    "keyctl": (250, 219), "landlock_create_ruleset": (444, 444), "lookup_dcookie": (212, 18), "mbind": (237, 235),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "migrate_pages": (256, 238), "mlockall": (151, 230),
    "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429), "move_pages": (279, 239),
    "mq_open": (240, 180), "msgget": (68, 186), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "open_tree": (428, 428), "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434), "pivot_root": (155, 41), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117), "quotactl": (179, 60),
    "reboot": (169, 142), "request_key": (249, 218), "rt_sigqueueinfo": (129, 138), "seccomp": (317, 277),
    "semget": (64, 190), "setdomainname": (171, 162), "setfsuid": (122, 151), "sethostname": (170, 161),
    "setns": (308, 268), "settimeofday": (164, 170), "shmget": (29, 194), "swapoff": (168, 225),
    "swapon": (167, 224), "syslog": (103, 116), "umount2": (166, 39), "unshare": (272, 97),
    "userfaultfd": (323, 282), "vhangup": (153, 58), "vmsplice": (278, 75),
}  # fmt: skip
NR = {name: pair[platform.machine() == "aarch64"] for name, pair in _NUMBERS.items()}


def tell(kind: str, what: str, why: object = "") -> None:
    os.write(1, f"{kind}\t{what}\t{why}\n".encode())  # Whatever has become of sys.stdout.


def held(what: str, holds: object, why: object = "") -> None:
    tell("HELD" if holds else "BREACH", what, why)


def sees(what: str, seen: object) -> None:
    """The check of `what` would see a breach: shown by one that is none."""
    if not seen:
        tell("BLIND", what)


def refused(what: str, act: Callable[[], object]) -> None:
    """Breach if `act` returns."""
    try:
        result = act()
    except (OSError, ValueError, MemoryError) as error:
        tell("HELD", what, error)
    else:
        tell("BREACH", what, repr(result)[:200])


def call(name: str, *arguments: object) -> int:
    """A system call. Raise OSError."""
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = int(libc.syscall(ctypes.c_long(NR[name]), *words))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def filtered(name: str, *arguments: object) -> None:
    """Breach if the kernel so much as looks at the call: then it says something else than EPERM or ENOSYS."""
    try:
        result: object = call(name, *arguments)
    except OSError as error:
        held(name, error.errno in {errno.EPERM, errno.ENOSYS}, error)
    else:
        tell("BREACH", name, result)


def write(path: str, data: bytes) -> int:
    """At once: what a file object keeps back, it would fail to write when nobody looks any more."""
    file = os.open(path, os.O_WRONLY)
    try:
        return os.write(file, data)
    finally:
        os.close(file)


def in_child(act: Callable[[], object]) -> int:
    """Run `act` in a child. Return its exit code (0 if `act` returned), or minus the signal that ended it."""
    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        try:
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def tried() -> None:
    """All of it was tried."""
    tell("TRIED", "")
