"""Every other limit holds, and tells what it is: processes, files, output, time."""

from google.protobuf.duration_pb2 import Duration
from ollamesh.sandbox.v1 import execution_pb2 as pb

from tests.sandbox_attacks.case import Case, wall
from tests.sandbox_attacks.outside import Outside
from tests.sandbox_attacks.place import Place, attack

MIB = 1 << 20

CASES = (
    Case(
        name="fork-bomb",
        breach="more processes than allowed, or any that is left",
        outcomes=("TIMEOUT",),
        code="""
import time
while True:
    try: os.fork()
    except OSError: time.sleep(0.005)
""",
        limits=wall(1),
    ),
    Case(
        name="fork-bomb-that-dies-and-forks",
        breach="the same, by processes that live for a moment each",
        outcomes=("TIMEOUT", "OK", "SIGNALLED"),
        code="""
while True:
    try:
        if os.fork() > 0 and os.getpid() % 2: os._exit(0)
    except OSError: pass
""",
        limits=wall(1),
    ),
    Case(
        name="processes-counted",
        breach="more than the limit says, whatever they are",
        code="""
import threading, time
def grow():
    while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
pids = []
try:
    for _ in range(6):
        if (pid := os.fork()) == 0:
            try: grow()
            except RuntimeError: time.sleep(60)
        pids.append(pid)
except OSError: pass
try: grow()
except RuntimeError: pass
time.sleep(0.2)
count = sum(len(os.listdir(f"/proc/{pid}/task")) for pid in [*pids, os.getpid()])
sees("count", count > 12)
held("count", count <= 16, count)
""",
        limits=pb.Limits(process_count=16),
        engines=("ns",),
    ),
    Case(
        name="threads",
        breach="more threads than allowed",
        code="""
import threading, time
count = 1
try:
    while count < 1000:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        count += 1
except RuntimeError: pass
sees("count", count > 8)
held("count", count <= 64, count)
""",
        engines=("ns",),
    ),
    Case(
        name="disk",
        breach="more bytes in files than allowed, in whichever folders",
        code="""
def fill():
    for number in range(100):
        with open(f"/{('work', 'tmp', 'dev/shm')[number % 3]}/{number}", "wb") as file:
            for _ in range(8): file.write(bytes(1 << 20))
refused("filled", fill)
used = sum(os.stat(f"{folder}/{name}").st_size for folder in ("/work", "/tmp", "/dev/shm") for name in os.listdir(folder))
sees("bytes", used > 8 << 20)
held("bytes", used <= 64 << 20, used)
""",
    ),
    Case(
        name="disk-of-many",
        breach="the same, by many processes at once, unlinked or reserved",
        code="""
def reserve():
    for number in range(64):
        file = os.open(f"/tmp/{os.getpid()}-{number}", os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(file, 0, 8 << 20)
        os.unlink(f"/tmp/{os.getpid()}-{number}")
refused("reserved", reserve)
""",
    ),
    Case(
        name="inodes",
        breach="more files than allowed",
        code="""
def scatter():
    for number in range(100_000): os.mkdir(f"/tmp/{number}")
refused("scattered", scatter)
count = len(os.listdir("/tmp"))
sees("count", count > 1000)
held("count", count <= 4096, count)
""",
        engines=("ns",),  # gVisor counts none; there they end by taking memory, see the next.
    ),
    Case(
        name="inodes-without-end",
        breach="more files than the memory that they take allows",
        code="""
for number in range(10**9): os.mkdir(f"/tmp/{number}")
""",
        engines=("gvisor",),
        outcomes=("OOM",),
        limits=wall(60, memory_bytes=96 << 20),
        within_s=60,
    ),
    Case(
        name="one-large-file",
        breach="a file larger than all files may be",
        code="""
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = os.open("/work/big", os.O_RDWR | os.O_CREAT)
os.pwrite(file, b"x", (32 << 20) - 1)
refused("written", lambda: os.pwrite(file, b"x", 1 << 40))
refused("stretched", lambda: os.ftruncate(file, 1 << 40))
""",
        engines=("ns",),
    ),
    Case(
        name="deep-folders",
        breach="anything but an error of the program's, in reasonable time",
        outcomes=("OK", "ERROR"),
        engines=("ns",),  # In gVisor they are its own memory: see inodes-without-end.
        code="""
try:
    for depth in range(100_000):
        os.mkdir("d"); os.chdir("d")
except OSError: pass
tell("HELD", "deep")
""",
    ),
    Case(
        name="descriptors",
        breach="more open files than allowed",
        code="""
kept = []
try:
    while len(kept) < 100_000: kept.append(os.open("/", os.O_RDONLY))
except OSError: pass
sees("count", len(kept) > 100)
held("count", len(kept) <= 256, len(kept))
""",
        engines=("ns",),
    ),
    Case(
        name="output-flood",
        breach="output without end",
        outcomes=("OUTPUT_LIMIT",),
        code="while True: os.write(1, b'x' * 65536)",
    ),
    Case(
        name="output-flood-of-many",
        breach="the same, from many processes at once on both streams",
        outcomes=("OUTPUT_LIMIT",),
        code="""
for _ in range(4): os.fork()
while True: os.write(1, b"x" * 65536); os.write(2, b"y" * 65536)
""",
    ),
    Case(
        name="output-in-crumbs",
        breach="a service that is slowed by millions of little writes",
        outcomes=("OUTPUT_LIMIT", "TIMEOUT"),
        code="while True: os.write(1, b'x')",
        limits=wall(1),
    ),
    Case(
        name="busy",
        breach="an execution that outlives its wall limit",
        outcomes=("TIMEOUT",),
        code="while True: pass",
        limits=wall(0.5),
    ),
    Case(
        name="asleep",
        breach="the same, asleep",
        outcomes=("TIMEOUT",),
        code="import time\ntime.sleep(3600)",
        limits=wall(0.5),
    ),
    Case(
        name="deaf",
        breach="the same, deaf to every signal that can be ignored, blocked or handled",
        outcomes=("TIMEOUT",),
        code="""
import signal, time
signal.pthread_sigmask(signal.SIG_SETMASK, range(1, 65))
for number in range(1, 65):
    try: signal.signal(number, lambda *_: None)
    except (OSError, ValueError): pass
while True: time.sleep(0.1)
""",
        limits=wall(0.5),
    ),
    Case(
        name="in-c",
        breach="the same, where no interpreter looks at signals",
        outcomes=("TIMEOUT",),
        code="import re\nre.match('(a+)+$', 'a' * 64 + 'b')",
        limits=wall(0.5),
    ),
    Case(
        name="processor-time",
        breach="more processor time than allowed, in whichever processes",
        outcomes=("TIMEOUT",),
        code="""
import time
while True:
    if os.fork() == 0:
        end = time.process_time() + 0.02
        while time.process_time() < end: pass
        os._exit(0)
    os.wait()
""",
        limits=pb.Limits(wall=Duration(seconds=8), cpu=Duration(nanos=300_000_000)),
    ),
    Case(
        name="a-name-that-is-no-text",
        breach="a meter that stumbles over what a program calls itself, and an end that is told as the service's fault",
        outcomes=("TIMEOUT",),
        code="""
libc.prctl(15, b"\\xff\\xfe) 0 (", 0, 0, 0)
sees("name", b"\\xff" in open("/proc/self/stat", "rb").read() or OUTSIDE["engine"] == "gvisor")
block = ctypes.CDLL(None).mmap  # Much is mapped, so that the meter looks closer.
block.restype = ctypes.c_void_p
block.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
block(None, 8 << 30, 0, 0x4022, -1, 0)
while True: pass
""",
        limits=pb.Limits(wall=Duration(seconds=8), cpu=Duration(nanos=300_000_000)),
    ),
    Case(
        name="real-time",
        breach="a process that the kernel prefers to all others",
        code="""
for policy in (1, 2, 6):
    refused(f"policy {policy}", lambda: os.sched_setscheduler(0, policy, os.sched_param(1)))
if OUTSIDE["engine"] != "gvisor":  # Whose kernel notes it down, and heeds no priority.
    refused("nice", lambda: os.nice(-5))
""",
    ),
    Case(
        name="queued-signals",
        breach="an execution that does not end, or a queue without an end",
        code="""
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [34])
value = ctypes.c_void_p(1)
count = 0
while count < 500_000 and libc.sigqueue(os.getpid(), 34, value) == 0: count += 1
sees("count", count > 10)
held("count", count < 500_000, count)
""",
        engines=("ns",),
    ),
)


async def test_attack(case: Case, place: Place, outside: Outside) -> None:
    await attack(case, place, outside)
