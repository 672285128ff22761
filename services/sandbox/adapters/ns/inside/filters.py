"""Which system calls are left.

In two stages, because installing a long filter is dear and a child is made for every execution: the
zygote installs the allow-list once, for itself and all its children; each child then adds a short
filter that takes away what only the building of a jail needs.

What is missing is missing on purpose: io_uring, bpf, userfaultfd, perf, ptrace, keyrings, inotify and
fanotify (they tell of accesses by others), memfd_create (memory that no one's rlimit counts), mknod,
everything that sets identity (but for the building of a jail), and every socket family but AF_UNIX (AF_VSOCK ignores network namespaces).
"""

import errno

from .bpf import ALLOW, ArgumentIn, Rule, assemble, refuse
from .syscalls import numbers

_EPERM = refuse(errno.EPERM)
_ENOSYS = refuse(errno.ENOSYS)  # glibc then does without, as it would on an older kernel.

_AF_UNIX = 1
_CLONE_NEW_MASK = 0x7E02_0000  # Every CLONE_NEW* flag that clone() knows.
_QUERY_PERSONALITY = 0xFFFF_FFFF
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, FIOASYNC: none injects or reconfigures.
_HARMLESS_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x5452)
# PDEATHSIG (set, get), GET_DUMPABLE, NAME (set, get), NO_NEW_PRIVS (set, get), TID_ADDRESS, THP_DISABLE
# (set, get), SET_VMA. Not SET_DUMPABLE: a process that hides from /proc would hide from the meter.
_HARMLESS_PRCTLS = (1, 2, 3, 15, 16, 38, 39, 40, 41, 42, 0x5356_4D41)

# SETLEASE, GETLEASE, NOTIFY: like inotify, they tell of accesses by others.
_WATCHING_FCNTLS = (1024, 1025, 1026)
_MERGEABLE = 12  # Advice: pages like others' are made one, and a slow write tells that there were others.
_RLIMIT_CORE = 4  # 1 of our making means never; any other value may hand a core to a program of the host.

# Needed to build a jail, by the zygote and its children, and by no program inside.
_BUILDING = (
    "capset",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "mount",
    "pivot_root",
    "seccomp",
    "setresgid",
    "setresuid",
    "umount2",
    "unshare",
)


def zygote(machine: str) -> bytes:
    """The allow-list, which still lets the zygote build jails."""
    table = numbers(machine)
    rules: dict[int, Rule] = dict.fromkeys(table.values(), ALLOW)
    rules[table["clone3"]] = _ENOSYS  # Its flags lie in memory, where no filter can look.
    only_unix = ArgumentIn(0, (_AF_UNIX,), ALLOW, _EPERM)
    rules[table["socket"]] = rules[table["socketpair"]] = only_unix
    rules[table["ioctl"]] = ArgumentIn(1, _HARMLESS_IOCTLS, ALLOW, refuse(errno.ENOTTY))
    rules[table["fcntl"]] = ArgumentIn(1, _WATCHING_FCNTLS, _EPERM, ALLOW)
    rules[table["madvise"]] = ArgumentIn(2, (_MERGEABLE,), refuse(errno.EINVAL), ALLOW)
    rules[table["personality"]] = ArgumentIn(0, (_QUERY_PERSONALITY,), ALLOW, _EPERM)
    return assemble(machine, rules, default=_EPERM, newer=_ENOSYS)


def child(machine: str) -> bytes:
    """What is taken away on top of `zygote`, before anything untrusted runs."""
    table = numbers(machine)
    rules: dict[int, Rule] = {table[name]: _EPERM for name in _BUILDING}
    rules[table["clone"]] = ArgumentIn(0, (0,), ALLOW, _EPERM, mask=_CLONE_NEW_MASK)
    rules[table["prctl"]] = ArgumentIn(0, _HARMLESS_PRCTLS, ALLOW, _EPERM)
    rules[table["setrlimit"]] = ArgumentIn(0, (_RLIMIT_CORE,), _EPERM, ALLOW)
    rules[table["prlimit64"]] = ArgumentIn(1, (_RLIMIT_CORE,), _EPERM, ALLOW)
    return assemble(machine, rules, default=ALLOW, newer=ALLOW)
