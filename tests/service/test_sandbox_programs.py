"""What passes between a program and who started it: results, input, interruptions."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.sandbox import profiles
from services.sandbox.core.limits import Limits
from services.sandbox.ports import Jail, Stream
from services.sandbox.profiles import Profile
from services.sandbox.rootfs import trees
from tests.service.ns_jails import begin, ended
from tests.service.sandbox_app import TIMEOUT_S, built_root
from tests.service.sandbox_engine import engine

LIMITS = Limits()


@pytest.fixture
async def jail() -> AsyncIterator[Jail]:
    async with engine() as jails:
        taken = await jails.take(LIMITS)
        yield taken
        taken.kill()
        await ended(taken)


async def test_results_have_a_stream_of_their_own(jail: Jail) -> None:
    output = begin(jail, "print('before')\ndisplay(1)\nprint('after')\n2")
    assert (await ended(jail)).status == 0
    assert output.plain == ["1", "2"]
    assert output.stdout == "before\nafter\n"
    first = [stream for stream, _ in output.written].index(Stream.RESULTS)
    assert b"before\n" in b"".join(data for _, data in output.written[:first])


async def test_children_of_a_program_have_no_part_in_its_results(jail: Jail) -> None:
    code = "import os, subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import os; print(os.listdir(\"/proc/self/fd\"))'])\nos.listdir('/proc/self/fd')"
    output = begin(jail, code)
    assert (await ended(jail)).status == 0
    assert "'255'" in output.plain[0]
    assert "'255'" not in output.stdout


async def test_input_comes_as_it_is_fed(jail: Jail) -> None:
    output = begin(
        jail,
        "while line := input(): print('got', line)\nimport sys\nprint(len(sys.stdin.read()))",
        b"a\n",
        stdin_open=True,
    )
    await output.until("got a\n")
    await jail.feed(b"b\n", end=False)
    await output.until("got b\n")
    await jail.feed(b"\nrest", end=False)
    await jail.feed(b"", end=True)
    assert (await ended(jail)).status == 0
    assert output.stdout == "got a\ngot b\n4\n"


async def test_input_ends_where_nothing_follows(jail: Jail) -> None:
    output = begin(jail, "import sys; print(repr(sys.stdin.read()))", b"all")
    await jail.feed(b"more", end=True)
    await ended(jail)
    assert output.stdout == "'all'\n"


async def test_large_input_waits_until_it_is_read(jail: Jail) -> None:
    first, more = os.urandom(1 << 20), os.urandom(1 << 20)
    code = "import hashlib, sys\nprint(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    output = begin(jail, code, first, stdin_open=True)
    await jail.feed(more, end=True)
    await ended(jail)
    assert output.stdout == hashlib.sha256(first + more).hexdigest() + "\n"


async def test_who_feeds_what_nobody_reads_waits_and_holds_one_part(jail: Jail) -> None:
    begin(jail, "import time\ntime.sleep(3600)", stdin_open=True)
    feeding = [asyncio.create_task(jail.feed(bytes(1 << 20), end=False)) for _ in range(2)]
    done, _ = await asyncio.wait(feeding, timeout=0.2)
    assert not done
    feeding[0].cancel()
    await asyncio.wait(feeding[:1])
    jail.kill()
    await ended(jail)
    async with asyncio.timeout(TIMEOUT_S):
        await feeding[1]  # What it had is dropped.


async def test_what_a_program_will_not_read_is_dropped(jail: Jail) -> None:
    output = begin(jail, "import os, time\nos.close(0)\nprint('closed')\ntime.sleep(3600)", stdin_open=True)
    await output.until("closed\n")
    async with asyncio.timeout(TIMEOUT_S):
        await jail.feed(bytes(1 << 20), end=False)
        await jail.feed(b"x", end=True)
        await jail.feed(b"x", end=True)


async def test_an_interruption_that_is_not_handled_ends_the_program(jail: Jail) -> None:
    output = begin(jail, "print('up')\nwhile True: pass")
    await output.until("up\n")
    jail.interrupt()
    assert (await ended(jail)).status == 130
    assert "KeyboardInterrupt" in output.stderr


async def test_a_program_that_handles_an_interruption_goes_on(jail: Jail) -> None:
    output = begin(
        jail,
        "import signal\nfor number in range(2):\n"
        "    try:\n        print('up', number)\n        while True: pass\n"
        "    except KeyboardInterrupt: pass\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('deaf')\ninput()",
        stdin_open=True,
    )
    for said in ("up 0\n", "up 1\n"):
        await output.until(said)
        jail.interrupt()
    await output.until("deaf\n")
    jail.interrupt()
    await jail.feed(b"\n", end=True)
    assert (await ended(jail)).status == 0


async def test_an_interruption_reaches_what_the_program_waits_for(jail: Jail) -> None:
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(\"up\", flush=True); import time; time.sleep(3600)'])"
    output = begin(jail, code)
    await output.until("up\n")
    jail.interrupt()
    assert (await ended(jail)).status == 130
    assert output.stderr.count("Traceback") == 2


async def test_an_interruption_before_the_program_runs_is_not_lost(jail: Jail) -> None:
    begin(jail, "while True: pass")
    jail.interrupt()
    assert (await ended(jail)).status == 130


async def test_interruptions_of_nothing_change_nothing() -> None:
    async with engine() as jails:
        jail = await jails.take(LIMITS)
        jail.interrupt()
        output = begin(jail, "print(1)")
        assert (await ended(jail)).status == 0
        jail.interrupt()
        assert output.stdout == "1\n"


async def test_a_program_cannot_interrupt_its_init(jail: Jail) -> None:
    """Nobody could tell how it ended, then."""
    output = begin(
        jail,
        "import os\nfor number in range(1, 65):\n    try: os.kill(1, number)\n    except PermissionError: pass\nprint('on')",
    )
    assert (await ended(jail)).status == 0
    assert output.stdout == "on\n"


STARTS_A_THREAD = (
    "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
)


@pytest.fixture
def threaded() -> Path:
    """A profile whose interpreter is asked to import a module that starts a thread."""
    folder = built_root().with_name("threaded")
    trees.link(built_root(), folder)
    (library,) = (folder / "root/usr/lib").glob("python3.*")
    (library / "starts_a_thread.py").write_text(STARTS_A_THREAD)
    (folder / profiles.FILE).unlink()  # It is a link to that of another.
    profiles.write(folder, Profile(name="threaded", preimported=("starts_a_thread",)))
    return folder


async def test_an_interpreter_with_threads_is_not_copied(threaded: Path) -> None:
    """A copy has one thread only, and whatever the others hold for ever."""
    async with engine(folder=threaded) as jails:
        assert jails.problem is not None
        assert "starts_a_thread starts a thread" in jails.problem
