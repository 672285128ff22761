"""What the kernel must not so much as look at, and what it must refuse."""

import platform

from tests.sandbox_attacks.case import Case, Weak
from tests.sandbox_attacks.outside import Outside
from tests.sandbox_attacks.place import Place, attack, see

NS = ("ns",)  # gVisor answers such calls itself: they reach no kernel of the host's.

CASES = (
    Case(
        name="unshare",
        breach="a namespace of the program's own: a user namespace gives every capability in it",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
flags = {"user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000, "uts": 0x4000000,
         "cgroup": 0x2000000, "time": 0x80, "files": 0x400, "fs": 0x200}
for name, flag in flags.items():
    def act():
        if in_child(lambda: call("unshare", flag)) != 0: raise OSError("refused")
    refused(name, act)
""",
    ),
    Case(
        name="clone-into-namespaces",
        breach="the same by clone or clone3",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
import signal, struct
def clone(flag):
    if (pid := call("clone", flag | signal.SIGCHLD, 0, 0, 0, 0)) == 0: os._exit(0)
    os.waitpid(pid, 0)
def clone3(flag):
    arguments = struct.pack("=11Q", flag, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
    if (pid := call("clone3", arguments, 88)) == 0: os._exit(0)
    os.waitpid(pid, 0)
for name, flag in {"user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "net": 0x40000000}.items():
    refused(f"clone {name}", lambda: clone(flag))
    refused(f"clone3 {name}", lambda: clone3(flag))
refused("clone3 time", lambda: clone3(0x80))
""",
    ),
    Case(
        name="setns",
        breach="entry into a namespace, of the init's or of its own",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
for kind in ("mnt", "net", "ipc", "uts", "cgroup"):
    def own():
        if in_child(lambda: call("setns", os.open(f"/proc/self/ns/{kind}", os.O_RDONLY), 0)): raise OSError("refused")
    refused(f"own {kind}", own)
    refused(f"init {kind}", lambda: call("setns", os.open(f"/proc/1/ns/{kind}", os.O_RDONLY), 0))
refused("by pidfd", lambda: call("setns", os.pidfd_open(os.getppid()), 0x20000))
""",
    ),
    Case(
        name="mounts",
        breach="a mount, by the old calls",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
os.makedirs("/tmp/a", exist_ok=True)
refused("tmpfs", lambda: call("mount", b"none", b"/tmp/a", b"tmpfs", 0, None))
refused("bind", lambda: call("mount", b"/usr", b"/tmp/a", None, 0x1000, None))
refused("proc", lambda: call("mount", b"none", b"/tmp/a", b"proc", 0, None))
refused("propagation", lambda: call("mount", b"none", b"/", None, 0x40000, None))
refused("remount", lambda: call("mount", b"none", b"/tmp", None, 0x20 | 0x1000 | 2 | 4, None))
refused("overlay", lambda: call("mount", b"none", b"/tmp/a", b"overlay", 0, b"lowerdir=/usr:/etc"))
refused("unmount", lambda: call("umount2", b"/tmp/a", 2))
refused("root", lambda: os.chroot("/tmp"))
""",
    ),
    Case(
        name="mounts-by-the-new-calls",
        breach="a mount, by the calls that came with Linux 5.2",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
filtered("fsopen", b"tmpfs", 0)
filtered("open_tree", -100, b"/usr", 1)
filtered("fsmount", -1, 0, 0)
filtered("fspick", -100, b"/nothing", 0)
filtered("move_mount", -1, b"", -1, b"", 0)
filtered("mount_setattr", -1, b"", 0, 0, 0)
filtered("pivot_root", b"/nothing", b"/nothing")
""",
    ),
    Case(
        name="ptrace",
        breach="one process that traces another",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
import signal, time
pid = os.fork()
if pid == 0:
    time.sleep(60)
def traceme():
    if in_child(lambda: call("ptrace", 0, 0, 0, 0)) != 0: raise OSError("refused")
refused("parent", traceme)
refused("seize", lambda: call("ptrace", 0x4206, pid, 0, 0))
refused("attach", lambda: call("ptrace", 16, pid, 0, 0))
os.kill(pid, signal.SIGKILL)
""",
        unseen=("attach",),  # Seized by then.
    ),
    Case(
        name="memory-of-another-process",
        breach="the memory of the init, or of a child without being its tracer",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
import signal, struct, time
own = ctypes.create_string_buffer(8)
there = ctypes.create_string_buffer(b"secret!")
def vector(address): return struct.pack("=QQ", ctypes.addressof(address), 8)
pid = os.fork()
if pid == 0:
    time.sleep(60)
refused("read", lambda: call("process_vm_readv", pid, vector(own), 1, vector(there), 1, 0))
refused("written", lambda: call("process_vm_writev", pid, vector(own), 1, vector(there), 1, 0))
refused("init", lambda: call("process_vm_readv", 1, vector(own), 1, vector(there), 1, 0))
refused("descriptor", lambda: call("pidfd_getfd", os.pidfd_open(pid), 0, 0))
filtered("kcmp", pid, pid, 0, 0, 0)
filtered("process_madvise", -1, 0, 0, 0, 0)
filtered("process_mrelease", -1, 0)
os.kill(pid, signal.SIGKILL)
""",
        unseen=("init",),  # Nothing of bubblewrap's lies where ours does.
    ),
    Case(
        name="keyrings",
        breach="a key: keyrings are not namespaced, and hold other users' keys",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
filtered("add_key", b"nosuch", b"x", b"x", 1, -3)
filtered("request_key", b"nosuch", b"x", None, 0)
filtered("keyctl", 9999, 0, 0, 0, 0)
""",
    ),
    Case(
        name="bpf-and-perf",
        breach="a program in the kernel, or figures of it",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
filtered("bpf", 9999, 0, 0)
filtered("perf_event_open", 0, 0, -1, -1, 0)
""",
        unseen=("bpf", "perf_event_open"),  # Where the host forbids them to all.
    ),
    Case(
        name="io-uring",
        breach="a ring: what it does, no filter sees",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
filtered("io_uring_setup", 0, 0)
filtered("io_uring_enter", -1, 0, 0, 0, 0, 0)
filtered("io_uring_register", -1, 0, 0, 0)
filtered("io_setup", 0, 0)
""",
        unseen=("io_uring_setup",),
    ),
    Case(
        name="userfaultfd",
        breach="page faults handled by the program, which wins races in the kernel",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
filtered("userfaultfd", 0xFFFF)
refused("device", lambda: os.open("/dev/userfaultfd", os.O_RDWR))
""",
        unseen=("device",),
    ),
    Case(
        name="watches",
        breach="to be told of accesses by others to the root that all jails share",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
filtered("inotify_init1", 0xFFFF)
filtered("fanotify_init", 0xFFFFFF, 0)
""",
        unseen=("fanotify_init",),
    ),
    Case(
        name="memory-that-no-limit-counts",
        breach="a file in memory, or memory that the kernel itself cannot read",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
filtered("memfd_create", 0, 0)
filtered("memfd_secret", 0xFFFF)
filtered("mlockall", 0xFFFF)
""",
        unseen=("memfd_secret",),
    ),
    Case(
        name="system-v-ipc",
        breach="memory, semaphores or messages that outlive their process",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
filtered("shmget", 1, 1 << 62, 0)
filtered("semget", 1, -1, 0)
filtered("msgget", 77, 0)
filtered("mq_open", b"nosuch", 0, 0, 0)
""",
    ),
    Case(
        name="administration",
        breach="what changes the machine: modules, time, swap, reboot, accounting",
        engines=NS,
        code="""
for name in ("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "swapoff", "acct",
             "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "quotactl", "reboot", "syslog", "vhangup",
             "sethostname", "setdomainname", "swapon", "lookup_dcookie"):
    filtered(name, -1, -1, -1, -1, -1)  # No arguments with which any of them does anything.
""",
    ),
    Case(
        name="host-name",
        breach="another name of the machine",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
import socket
held("host's", socket.gethostname() != OUTSIDE["hostname"])
refused("changed", lambda: socket.sethostname("breached"))
""",
    ),
    Case(
        name="numa-and-pages",
        breach="pages moved, or policies set, for itself or another process",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
filtered("move_pages", 0, 1, 0, 0, 0, 0)
filtered("migrate_pages", 0, 0, 0, 0)
filtered("mbind", 1, 4096, 99, 0, 0, 0)
filtered("vmsplice", -1, 0, 1, 0)
""",
        unseen=("move_pages", "migrate_pages", "mbind"),  # Not in every kernel.
    ),
    Case(
        name="filters-of-its-own",
        breach="a filter, or a listener to one, of the program's making",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
filtered("seccomp", 1, 0xFFFF, 0)
filtered("landlock_create_ruleset", 0, 99, 99)
def strict():
    if libc.prctl(22, 2, 0, 0, 0) == 0 or ctypes.get_errno() == errno.EFAULT: return
    raise OSError(ctypes.get_errno(), "refused")
refused("prctl", strict)
""",
    ),
    Case(
        name="process-controls",
        breach="a setting of its process that hides it, or loosens a wall",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
def prctl(*arguments):
    if libc.prctl(*(ctypes.c_long(one) for one in arguments)) < 0:
        raise OSError(ctypes.get_errno(), "refused")
refused("dumpable", lambda: prctl(4, 0, 0, 0, 0))
refused("keep capabilities", lambda: prctl(8, 1, 0, 0, 0))
refused("ambient capability", lambda: prctl(47, 2, 0, 0, 0))
refused("securebits", lambda: prctl(28, 0, 0, 0, 0))
refused("time stamps", lambda: prctl(26, 2, 0, 0, 0) if platform.machine() == "aarch64" else prctl(26, 1, 0, 0, 0))
refused("subreaper", lambda: prctl(36, 1, 0, 0, 0))
refused("memory map", lambda: prctl(35, 14, 0, 0, 0) or prctl(35, 15, 0, 0, 0))
refused("ptracer", lambda: prctl(0x59616D61, -1, 0, 0, 0))
refused("layout", lambda: call("personality", 0x0040000))
""",
        unseen=("memory map", "ptracer"),
    ),
    Case(
        name="i386-calls",
        breach="a call in the convention of another machine, by which a filter would be passed",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
import mmap
def old_getpid():
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # mov eax, 20; int 0x80; ret
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    if function() <= 0: os._exit(3)
def foreign():
    if platform.machine() != "x86_64" or in_child(old_getpid) != 0: raise OSError("refused")
refused("int 0x80", foreign)
""",
        unseen=() if platform.machine() == "x86_64" else ("int 0x80",),
    ),
    Case(
        name="x32-calls",
        breach="a call by its number in the x32 convention",
        engines=NS,
        code="""
for number in (39, 101, 165, 272, 321, 425):
    def act():
        if libc.syscall(ctypes.c_long(number | 0x40000000), ctypes.c_long(0), ctypes.c_long(0)) < 0:
            raise OSError(ctypes.get_errno(), "refused")
    refused(str(number), act)
""",
    ),
    Case(
        name="calls-of-tomorrow",
        breach="a call that the filter's table does not know, and the kernel does",
        engines=NS,
        code="""
for number in range(450, 1024):
    if libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6) >= 0 or ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        tell("BREACH", str(number), ctypes.get_errno())
tell("HELD", "all")
""",
    ),
    Case(
        name="terminals",
        breach="keystrokes for a terminal of the host",
        engines=NS,
        weak=Weak.CLOSED,
        code="""
import fcntl, termios
refused("opened", lambda: os.open("/dev/ptmx", os.O_RDWR))
refused("tty", lambda: os.open("/dev/tty", os.O_RDWR))
for number in (0, 1, 2):
    refused(f"typed {number}", lambda: fcntl.ioctl(number, termios.TIOCSTI, b"x"))
""",
        unseen=("tty", "typed 0", "typed 1", "typed 2"),
    ),
    Case(
        name="limits-cannot-be-raised",
        breach="a limit of its process above what it was given",
        code="""
import resource
for name in ("NOFILE", "NPROC", "FSIZE", "MEMLOCK", "MSGQUEUE"):
    limit = getattr(resource, f"RLIMIT_{name}")
    soft, hard = resource.getrlimit(limit)
    if OUTSIDE["engine"] == "gvisor": continue
    sees(name, hard != resource.RLIM_INFINITY)
    refused(name, lambda: resource.setrlimit(limit, (hard + 1, hard + 1)))
if OUTSIDE["engine"] != "gvisor":  # 1 means that none is dumped, and 0 that a program of the host may get it.
    refused("CORE", lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
if OUTSIDE["engine"] != "gvisor":  # Whose kernel notes it down, and heeds no priority.
    refused("NICE", lambda: os.nice(-1))
refused("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
if OUTSIDE["engine"] == "ns":
    refused("last to be killed", lambda: write("/proc/self/oom_score_adj", b"-1000"))
tell("HELD", "end")
""",
    ),
)


async def test_attack(case: Case, place: Place, outside: Outside) -> None:
    await attack(case, place, outside)


async def test_its_check_can_see(weak_case: Case, outside: Outside) -> None:
    await see(weak_case, outside)
