"""The engine `gvisor`: what a program gets, how its end is told, and what is left of it."""

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from services.sandbox.adapters.gvisor import selftest
from services.sandbox.adapters.gvisor.engine import GvisorJails
from services.sandbox.core.limits import MIB, LimitKind
from services.sandbox.core.results import Decoder
from services.sandbox.errors import SandboxUnavailable, SessionsNotSupported
from services.sandbox.ports import Program, Stream
from tests.service.sandbox_gvisor import TIMEOUT_S, USUAL, begin, engine, needs_runsc, run

VERSION = Path("/proc/version").read_text()
pytestmark = [needs_runsc, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def jails() -> AsyncIterator[GvisorJails]:
    async with engine() as made:
        assert made.problem is None
        yield made


async def test_a_program_runs_on_a_kernel_of_its_own(jails: GvisorJails) -> None:
    ran = await run(jails, "print(open('/proc/version').read(), end='')")
    assert ran.stdout != VERSION
    assert ran.ending.status == 0


async def test_both_streams_and_the_exit_code_are_told(jails: GvisorJails) -> None:
    ran = await run(jails, "import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(7)")
    assert (ran.stdout, ran.stderr, ran.ending.status) == ("out\n", "err\n", 7)


async def test_a_traceback_is_the_programs_own(jails: GvisorJails) -> None:
    ran = await run(jails, "def f():\n    return 1 / 0\nf()")
    assert ran.ending.status == 1
    assert ran.stderr.splitlines()[:3] == [
        "Traceback (most recent call last):",
        '  File "main.py", line 3, in <module>',
        "    f()",
    ]


async def test_standard_input_can_be_given_at_once_and_later(jails: GvisorJails) -> None:
    jail = await jails.take(USUAL)
    written = begin(jail, Program(b"import sys\nprint(sys.stdin.read())", b"first, ", stdin_open=True))
    await jail.feed(b"then, ", end=False)
    await jail.feed(b"at last", end=True)
    async with asyncio.timeout(TIMEOUT_S):
        assert (await jail.ended()).status == 0
    assert written[Stream.STDOUT] == b"first, then, at last\n"


async def test_input_that_nobody_reads_waits_and_is_dropped_at_the_end(jails: GvisorJails) -> None:
    jail = await jails.take(USUAL)
    begin(jail, Program(b"import time\nprint('x', flush=True)\ntime.sleep(60)", b"", stdin_open=True))
    feeding = asyncio.create_task(jail.feed(b"x" * (4 * MIB), end=False))
    done, _ = await asyncio.wait([feeding], timeout=0.2)
    assert not done
    jail.kill()
    async with asyncio.timeout(TIMEOUT_S):
        await feeding


async def test_output_is_whole(jails: GvisorJails) -> None:
    ran = await run(jails, "import sys\nsys.stdout.buffer.write(bytes(range(256)) * 8192)")
    assert ran.written[Stream.STDOUT] == bytes(range(256)) * 8192


async def test_an_interrupt_can_be_handled(jails: GvisorJails) -> None:
    jail = await jails.take(USUAL)
    code = "import time\ntry:\n    print('up', flush=True)\n    time.sleep(60)\nexcept KeyboardInterrupt: print('heard')"
    up = asyncio.Event()
    written = bytearray()

    def write(_stream: Stream, data: bytes) -> None:
        written.extend(data)
        up.set()

    jail.begin(Program(code.encode(), b""), write)
    async with asyncio.timeout(TIMEOUT_S):
        await up.wait()
        jail.interrupt()
        assert (await jail.ended()).status == 0
    assert written == b"up\nheard\n"


async def test_a_signal_is_told_as_one(jails: GvisorJails) -> None:
    ran = await run(jails, "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert ran.ending.status == -signal.SIGSEGV


async def test_a_program_cannot_tell_how_it_ended(jails: GvisorJails) -> None:
    """It has no descriptor but its own, and the init's are not its to open."""
    code = """
import os
from pathlib import Path
ours = b'["Ended", {"status": 0, "breach": null, "reached": [], "peak_memory_bytes": 0}]\\n'
places = [*range(3, 256), *(f'/proc/1/fd/{number}' for number in range(64))]
for place in places:
    try:
        os.write(place if isinstance(place, int) else os.open(place, os.O_WRONLY), ours)
    except OSError:
        pass
os._exit(3)
"""
    assert (await run(jails, code)).ending.status == 3


async def test_too_much_memory_is_told(jails: GvisorJails) -> None:
    limits = replace(USUAL, memory_bytes=96 * MIB)
    ran = await run(jails, "held = []\nwhile True: held.append(b'x' * (1 << 20))", limits=limits)
    assert ran.ending.breach is LimitKind.MEMORY
    assert ran.ending.peak_memory_bytes > 90 * MIB


async def test_files_count_as_memory(jails: GvisorJails) -> None:
    limits = replace(USUAL, memory_bytes=96 * MIB, files_bytes=512 * MIB)
    code = "with open('/tmp/x', 'wb') as file:\n    while True: file.write(b'x' * (1 << 20))"
    assert (await run(jails, code, limits=limits)).ending.breach is LimitKind.MEMORY


async def test_too_much_processor_time_is_told(jails: GvisorJails) -> None:
    ran = await run(jails, "while True: pass", limits=replace(USUAL, cpu_s=0.2))
    assert ran.ending.breach is LimitKind.CPU
    assert ran.ending.cpu_s >= 0.2


async def test_too_many_processes_are_told(jails: GvisorJails) -> None:
    code = "import os, time\nwhile True:\n    try:\n        os.fork() or time.sleep(60)\n    except OSError: pass"
    ran = await run(jails, code, limits=replace(USUAL, process_count=8))
    assert ran.ending.reached == {LimitKind.PROCESSES}
    assert ran.ending.breach is None
    assert ran.ending.status == -signal.SIGKILL


async def test_all_writable_folders_share_one_limit(jails: GvisorJails) -> None:
    code = """
written = 0
for folder in ('/work', '/tmp', '/dev/shm'):
    with open(folder + '/file', 'wb', buffering=0) as file:
        try:
            while True: written += file.write(b'x' * 65536)
        except OSError: pass
print(written)
"""
    ran = await run(jails, code, limits=replace(USUAL, files_bytes=4 * MIB))
    assert 3 * MIB < int(ran.stdout) <= 4 * MIB
    assert LimitKind.FILES in ran.ending.reached


async def test_what_the_program_left_is_ended_with_it(jails: GvisorJails) -> None:
    """Nothing that holds the output open keeps the execution from its end."""
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n    print('late')\nprint('done')"
    ran = await run(jails, code)
    assert (ran.stdout, ran.ending.status) == ("done\n", 0)


async def test_a_killed_jail_leaves_no_process_of_its_own(jails: GvisorJails) -> None:
    jail = await jails.take(USUAL)
    begin(jail, Program(b"import time\ntime.sleep(60)", b""))
    pids = jail.pids
    assert len(pids) >= 4  # runsc twice, gVisor's kernel, its file server.
    jail.kill()
    async with asyncio.timeout(TIMEOUT_S):
        assert (await jail.ended()).status == -signal.SIGKILL
        await jail.buried
    assert not [pid for pid in pids if _lives(pid)]


async def test_the_last_value_is_a_result(jails: GvisorJails) -> None:
    ran = await run(jails, "print('before')\n6 * 7")
    decoder = Decoder(bytes_max=MIB, count_max=8)
    assert decoder.feed(bytes(ran.written[Stream.RESULTS])) == [{"text/plain": b"42"}]
    assert ran.stdout == "before\n"


async def test_who_may_have_more_memory_gets_it(jails: GvisorJails) -> None:
    code = "held = bytearray(600 << 20)\nfor at in range(0, len(held), 4096): held[at] = 1\nprint(len(held))"
    ran = await run(jails, code, limits=replace(USUAL, memory_bytes=768 * MIB))
    assert ran.stdout == f"{600 << 20}\n"


async def test_an_engine_that_fails_its_self_test_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "WALLS", "print('mounts')")
    async with engine() as failing:
        assert failing.problem == "the engine failed its self-test: a program mounts"
        with pytest.raises(SandboxUnavailable):
            await failing.take(USUAL)


async def test_sessions_are_refused(jails: GvisorJails) -> None:
    with pytest.raises(SessionsNotSupported):
        await jails.open(USUAL)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False
