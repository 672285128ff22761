"""No program gets more memory than it may have, in whatever form, its own or the kernel's."""

from ollamesh.sandbox.v1 import execution_pb2 as pb

from tests.sandbox_attacks.case import Case, wall
from tests.sandbox_attacks.outside import Outside
from tests.sandbox_attacks.place import Place, attack

MIB = 1 << 20

CASES = (
    Case(
        name="memory",
        breach="more memory than allowed",
        outcomes=("OOM",),
        code="held = []\nwhile True: held.append(b'x' * (1 << 20))",
        limits=pb.Limits(memory_bytes=64 * MIB),
    ),
    Case(
        name="memory-of-many",
        breach="the same, a little in each of many processes",
        outcomes=("OOM",),
        code="""
import time
for _ in range(8):
    if os.fork() == 0:
        mine = b"x" * (24 << 20)
        time.sleep(60)
time.sleep(60)
""",
        limits=pb.Limits(memory_bytes=96 * MIB),
    ),
    Case(
        name="memory-shared",
        breach="the same, in memory that is shared with children",
        outcomes=("OOM",),
        code="""
import mmap
held = []
while True:
    block = mmap.mmap(-1, 1 << 22)
    for at in range(0, 1 << 22, 4096): block[at] = 1
    held.append(block)
""",
        limits=pb.Limits(memory_bytes=64 * MIB),
    ),
    Case(
        name="memory-of-short-lives",
        breach="the same, in processes that end before anyone looks",
        outcomes=("OOM",),
        code="""
import mmap
while True:
    if os.fork() == 0:
        block = b"x" * (160 << 20)
        os._exit(0)
    os.wait()
""",
        limits=pb.Limits(memory_bytes=64 * MIB),
    ),
    Case(
        name="memory-and-files",
        breach="memory beside files that together are more than allowed",
        outcomes=("OOM",),
        code="""
file = open("/work/big", "wb")
for _ in range(60): file.write(b"x" * (1 << 20))
file.flush()
held = []
for _ in range(60): held.append(b"x" * (1 << 20))
import time; time.sleep(1)
""",
        limits=pb.Limits(memory_bytes=96 * MIB),
    ),
    Case(
        name="memory-asked-for-at-once",
        breach="memory that is promised beyond the limit and then used",
        outcomes=("OOM", "ERROR"),
        code="""
held = bytearray(4 << 30)
for at in range(0, len(held), 4096): held[at] = 1
""",
        limits=pb.Limits(memory_bytes=128 * MIB),
    ),
    Case(
        name="more-than-there-is",
        breach="anything but an error of the program's",
        outcomes=("ERROR",),
        code="held = bytes(1 << 60)",
    ),
    Case(
        name="locked-memory",
        breach="memory that cannot be swapped, beyond 64 KiB",
        code="""
import mmap
block = mmap.mmap(-1, 64 << 20)
address = ctypes.addressof(ctypes.c_char.from_buffer(block))
def lock(size):
    if libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)) != 0: raise OSError(ctypes.get_errno(), "refused")
lock(4096)
refused("locked", lambda: lock(64 << 20))
""",
        engines=("ns",),
    ),
    Case(
        name="page-tables",
        breach="kernel memory for the tables of memory that is never written",
        outcomes=("OOM", "ERROR"),
        engines=("ns",),  # In gVisor they are its own memory: see inodes-without-end.
        code="""
import mmap
size = 32 << 30
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
while True:
    address = libc.mmap(None, size, 1, 0x4022, -1, 0)  # To be read only, private, without a reserve.
    if address == 2**64 - 1 or address is None: raise MemoryError
    libc.madvise(address, size, 15)  # No huge pages.
    one = ctypes.cast(address, ctypes.POINTER(ctypes.c_ubyte))
    for at in range(0, size, 2 << 20): one[at]
""",
        limits=wall(8, memory_bytes=64 * MIB),
    ),
    Case(
        name="socket-buffers",
        breach="kernel memory in sockets that nobody reads",
        outcomes=("OOM", "ERROR"),
        code="""
import socket, time
def fill():
    pairs = []
    try:
        while True:
            ours, theirs = socket.socketpair()
            pairs.append((ours, theirs))
            ours.setblocking(False)
            try:
                while True: ours.send(b"x" * 65536)
            except BlockingIOError: pass
    except OSError: pass
    return pairs
for _ in range(12):
    if os.fork() == 0:
        kept = fill()
        time.sleep(60)
kept = fill()
time.sleep(2)
tell("BREACH", "held", "some 200 MB in sockets")
""",
        limits=wall(8, memory_bytes=64 * MIB),
    ),
    Case(
        name="pipe-buffers",
        breach="kernel memory in pipes that nobody reads",
        outcomes=("OOM", "ERROR"),
        code="""
import fcntl, time
def fill():
    kept, filled = [], 0
    try:
        while True:
            reading, writing = os.pipe()
            kept.append(reading)
            os.set_blocking(writing, False)
            try: fcntl.fcntl(writing, 1031, 1 << 20)
            except OSError: pass
            try:
                while True: filled += os.write(writing, b"x" * 65536)
            except BlockingIOError: pass
    except OSError: pass
    return filled
reading, writing = os.pipe()
for _ in range(16):
    if os.fork() == 0:
        os.write(writing, fill().to_bytes(8, "big"))
        time.sleep(60)
total = sum(int.from_bytes(os.read(reading, 8), "big") for _ in range(16))
time.sleep(1)
if total > (96 << 20): tell("BREACH", "held", total)
os._exit(1)
""",
        limits=wall(8, memory_bytes=64 * MIB),
    ),
)


async def test_attack(case: Case, place: Place, outside: Outside) -> None:
    await attack(case, place, outside)
