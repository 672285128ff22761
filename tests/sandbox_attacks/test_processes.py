"""Who a program is, whom it can reach, what it inherits, what outlives it, and who tells how it ended."""

from tests.sandbox_attacks.case import Case, Weak, wall
from tests.sandbox_attacks.outside import Outside
from tests.sandbox_attacks.place import Place, attack, see

CASES = (
    Case(
        name="identity",
        breach="an identity, a group, a capability, or a process without a filter",
        code="""
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
held("uid", set(status["Uid"].split()) == {"65534"}, status["Uid"])
held("gid", set(status["Gid"].split()) == {"65534"}, status["Gid"])
held("groups", set(os.getgroups()) <= {65534}, os.getgroups())
held("capabilities", all(int(status[f"Cap{kind}"], 16) == 0 for kind in ("Inh", "Prm", "Eff", "Bnd")), status)
if OUTSIDE["engine"] == "ns":
    held("ambient", int(status["CapAmb"], 16) == 0)
    held("no new privileges", status["NoNewPrivs"] == "1")
    held("filter", status["Seccomp"] == "2")
""",
    ),
    Case(
        name="becoming-another",
        breach="another identity or a capability",
        weak=Weak.CLOSED,
        code="""
refused("root", lambda: os.setuid(0))
refused("group of root", lambda: os.setgid(0))
refused("groups", lambda: os.setgroups([0]))
refused("effective", lambda: os.setresuid(-1, 0, -1))
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
data = (ctypes.c_uint32 * 6)(*[0xFFFFFFFF, 0xFFFFFFFF, 0] * 2)
def capset():
    if libc.capset(header, data) != 0: raise OSError(ctypes.get_errno(), "refused")
refused("capabilities", capset)
refused("map", lambda: write("/proc/self/uid_map", b"0 0 1"))
""",
        # One identity is mapped, and groups cannot be set; all of 64 capabilities are too many for anyone.
        unseen=("groups", "capabilities", "map"),
    ),
    Case(
        name="setfsuid",
        breach="files opened as another user",
        code="""
if OUTSIDE["engine"] == "ns":
    filtered("setfsuid", 0)
open("/work/own", "w").close()
held("owner", os.stat("/work/own").st_uid == 65534)
""",
    ),
    Case(
        name="signals-to-others",
        breach="a process outside that can be signalled",
        weak=Weak.OPEN,
        code="""
refused("canary", lambda: os.kill(OUTSIDE["canary"], 0))
refused("service", lambda: os.kill(OUTSIDE["service"], 0))
refused("by pidfd", lambda: os.pidfd_open(OUTSIDE["canary"]))
refused("priority", lambda: os.setpriority(os.PRIO_PROCESS, OUTSIDE["canary"], 19))
refused("affinity", lambda: os.sched_setaffinity(OUTSIDE["canary"], {0}))
import resource
refused("limits", lambda: resource.prlimit(OUTSIDE["canary"], resource.RLIMIT_NOFILE))
""",
    ),
    Case(
        name="who-is-there",
        breach="a process in sight that is not the program's",
        weak=Weak.OPEN,
        code="""
pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
held("pids", OUTSIDE["canary"] not in pids and OUTSIDE["service"] not in pids)
held("few", len(pids) <= 3, pids)
""",
    ),
    Case(
        name="the-init-cannot-be-ended",
        breach="a jail without its init, or with one that tells something else",
        outcomes=("ERROR",),
        exit_code=5,
        code="""
import signal
for number in range(1, 65):
    try: os.kill(1, number)
    except OSError: pass
    try: os.killpg(1, number)
    except OSError: pass
    try: signal.pidfd_send_signal(os.pidfd_open(1), number)
    except OSError: pass
os._exit(5)
""",
        engines=("ns",),
    ),
    Case(
        name="everyone-killed",
        breach="an end that is told as ours, or an execution that is lost",
        outcomes=("ERROR", "SIGNALLED"),
        code="""
import signal
os.kill(-1, signal.SIGKILL)
os._exit(5)
""",
    ),
    Case(
        name="a-signal-that-pretends-to-be-the-service-s",
        breach="an end that the program has chosen: OK, CANCELLED or TIMEOUT",
        outcomes=("SIGNALLED", "ERROR"),
        code="""
import signal, struct, time
if OUTSIDE["engine"] == "ns":
    forged = struct.pack("=iiiiii", signal.SIGTERM, 0, -1, 0, 0, 0).ljust(128, b"\\0")  # From pid 0.
    for _ in range(3):
        try: call("rt_sigqueueinfo", 1, int(signal.SIGTERM), forged)
        except OSError: pass
    time.sleep(0.3)
os._exit(9)
""",
    ),
    Case(
        name="a-forged-report",
        breach="an exit code that the program wrote instead of ending with it",
        outcomes=("ERROR",),
        exit_code=5,
        code="""
import json, socket
lies = [b'["Ended", {"status": 0, "breach": null, "cpu_s": 0.0, "peak_memory_bytes": 0}]', b'["Ready", {}]', b'{"status": 0}\\n', b"1"]
for number in range(3, 1024):
    for lie in lies:
        try: os.write(number, lie)
        except OSError: pass
        try: socket.socket(fileno=os.dup(number)).send(lie)
        except OSError: pass
for name in ("fd/3", "fd/1", "fd/4"):
    try: open(f"/proc/1/{name}", "wb").write(lies[0])
    except OSError: pass
os._exit(5)
""",
    ),
    Case(
        name="an-interpreter-that-cannot-end",
        breach="an execution that goes on after its program, or code of ours that runs again",
        outcomes=("OK", "ERROR", "SIGNALLED"),
        code="""
import atexit, sys, threading
os._exit = lambda *_: None
sys.exit = lambda *_: None
threading._shutdown = lambda: (_ for _ in ()).throw(SystemExit)
atexit._run_exitfuncs = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
import builtins
builtins.print = None
""",
        limits=wall(5),
    ),
    Case(
        name="a-traceback-that-fights-back",
        breach="an execution that outlives its wall limit, or one that takes the service's memory",
        outcomes=("TIMEOUT", "OOM", "ERROR"),
        code="""
class Bomb(Exception):
    def __str__(self):
        while True: pass
raise Bomb
""",
        limits=wall(0.5),
    ),
    Case(
        name="exit-handlers-that-do-not-return",
        breach="an execution that outlives its wall limit",
        outcomes=("TIMEOUT",),
        code="""
import atexit, threading, time
threading.Thread(target=time.sleep, args=(3600,)).start()
atexit.register(time.sleep, 3600)
""",
        limits=wall(0.5),
    ),
    Case(
        name="inherited-descriptors",
        breach="a descriptor besides the standard streams, or a stream that leads anywhere else",
        code="""
import stat
numbers = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else set()
results = {"255"}  # A pipe that takes results, and tells nothing.
held("descriptors", numbers <= {"0", "1", "2", "3"} | results, numbers)  # The last is the listing's own.
refused("read", lambda: os.read(255, 1))
for number in [*range(3, 255), *range(256, 4096)]:
    try: os.fstat(number)
    except OSError: continue
    tell("BREACH", "open", number)
for number in (1, 2):
    held(f"stream {number}", not stat.S_ISREG(os.fstat(number).st_mode) and not stat.S_ISCHR(os.fstat(number).st_mode))
held("input", not os.isatty(0))
""",
    ),
    Case(
        name="the-input-cannot-be-changed",
        breach="standard input as memory that nobody counts, or that others see",
        code="""
import mmap
refused("written", lambda: os.write(0, b"x"))
refused("grown", lambda: os.ftruncate(0, 1 << 30))
refused("mapped", lambda: mmap.mmap(0, 4, mmap.MAP_SHARED, mmap.PROT_WRITE))
def again():
    with open("/proc/self/fd/0", "wb", buffering=0) as file: file.write(b"x" * 4096)
if OUTSIDE["engine"] == "ns":
    refused("opened again", again)
""",
        stdin=b"mine",
    ),
    Case(
        name="environment",
        breach="a variable of the service's",
        code="""
known = {"PATH", "HOME", "LANG", "TZ", "TMPDIR", "LC_CTYPE", "PYTHONHASHSEED", "MPLBACKEND", "MPLCONFIGDIR",
         "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}
held("variables", set(os.environ) <= known, set(os.environ) - known)
raw = open("/proc/self/environ", "rb").read()
import re
held("initial", not re.search(rb"[m]ust-not-be-seen-inside|OLLAMES[H]_|SECRET_KE[Y]", raw))
""",
    ),
    Case(
        name="secrets-in-memory",
        breach="the service's secrets, paths or tokens in memory that the program was forked with",
        engines=("ns",),  # gVisor's interpreters are started afresh, and may not open this.
        code="""
import re
planted = bytes(reversed(b"detnalp-si-siht"))
patterns = {
    "planted": rb"[t]his-is-planted", "secret": rb"[m]ust-not-be-seen-insid[e]", "setting": rb"[O]LLAMESH_SANDBOX_ROO[T]",
    "token": rb"[e]yJ[A-Za-z0-9_-]{20}", "root": rb"[s]andbox-root-[a-z0-9_]{8}",
}
found = set()
with open("/proc/self/mem", "rb", buffering=0) as memory:
    for line in open("/proc/self/maps"):
        span, rights = line.split()[:2]
        if "r" not in rights or "[v" in line: continue
        low, high = (int(end, 16) for end in span.split("-"))
        for at in range(low, high, 1 << 24):
            memory.seek(at)
            try: data = memory.read(min(1 << 24, high - at))
            except OSError: break
            found |= {name for name, pattern in patterns.items() if re.search(pattern, data)}
            del data
sees("memory", "planted" in found)
held("memory", found <= {"planted"}, found)
""",
        limits=wall(10),
    ),
    Case(
        name="daemons",
        breach="a process that outlives its execution, or keeps it from ending",
        code="""
import signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: time.sleep(3600)
    os._exit(0)
held("went on", True)
""",
    ),
    Case(
        name="descendants-that-fork-on",
        breach="a chain of processes that a kill does not catch",
        code="""
import time
if os.fork() == 0:
    while True:
        if os.fork() > 0: os._exit(0)
time.sleep(0.2)
""",
    ),
    Case(
        name="stopped-processes",
        breach="a stopped process that stays",
        outcomes=("TIMEOUT",),
        code="""
import signal
if os.fork() == 0: os.kill(os.getpid(), signal.SIGSTOP)
os.kill(os.getpid(), signal.SIGSTOP)
""",
        limits=wall(0.5),
    ),
    Case(
        name="streams-closed-and-kept",
        breach="an execution that waits for a stream which a stray process holds, or does not notice its end",
        code="""
import signal, time
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(3600)
tried()
os.close(1); os.close(2); os.close(0)
os._exit(0)
""",
    ),
    Case(
        name="zombies",
        breach="dead processes that nobody buries",
        code="""
for _ in range(50):
    if os.fork() == 0: os._exit(0)
held("made", True)
""",
    ),
    Case(
        name="a-program-that-replaces-itself",
        breach="a process that sheds its walls by execve",
        code="""
import subprocess
script = "import os, socket\\ntry: socket.socket(2).close(); print('open')\\nexcept OSError: print('refused')"
printed = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True).stdout
if OUTSIDE["engine"] == "ns": held("walls", printed == "refused\\n", printed)
status = subprocess.run([sys.executable, "-I", "-c", "print(open('/proc/self/status').read())"], capture_output=True, text=True).stdout
sees("status", "Uid:" in status)
held("uid", "Uid:\\t65534\\t65534\\t65534\\t65534" in status)
""",
    ),
)


async def test_attack(case: Case, place: Place, outside: Outside) -> None:
    await attack(case, place, outside)


async def test_its_check_can_see(weak_case: Case, outside: Outside) -> None:
    await see(weak_case, outside)
