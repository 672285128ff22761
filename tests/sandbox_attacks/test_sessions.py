"""What a program does to its session, it does to itself: other sessions and the service notice nothing."""

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from ollamesh.sandbox.v1 import execution_pb2 as pb

from tests.sandbox_attacks.outside import Outside
from tests.sandbox_attacks.place import Place
from tests.service.sandbox_app import reason
from tests.service.sandbox_sessions import Client

ENGINES = ("ns",)  # The others keep no sessions.
ENDS_WITHIN_S = 20.0


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with place.service.ready() as sandbox:
        yield Client(sandbox)


EVERYWHERE_ELSE = """
import os, socket
def shout(*words):
    for number in range(3, 256):
        for word in words:
            try: socket.socket(fileno=os.dup(number)).send(word)
            except OSError: pass
            try: os.write(number, word)
            except OSError: pass
"""


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(EVERYWHERE_ELSE + "shout(b'ended 0')", id="ended"),
        pytest.param(EVERYWHERE_ELSE + "shout(b'ended 0', b'ended 0', b'started', b'ended 1')", id="ended-again"),
        pytest.param(EVERYWHERE_ELSE + "shout(b'ended -999', b'', b'x' * 8192, bytes(1 << 16))", id="noise"),
        pytest.param(EVERYWHERE_ELSE + "if os.fork() == 0:\n    while True: shout(b'started', b'ended 0')", id="by-a-child"),
        pytest.param("import os; os.closerange(0, 1024)", id="all-closed"),
        pytest.param("import os\nfor n in range(3, 256):\n    try: os.dup2(1, n)\n    except OSError: pass", id="all-replaced"),
        pytest.param("import os; os._exit(0)", id="gone"),
        pytest.param("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", id="killed"),
        pytest.param("import os, signal; os.kill(-1, signal.SIGKILL)", id="all-killed"),
        pytest.param("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", id="stopped"),
        pytest.param("import ctypes; ctypes.string_at(0)", id="crashed"),
        pytest.param("import os\nif os.fork() > 0: os._exit(0)", id="child-takes-over"),
        pytest.param("import os\nos.fork()", id="two-come-back"),
        pytest.param("import sys; sys.modules.clear()", id="no-modules"),
        pytest.param("import builtins\nfor name in list(vars(builtins)): delattr(builtins, name)", id="no-builtins"),
        pytest.param("import gc, sys\nfor one in gc.get_objects():\n    if isinstance(one, dict) and one is not globals(): one.clear()", id="no-objects"),
        pytest.param("import os, sys\nsys.settrace(lambda *_: (_ for _ in ()).throw(SystemExit))\nos._exit = print", id="traced"),
        pytest.param("import signal\nsignal.pthread_sigmask(signal.SIG_SETMASK, range(1, 65))\nwhile True: pass", id="deaf"),
        pytest.param("import signal\nsignal.signal(signal.SIGINT, lambda *_: None)\nwhile True: pass", id="hears-and-goes-on"),
        pytest.param("held = []\nwhile True: held.append(b'x' * (1 << 22))", id="out-of-memory"),
        pytest.param("import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)", id="fork-bomb"),
        pytest.param("import threading, time\nfor _ in range(30): threading.Thread(target=time.sleep, args=(3600,)).start()", id="threads"),
        pytest.param("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))", id="no-descriptors-left"),
        pytest.param("import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (1, 1)); resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))", id="no-memory-left"),
        pytest.param("import ctypes, os, time; ctypes.CDLL(None).prctl(15, b'\\xff\\xfe) 0 (', 0, 0, 0); os.fork() or time.sleep(60)", id="a-name-of-bytes"),
        pytest.param("import os; os.chmod('/work', 0); os.chdir('/')", id="no-folder"),
        pytest.param("import sys; sys.stdout = sys.stderr = sys.stdin = None", id="no-streams"),
    ],
)  # fmt: skip
async def test_a_session_survives_or_is_said_to_be_restarted(
    client: Client, outside: Outside, place: Place, code: str
) -> None:
    """Whatever became of it: the call ends, the next one runs, and what was lost is said to be."""
    session_id = await client.session(limits=pb.Limits(memory_bytes=64 << 20))
    neighbour = await client.session()
    await client.run(neighbour, "kept = 7")
    await client.run(session_id, "kept = 7")
    async with asyncio.timeout(ENDS_WITHIN_S):
        ran = await client.run(session_id, code, limits=pb.Limits(wall=Duration(seconds=1)))
        restarted = ran.exited.session_restarted
        for _ in range(
            3
        ):  # What it has left behind may cost the next program, too: but it ends, and says so.
            after = await client.run(
                session_id, "print(globals().get('kept'))", limits=pb.Limits(wall=Duration(seconds=2))
            )
            restarted = restarted or after.exited.session_restarted
            if after.stdout == "None\n":
                assert restarted, "its variables were lost, and nobody said so"
                break
        else:
            # A session that lies about its ends mixes up its own output, and nobody else's.
            assert set(after.stdout.split()) <= {"7"}, (after.stdout, after.stderr)
    assert (await client.run(neighbour, "print(kept)")).stdout == "7\n"
    assert place.service.process.poll() is None
    for one in (session_id, neighbour):
        await client.ask("DeleteSession", session_id=one)
    assert place.left_behind() == []
    assert outside.touched() == []


async def test_nothing_runs_between_two_programs(client: Client) -> None:
    """Else a session would be a free processor."""
    session_id = await client.session()
    code = """
import threading, time
count = [0]
def forever():
    while True: count[0] += 1; time.sleep(0.001)
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.1)
before = count[0]
"""
    await client.run(session_id, code)
    await asyncio.sleep(1.0)
    first = int((await client.run(session_id, "print(count[0] - before)")).stdout)
    moving = int((await client.run(session_id, "time.sleep(0.5); print(count[0] - before)")).stdout)
    await client.ask("DeleteSession", session_id=session_id)
    assert first < 200 < moving or moving - first > 4 * first, (first, moving)


async def test_what_it_left_is_not_in_another(client: Client, outside: Outside) -> None:
    """Neither in one at the same time, nor in the one that comes after it."""
    leave = "import math, os, builtins; math.mark = builtins.mark = 1; open('/work/m', 'w'); open('/tmp/m', 'w'); open('/dev/shm/m', 'w'); kept = 1"
    look = "import math, os, builtins; print(hasattr(math, 'mark'), hasattr(builtins, 'mark'), os.listdir('/work'), os.listdir('/tmp'), os.listdir('/dev/shm'), 'kept' in globals())"
    for _ in range(3):
        first, second = await client.session(), await client.session()
        await client.run(first, leave)
        assert (await client.run(second, look)).stdout == "False False [] [] [] False\n"
        assert (await client.run(first, look)).stdout == "True True ['m'] ['m'] ['m'] True\n"
        for one in (first, second):
            await client.ask("DeleteSession", session_id=one)


async def test_a_session_is_its_owner_s(client: Client, place: Place) -> None:
    """To run in, to read, to write, to delete: to anybody else it does not exist."""
    session_id = await client.session()
    await client.put(session_id, "mine", b"secret")
    async with place.service.connected("eve") as sandbox:
        eve = Client(sandbox)
        for attempt in (
            eve.run(session_id, "print(1)"),
            eve.get(session_id, "mine"),
            eve.put(session_id, "mine", b"forged"),
            eve.names(session_id),
            eve.ask("GetSession", session_id=session_id),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await attempt
            assert reason(refusal.value).reason == "SESSION_NOT_FOUND"
        await eve.ask("DeleteSession", session_id=session_id)
    assert await client.get(session_id, "mine") == b"secret"
    await client.ask("DeleteSession", session_id=session_id)
