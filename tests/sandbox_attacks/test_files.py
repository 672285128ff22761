"""No program reads or changes a file that is not its own, under whatever name."""

from tests.sandbox_attacks.case import Case, Weak
from tests.sandbox_attacks.outside import Outside
from tests.sandbox_attacks.place import Place, attack, see

CASES = (
    Case(
        name="file-of-the-host",
        breach="the bytes of a file that every user of the host may read",
        weak=Weak.CLOSED,
        code="""
refused("read", lambda: open(OUTSIDE["file"]).read())
refused("listed", lambda: os.listdir(OUTSIDE["folder"]))
""",
    ),
    Case(
        name="names-that-climb",
        breach="the same bytes by a name that leads through /proc, through .. or through a descriptor",
        weak=Weak.CLOSED,
        code="""
path = OUTSIDE["file"].lstrip("/")
up = "../" * 64
root = os.open("/", os.O_RDONLY)
names = {
    "dots": f"/work/{up}{path}",
    "own root": f"/proc/self/root/{path}",
    "own root, up": f"/proc/self/root/{up}{path}",
    "working folder": f"/proc/self/cwd/{up}{path}",
    "descriptor": f"/proc/self/fd/{root}/{up}{path}",
    "thread": f"/proc/thread-self/root/{path}",
    "relative": up + path,
}
for what, name in names.items():
    refused(what, lambda: open(name).read())
refused("folder", lambda: os.open(up + path, os.O_RDONLY, dir_fd=root))
""",
    ),
    Case(
        name="root-of-another-process",
        breach="a file by way of another process's root, folder or descriptors",
        weak=Weak.OPEN,
        code="""
path = OUTSIDE["file"].lstrip("/")
for pid in (1, os.getppid(), OUTSIDE["service"], OUTSIDE["canary"]):
    for name in (f"root/{path}", f"cwd/{'../' * 16}{path}", "environ", "maps", "mem", "fd/0", "fdinfo/0", "status"):
        try:
            open(f"/proc/{pid}/{name}", "rb").close()
        except OSError as error:
            continue
        tell("BREACH", "opened", (pid, name))
""",
    ),
    Case(
        name="links-out",
        breach="the same bytes by a link that the program made",
        weak=Weak.CLOSED,
        code="""
for folder in ("/work", "/tmp", "/dev/shm"):
    os.makedirs(folder, exist_ok=True)
    os.symlink(OUTSIDE["file"], f"{folder}/link")
    os.symlink("/", f"{folder}/root")
    refused(f"link in {folder}", lambda: open(f"{folder}/link").read())
    refused(f"root in {folder}", lambda: open(f"{folder}/root{OUTSIDE['file']}").read())
""",
    ),
    Case(
        name="file-handles",
        breach="a file by its handle, which no mount confines",
        weak=Weak.CLOSED,
        engines=("ns",),
        code="""
open("/tmp/own", "w").close()
handle = ctypes.create_string_buffer(128)
ctypes.cast(handle, ctypes.POINTER(ctypes.c_uint32))[0] = 64
mount = ctypes.c_int()
refused("told", lambda: call("name_to_handle_at", -100, b"/tmp/own", handle, ctypes.byref(mount), 0))
folder = os.open("/tmp", os.O_RDONLY)
refused("opened", lambda: call("open_by_handle_at", folder, handle, 0))
""",
        unseen=("opened",),  # Takes a right in the host's own user namespace, on most kernels.
    ),
    Case(
        name="the-root-is-read-only",
        breach="a file written outside of /work, /tmp and /dev/shm",
        weak=Weak.CLOSED,
        code="""
own = ("/work", "/tmp", "/dev/shm", "/proc", "/sys", "/dev/pts", OUTSIDE["folder"])
written = []
for folder, _, _ in os.walk("/"):
    if any(folder == one or folder.startswith(one + "/") for one in own):
        continue
    try:
        open(os.path.join(folder, "written"), "x").close()
        os.unlink(os.path.join(folder, "written"))
        written.append(folder)
    except OSError:
        pass
open("/work/written", "x").close()
sees("the root", os.path.exists("/work/written"))
held("the root", not written, written[:10])
""",
    ),
    Case(
        name="the-root-cannot-be-changed",
        breach="a change to what is there: its bytes, its mode, its owner, its name",
        code="""
import sys
for path in (sys.executable, json.__file__, "/etc/passwd", "/usr"):
    before = os.stat(path)
    refused(f"mode of {path}", lambda: os.chmod(path, 0o777))
    refused(f"owner of {path}", lambda: os.chown(path, os.getuid(), os.getgid()))
    refused(f"time of {path}", lambda: os.utime(path, (0, 0)))
    refused(f"name of {path}", lambda: os.rename(path, path + "x"))
    refused(f"attribute of {path}", lambda: os.setxattr(path, "user.x", b"x"))
    held(f"as before: {path}", os.stat(path).st_mtime == before.st_mtime and os.stat(path).st_mode == before.st_mode)
for path in (os.path.realpath(sys.executable), json.__file__, "/etc/passwd"):
    refused(f"bytes of {path}", lambda: open(path, "ab"))
    refused(f"length of {path}", lambda: os.truncate(path, 0))
    refused(f"existence of {path}", lambda: os.unlink(path))
""",
    ),
    Case(
        name="dirty-pages-of-the-root",
        breach="a change to a file that is mapped or piped, as Dirty COW and Dirty Pipe made",
        code="""
import mmap
path = json.__file__
before = open(path, "rb").read()
file = os.open(path, os.O_RDONLY)
refused("shared map", lambda: mmap.mmap(file, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE))
private = mmap.mmap(file, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
private[0:4] = b"XXXX"
def dirty():
    memory = os.open("/proc/self/mem", os.O_WRONLY)
    os.pwrite(memory, b"YYYY", ctypes.addressof(ctypes.c_char.from_buffer(private)))
try: dirty()
except (OSError, BufferError): pass
reading, writing = os.pipe()
os.write(writing, b"x" * 4096); os.read(reading, 4096)
try: os.splice(file, writing, 1, offset_src=0); os.write(writing, b"ZZZZ")
except (OSError, AttributeError): pass
sees("bytes", bytes(private[0:4]) in (b"XXXX", b"YYYY"))
held("bytes", open(path, "rb").read() == before)
""",
    ),
    Case(
        name="what-is-written-does-not-run",
        breach="a program of its own making that the kernel starts: no meter, filter or audit would know it",
        engines=("ns",),
        weak=Weak.CLOSED,
        code="""
import shutil, subprocess, sys
program = os.path.realpath(sys.executable)
loader = next((p for p in ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1") if os.path.exists(p)), "")
for folder in ("/work", "/tmp", "/dev/shm"):
    copy = shutil.copy(program, f"{folder}/program")
    os.chmod(copy, 0o755)
    refused(f"started in {folder}", lambda: subprocess.run([copy, "-V"], check=True, stdout=subprocess.DEVNULL))
    def load():
        if subprocess.run([loader, copy, "-V"], capture_output=True).returncode != 0:
            raise OSError("it did not start")
    refused(f"loaded in {folder}", load)
""",
    ),
    Case(
        name="memory-that-runs",
        breach="a program without a file, from memory",
        engines=("ns",),
        weak=Weak.CLOSED,
        code="""
import subprocess, sys
def run():
    memory = call("memfd_create", b"x", 0)
    os.write(memory, open(os.path.realpath(sys.executable), "rb").read())
    subprocess.run([f"/proc/self/fd/{memory}", "-V"], pass_fds=[memory], check=True, stdout=subprocess.DEVNULL)
refused("run", run)
""",
    ),
    Case(
        name="no-setuid-files",
        breach="a file that gives its user, or capabilities, to who runs it; or a mount on which one could be made",
        code="""
import stat
def special(folder):
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            try:
                if os.lstat(path).st_mode & (stat.S_ISUID | stat.S_ISGID): yield path
                if "security.capability" in os.listxattr(path, follow_symlinks=False): yield path
            except OSError: pass
open("/work/planted", "w").close(); os.chmod("/work/planted", 0o4755)
sees("setuid", list(special("/work")) == ["/work/planted"] or OUTSIDE["engine"] == "gvisor")
held("setuid", not list(special("/usr")) + list(special("/etc")))
for folder in ("/work", "/tmp", "/dev/shm"):
    held(f"mount of {folder}", os.statvfs(folder).f_flag & os.ST_NOSUID or OUTSIDE["engine"] == "gvisor")
""",
    ),
    Case(
        name="devices",
        breach="a device other than those that any program may have",
        weak=Weak.CLOSED,
        engines=("ns",),
        code="""
harmless = {"null", "zero", "full", "random", "urandom", "fd", "stdin", "stdout", "stderr", "shm"}
held("listed", set(os.listdir("/dev")) <= harmless, os.listdir("/dev"))
for name in ("mem", "kmem", "port", "kmsg", "kvm", "fuse", "net/tun", "vhost-vsock", "userfaultfd", "sda", "vda", "loop-control"):
    refused(name, lambda: os.open(f"/dev/{name}", os.O_RDONLY))
""",
        unseen=(
            "mem",
            "kmem",
            "port",
            "kmsg",
            "kvm",
            "fuse",
            "net/tun",
            "vhost-vsock",
            "userfaultfd",
            "sda",
            "vda",
            "loop-control",
        ),
    ),
    Case(
        name="device-files",
        breach="a device file of the program's making",
        code="""
import stat
for folder in ("/work", "/tmp", "/dev/shm"):
    refused(f"character in {folder}", lambda: os.mknod(f"{folder}/c", 0o600 | stat.S_IFCHR, os.makedev(1, 1)) or open(f"{folder}/c", "rb").read(1))
    refused(f"block in {folder}", lambda: os.mknod(f"{folder}/b", 0o600 | stat.S_IFBLK, os.makedev(8, 0)) or open(f"{folder}/b", "rb").read(1))
    open(f"{folder}/regular", "w").close()
    sees("files", os.path.exists(f"{folder}/regular"))
""",
    ),
    Case(
        name="host-paths",
        breach="where on the host the root lies",
        weak=Weak.CLOSED,
        code="""
text = ""
for name in ("mountinfo", "mounts", "mountstats", "maps", "cgroup", "cmdline", "environ"):
    try: text += open(f"/proc/self/{name}").read()
    except OSError: pass
text += os.readlink("/proc/self/exe") + os.readlink("/proc/self/cwd") + " ".join(sys.path)
held("told", "sandbox-root-" not in text and OUTSIDE["folder"] not in text)
""",
    ),
    Case(
        name="kernel-files",
        breach="a file of /proc that tells about the kernel or the host",
        engines=("ns",),
        weak=Weak.CLOSED,
        code="""
for name in ("kallsyms", "meminfo", "cpuinfo", "version", "modules", "cmdline", "mounts/../net", "interrupts", "loadavg"):
    refused(name, lambda: os.stat(f"/proc/{name}"))
for name in ("kcore", "kmsg", "keys", "sysrq-trigger", "timer_list", "sched_debug", "config.gz", "slabinfo"):
    refused(name, lambda: os.stat(f"/proc/{name}"))
""",
        unseen=(
            "mounts/../net",
            "kmsg",
            "keys",
            "sysrq-trigger",
            "timer_list",
            "sched_debug",
            "config.gz",
            "slabinfo",
            "kcore",
            "modules",
        ),
    ),
    Case(
        name="settings-of-the-kernel",
        breach="a setting below /proc or /sys that may be written, as core_pattern, which is a host-root escape",
        engines=("ns",),
        weak=Weak.CLOSED,
        code="""
opened = []
own = (f"/proc/{os.getpid()}", "/proc/self", "/proc/thread-self")
for top in ("/proc", "/sys"):
    for folder, _, names in os.walk(top):
        if folder.startswith(own) or folder.count("/") > 7: continue
        for name in names:
            try: os.close(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_NONBLOCK))
            except OSError: continue
            opened.append(f"{folder}/{name}")
held("opened", not opened, opened[:5])
refused("core_pattern", lambda: open("/proc/sys/kernel/core_pattern", "r+"))
""",
        unseen=("core_pattern",),
    ),
    Case(
        name="sys",
        breach="/sys: devices, modules and cgroups of the host",
        engines=("ns",),
        weak=Weak.CLOSED,
        code="""
refused("listed", lambda: os.listdir("/sys"))
refused("cgroups", lambda: os.listdir("/sys/fs/cgroup"))
""",
    ),
    Case(
        name="cgroup-escape",
        breach="a way into another cgroup, and out of the limits",
        engines=("ns",),
        weak=Weak.CLOSED,
        code="""
os.makedirs("/tmp/groups", exist_ok=True)
refused("second generation", lambda: call("mount", b"none", b"/tmp/groups", b"cgroup2", 0, None))
refused("first generation", lambda: call("mount", b"none", b"/tmp/groups", b"cgroup", 0, b"memory"))
for folder in ("/sys/fs/cgroup", "/proc/1/root/sys/fs/cgroup"):
    refused(folder, lambda: write(f"{folder}/cgroup.procs", b"0"))
places = open("/proc/self/cgroup").read().splitlines()
held("told", all(line.rpartition(":")[2] == "/" for line in places), places)
""",
        unseen=("first generation", "/sys/fs/cgroup", "/proc/1/root/sys/fs/cgroup", "told"),
    ),
    Case(
        name="races-of-links",
        breach="a file of the host in the moment in which a folder becomes a link",
        code="""
import threading, time
os.mkdir("/work/folder"); open("/work/folder/secret", "w").write("own")
end = time.monotonic() + 0.5
def swap():
    while time.monotonic() < end:
        try:
            os.rename("/work/folder", "/work/aside"); os.symlink(OUTSIDE["folder"], "/work/folder")
            os.unlink("/work/folder"); os.rename("/work/aside", "/work/folder")
        except OSError: pass
threading.Thread(target=swap).start()
seen = set()
while time.monotonic() < end:
    try: seen.add(open("/work/folder/secret").read())
    except OSError: pass
sees("bytes", "own" in seen)
held("bytes", seen == {"own"}, seen)
""",
    ),
)


async def test_attack(case: Case, place: Place, outside: Outside) -> None:
    await attack(case, place, outside)


async def test_its_check_can_see(weak_case: Case, outside: Outside) -> None:
    await see(weak_case, outside)
