"""Nothing passes from one execution to another: neither what it left, nor what it does meanwhile, nor what it takes."""

import asyncio
import json
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from ollamesh.sandbox.v1 import execution_pb2 as pb

from tests.sandbox_attacks.outside import Outside
from tests.sandbox_attacks.place import USERS, Place, Places, Where
from tests.service.sandbox_app import Sandbox, owners

WALL = pb.Limits(wall=Duration(seconds=10))
SHARED_UID = "jails of one host uid share what the kernel counts per uid"

# Leaves a mark wherever one may be left, and tells what it found there before.
MARK = """
import atexit, builtins, gc, locale, math, resource, signal, socket, sys, threading, time
found = [name for folder in ("/work", "/tmp", "/dev/shm") for name in os.listdir(folder)]
found += [name for module in (math, builtins, sys, json) for name in vars(module) if name.startswith("mark")]
found += [name for name in os.environ if name.startswith("MARK")]
found += [path for path in sys.path if "mark" in path] + [one for one in gc.callbacks if one is print]
found += ["umask"] * (os.umask(0o011) != 0o077) + ["folder"] * (os.getcwd() != "/work")
found += ["handler"] * (signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL)
found += ["mask"] * bool(signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]))
found += ["pending"] * bool(signal.sigpending()) + ["threads"] * (threading.active_count() != 1)
found += ["limit"] * (resource.getrlimit(resource.RLIMIT_NOFILE)[0] != 256)
found += ["recursion"] * (sys.getrecursionlimit() != 1000) + ["nice"] * (os.nice(0) != 0)
found += ["alarm"] * bool(signal.alarm(60)) + ["trace"] * bool(sys.gettrace() or sys.getprofile())
try: socket.socket(socket.AF_UNIX).connect("\\0mark"); found.append("socket")
except OSError: pass
tell("FOUND", json.dumps([str(one) for one in found]))
for folder in ("/work", "/tmp", "/dev/shm"): open(f"{folder}/mark", "w").close()
for module in (math, builtins, sys, json): module.marked = True
os.environ["MARK"] = "x"; sys.path.append("/mark"); os.chdir("/tmp")
gc.callbacks.append(print); gc.callbacks.clear()
signal.signal(signal.SIGUSR1, lambda *_: None); os.kill(os.getpid(), signal.SIGUSR2); os.nice(5)
sys.setrecursionlimit(5000); resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
left = socket.socket(socket.AF_UNIX); left.bind("\\0mark"); left.listen()
time.sleep(0.2)
"""


@pytest.fixture
async def sandbox(place: Place) -> AsyncIterator[Sandbox]:
    async with place.service.ready() as client:
        yield client


async def answer(sandbox: Sandbox, outside: Outside, code: str) -> Any:
    """Run `code`, which tells FOUND and something in JSON."""
    ran = await sandbox.run(outside.program(textwrap.dedent(code)), limits=WALL)
    assert ran.outcome == "OK", (ran.exited, ran.stderr)
    (found,) = (line.split("\t")[1] for line in ran.stdout.splitlines() if line.startswith("FOUND\t"))
    return json.loads(found)


@asynccontextmanager
async def holding(sandbox: Sandbox, outside: Outside, code: str) -> AsyncIterator[str]:
    """Run `code` and sleep. Yields what it printed until then; it goes on until the end of the block."""
    program = outside.program(f"{textwrap.dedent(code)}\nimport time\ntell('HOLDS', 'it')\ntime.sleep(60)")
    call = sandbox.call(program, limits=WALL)
    printed = ""
    async for response in call:
        printed += response.event.stdout.data.decode()
        if "HOLDS\t" in printed:
            break
    assert "HOLDS\t" in printed
    try:
        yield printed
    finally:
        call.cancel()


async def test_nothing_is_left_for_the_next(sandbox: Sandbox, outside: Outside) -> None:
    for _ in range(6):
        assert await answer(sandbox, outside, MARK) == []


async def test_nothing_is_seen_by_a_neighbour(sandbox: Sandbox, outside: Outside) -> None:
    assert await asyncio.gather(*(answer(sandbox, outside, MARK) for _ in range(6))) == [[]] * 6


async def test_the_marks_can_be_seen(sandbox: Sandbox, outside: Outside) -> None:
    """Within one execution, by a second look."""
    again = f"{MARK}\nos.chdir('/')\n" + MARK.replace("FOUND", "AGAIN")
    ran = await sandbox.run(outside.program(again), limits=WALL)
    (line,) = (line for line in ran.stdout.splitlines() if line.startswith("AGAIN"))
    assert len(json.loads(line.split("\t")[1])) >= 18, line


LOCKS = """
import fcntl
holds = []
for path in (os.path.realpath(sys.executable), json.__file__, "/etc/passwd"):
    for lock in (fcntl.flock, fcntl.lockf):
        try:
            file = open(path, "rb")
            lock(file, (fcntl.LOCK_EX if lock is fcntl.flock else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            holds.append(file)
        except OSError as error:
            tell("TAKEN", f"{path} {lock.__name__} {error}")
tell("FOUND", json.dumps(len(holds)))
"""


async def test_locks_on_shared_files_tell_a_neighbour_nothing(sandbox: Sandbox, outside: Outside) -> None:
    async with holding(sandbox, outside, LOCKS) as printed:
        assert "FOUND\t6" in printed
        assert await answer(sandbox, outside, LOCKS) == 6
        # It can be seen: whoever locks twice is refused.
        assert await answer(sandbox, outside, f"{LOCKS.replace('FOUND', 'FIRST')}\nkept = holds{LOCKS}") == 3


async def test_live_jails_do_not_reach_each_other(sandbox: Sandbox, outside: Outside) -> None:
    listen = """
        import socket
        kept = []
        for name in ("\\0meeting", "/tmp/meeting", "/dev/shm/meeting"):
            one = socket.socket(socket.AF_UNIX); one.bind(name); one.listen(); kept.append(one)
        open("/work/here", "w").close()
        """
    reach = """
        import socket
        reached = []
        for name in ("\\0meeting", "/tmp/meeting", "/dev/shm/meeting"):
            try: socket.socket(socket.AF_UNIX).connect(name); reached.append(name)
            except OSError: pass
        reached += [name for name in os.listdir("/proc") if name.isdigit() and int(name) > 2]
        reached += os.listdir("/work")
        tell("FOUND", json.dumps(reached))
        """
    async with holding(sandbox, outside, listen):
        assert await answer(sandbox, outside, reach) == []
    both = textwrap.dedent(listen) + textwrap.dedent(reach)
    assert len(await answer(sandbox, outside, both)) == 4  # It would be seen.


async def test_randomness_is_not_shared(sandbox: Sandbox, outside: Outside) -> None:
    code = """
        import random, secrets, tempfile, uuid
        tell("FOUND", json.dumps([random.random(), str(uuid.uuid4()), secrets.token_hex(), os.urandom(8).hex(),
                                  next(tempfile._get_candidate_names()), random.SystemRandom().random()]))
        """
    answers = await asyncio.gather(*(answer(sandbox, outside, code) for _ in range(8)))
    for values in zip(*answers, strict=True):
        assert len(set(values)) == len(answers)


@pytest.mark.parametrize(
    "greedy",
    [
        pytest.param(
            # gVisor's engine ends what has too many, instead of refusing one more.
            "more = 20 if os.uname().release == '4.4.0' else 10**6\ntry:\n    for _ in range(more):\n"
            "        if os.fork() == 0: import time; time.sleep(60)\nexcept OSError: pass",
            id="processes",
        ),
        pytest.param(
            "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [34])\n"
            "for _ in range(10**6):\n    if libc.sigqueue(os.getpid(), 34, ctypes.c_void_p(1)) != 0: break",
            id="queued-signals",
        ),
        pytest.param(
            "kept = []\ntry:\n    while True: kept.append(os.open('/', os.O_RDONLY))\nexcept OSError: pass",
            id="descriptors",
        ),
        pytest.param(
            "import mmap\nblock = mmap.mmap(-1, 1 << 16)\nlibc.mlock(ctypes.byref(ctypes.c_char.from_buffer(block)), 1 << 16)",
            id="locked-memory",
        ),
        pytest.param(
            "file = open('/dev/shm/x', 'wb')\ntry:\n    while True: file.write(bytes(1 << 20))\nexcept OSError: pass",
            id="files",
        ),
    ],
)
async def test_what_one_takes_is_not_missing_for_another(
    where: Where, sandbox: Sandbox, outside: Outside, greedy: str
) -> None:
    if where.engine == "gvisor" and "fork" in greedy:
        pytest.skip("there, whoever has too many processes is ended, and holds nothing")
    modest = """
        import fcntl, mmap, signal, threading
        signal.pthread_sigmask(signal.SIG_BLOCK, [34])  # Before there is a thread that might get it.
        pid = os.fork()
        if pid == 0: os._exit(0)
        os.waitpid(pid, 0)
        thread = threading.Thread(target=int); thread.start(); thread.join()
        kept = [os.open("/", os.O_RDONLY) for _ in range(200)]
        queued = libc.sigqueue(os.getpid(), 34, ctypes.c_void_p(1))
        block = mmap.mmap(-1, 1 << 15)
        locked = libc.mlock(ctypes.byref(ctypes.c_char.from_buffer(block)), 1 << 15)
        open("/dev/shm/y", "wb").write(bytes(32 << 20))
        tell("FOUND", json.dumps([queued, locked]))
        """
    async with holding(sandbox, outside, greedy), holding(sandbox, outside, greedy):
        assert await answer(sandbox, outside, modest) == [0, 0]


PIPES = """
import fcntl
count = 0
for _ in range(16):
    if os.fork() == 0:
        kept = []
        try:
            while True:
                kept += (pair := os.pipe())
                fcntl.fcntl(pair[1], 1031, 1 << 20)
        except OSError: pass
        import time; time.sleep(60)
import time; time.sleep(1)
"""


def shared_uid_is_a_weakness(where: Where, request: pytest.FixtureRequest) -> None:
    """As an ordinary user every jail has that user's uid: the README says so."""
    if where == Where("ns", "user"):
        request.applymarker(pytest.mark.xfail(strict=True, reason=SHARED_UID))


async def test_pipes_of_one_do_not_shrink_those_of_another(
    where: Where, sandbox: Sandbox, outside: Outside, request: pytest.FixtureRequest
) -> None:
    shared_uid_is_a_weakness(where, request)
    room = "import fcntl\ntell('FOUND', json.dumps(fcntl.fcntl(os.pipe()[1], 1032)))"
    assert await answer(sandbox, outside, room) == 65536
    async with holding(sandbox, outside, PIPES):
        assert await answer(sandbox, outside, room) == 65536


IN_FLIGHT = """
import socket
kept, sent = [], 0
for _ in range(12):
    if os.fork() == 0:
        try:
            for _ in range(20):
                ours, theirs = socket.socketpair(); kept += [ours, theirs]
                for _ in range(8):
                    socket.send_fds(ours, [b"x"], [0] * 100)
        except OSError: pass
        import time; time.sleep(60)
import time; time.sleep(1)
"""


async def test_descriptors_in_flight_of_one_do_not_stop_those_of_another(
    where: Where, sandbox: Sandbox, outside: Outside, request: pytest.FixtureRequest
) -> None:
    shared_uid_is_a_weakness(where, request)
    send = """
        import socket
        ours, theirs = socket.socketpair()
        try: socket.send_fds(ours, [b"x"], [0]); sent = True
        except OSError: sent = False
        tell("FOUND", json.dumps(sent))
        """
    assert await answer(sandbox, outside, send)
    async with holding(sandbox, outside, IN_FLIGHT):
        assert await answer(sandbox, outside, send)


@pytest.mark.skipif("root" not in USERS, reason="an ordinary user has but one uid")
async def test_jails_have_uids_of_their_own(places: Places, outside: Outside) -> None:
    place = places.at(Where("ns", "root"))
    async with (
        place.service.ready() as sandbox,
        holding(sandbox, outside, ""),
        holding(sandbox, outside, ""),
    ):
        found = owners(place.inits())
        assert 0 not in found
        assert len(found) == len(set(found)) >= 2
