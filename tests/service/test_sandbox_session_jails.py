"""What hostile programs can do to the session that they run in, and what they cannot."""

import asyncio
import textwrap
from collections.abc import AsyncIterator

import pytest

from services.sandbox.adapters.ns.engine import NsJails
from services.sandbox.adapters.ns.jail import SHORT, NsJail
from services.sandbox.core.limits import MIB, LimitKind, Limits
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.ports import SessionJail
from tests.service.ns_jails import Output, begin, ended, finished, session_of
from tests.service.sandbox_app import TIMEOUT_S
from tests.service.sandbox_engine import engine

LIMITS = Limits(files_bytes=8 * MIB)
CHANNEL = 254  # What the interpreter talks to its init by.


@pytest.fixture
async def jails() -> AsyncIterator[NsJails]:
    async with engine() as made:
        yield made


@pytest.fixture
async def session(jails: NsJails) -> AsyncIterator[SessionJail]:
    async with session_of(jails, LIMITS) as opened:
        yield opened


async def run(session: SessionJail, code: str) -> tuple[int | None, Output]:
    output = begin(session, textwrap.dedent(code))
    return (await finished(session)).status, output


async def printed(session: SessionJail, code: str) -> str:
    """What a program prints that has to end well."""
    status, output = await run(session, code)
    assert status == 0, output.stderr
    return output.stdout


LIVING = """
import pathlib
stats = [path.read_text() for path in pathlib.Path("/proc").glob("[0-9]*/stat")]
print(sum(stat.rpartition(")")[2].split()[0] != "Z" for stat in stats))
"""


@pytest.mark.parametrize(
    "leave",
    [
        "import subprocess; left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])",
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(3600)\n    os._exit(0)",
        """
if os.fork() == 0:
    for number in range(1, 65):
        try: signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError): pass
    time.sleep(3600)
""",
        "if os.fork() == 0:\n    while True:\n        try: os.fork()\n        except OSError: pass",
        """
interpreter = os.getpid()
for _ in range(3):
    if os.fork() == 0:
        while True:
            try: os.kill(interpreter, signal.SIGCONT); os.kill(-1, signal.SIGCONT)
            except OSError: pass
""",
    ],
    ids=["a child", "a daemon", "one that is deaf", "one that forks for ever", "some that wake others"],
)
async def test_nothing_that_a_program_leaves_lives_on(session: SessionJail, leave: str) -> None:
    code = f"import os, signal, sys, time\n{leave}\nprint('over')"
    assert await printed(session, code) == "over\n"
    assert await printed(session, LIVING) == "1\n"


async def test_between_programs_the_interpreter_stands_still(session: SessionJail) -> None:
    """Though threads of it do what they can to go on."""
    await printed(
        session,
        """
        import os, signal, threading, time
        longest_s = 0.0
        def on():
            global longest_s
            last_s = time.monotonic()
            while True:
                os.kill(os.getpid(), signal.SIGCONT)
                now_s = time.monotonic()
                longest_s, last_s = max(longest_s, now_s - last_s), now_s
        for _ in range(2):
            threading.Thread(target=on, daemon=True).start()
        """,
    )
    stood_s = 1.0
    await asyncio.sleep(stood_s)
    assert float(await printed(session, "time.sleep(0.05); print(longest_s)")) >= 0.9 * stood_s


async def test_interruptions_hit_the_program_that_runs_or_nothing(session: SessionJail) -> None:
    """However little before or after its end they come."""
    for number in range(60):
        output = begin(session, "x = 1" if number % 2 else "import threading; x = 1")
        for _ in range(number % 4):
            session.interrupt()
            await asyncio.sleep(0)
        status = (await finished(session)).status
        assert status in {0, 130}, output.stderr
        session.interrupt()
        assert await printed(session, "print('whole')") == "whole\n"


async def test_an_interruption_waits_for_the_program_to_begin(session: SessionJail) -> None:
    for _ in range(5):
        begin(session, "while True: pass")
        session.interrupt()
        assert (await finished(session)).status == 130


async def test_a_handler_is_kept_as_other_things_are(session: SessionJail) -> None:
    await printed(
        session, "import signal; came = []; signal.signal(signal.SIGINT, lambda *_: came.append(1));"
    )
    output = begin(session, "import time\nprint('up')\nwhile not came: time.sleep(0.01)\nprint('mine')")
    await output.until("up\n")
    session.interrupt()
    assert (await finished(session)).status == 0
    assert output.stdout == "up\nmine\n"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import sys; sys.exit(3)", 3),
        ("raise SystemExit('no')", 1),
        ("exit()", 0),
        ("def", 1),
        ("import os\nif os.fork() == 0: raise ValueError\nos.wait()", 0),
    ],
)
async def test_the_end_of_a_program_is_not_that_of_its_session(
    session: SessionJail, code: str, status: int
) -> None:
    await printed(session, "x = 1")
    assert (await run(session, code))[0] == status
    assert await printed(session, "print(x)") == "1\n"


async def test_each_program_has_streams_of_its_own(session: SessionJail) -> None:
    output = begin(session, "print(input())", b"first\nunread\n")
    await finished(session)
    assert output.stdout == "first\n"
    output = begin(session, "import sys\nprint(repr(sys.stdin.read()))\nsys.stdout.close()", b"second")
    await finished(session)
    assert output.stdout == "'second'\n"
    await run(
        session,
        "import io\nkept = sys.stderr\nsys.stdout = io.StringIO()\nos = __import__('os')\nos.close(0)",
    )
    output = begin(session, "print('out', file=sys.stdout)\nprint('err', file=kept)\ndisplay(1)")
    await finished(session)
    assert (output.stdout, output.stderr, output.plain) == ("out\n", "err\n", ["1"])


async def test_results_of_each_program_are_its_own(session: SessionJail) -> None:
    _, first = await run(session, "x = 40\nx + 1")
    _, second = await run(session, "x + 2")
    assert (first.plain, second.plain) == (["41"], ["42"])


@pytest.mark.timed
async def test_what_a_program_used_is_its_own(session: SessionJail) -> None:
    begin(session, "import time\nuntil = time.process_time() + 0.3\nwhile time.process_time() < until: pass")
    assert 0.3 <= (await finished(session)).cpu_s < 2
    begin(
        session,
        "import os\nif os.fork() == 0:\n    while time.process_time() < 0.2: pass\n    os._exit(0)\nos.wait()",
    )
    assert (await finished(session)).cpu_s >= 0.15  # Of children it is counted in ticks.
    begin(session, "pass")
    assert (await finished(session)).cpu_s < 0.2


@pytest.mark.parametrize(
    "said",
    ["b''", "b'x'", "b'ended'", "b'ended 256'", "b'ended -65'", "b'ended 0 '", "b'started'", "b'x' * 10_000"],
)
async def test_nonsense_to_the_init_ends_the_session(session: SessionJail, said: str) -> None:
    status, _ = await run(session, f"import os, time\nos.write({CHANNEL}, {said})\ntime.sleep(3600)")
    assert status == -9
    assert not session.alive


async def test_who_says_that_it_has_ended_is_stopped(session: SessionJail) -> None:
    """It can fool nobody else: what it says of itself is believed, and it does not go on."""
    status, output = await run(
        session,
        f"import os, time\nos.write({CHANNEL}, b'ended 0')\nwhile True: print('on'); time.sleep(0.001)",
    )
    assert status == 0
    seen = output.stdout
    await asyncio.sleep(0.1)
    assert output.stdout == seen


async def test_descriptors_that_are_sent_to_the_init_do_not_arrive(session: SessionJail) -> None:
    code = f"""
    import os, socket, time
    channel = socket.socket(fileno=os.dup({CHANNEL}))
    while True:
        try: socket.send_fds(channel, [b"started"], [0] * 100)
        except OSError as error: print(error); time.sleep(0.01)
    """
    status, output = await run(session, code)
    assert status == -9, output.stdout
    assert not session.alive


@pytest.mark.parametrize(
    "harm", ["os.closerange(3, 256)", f"os.dup2(0, {CHANNEL})", "os.kill(os.getpid(), 9)"]
)
async def test_a_lost_interpreter_is_told_and_hangs_nobody(session: SessionJail, harm: str) -> None:
    status, _ = await run(session, f"import os\n{harm}")
    assert status in {1, -9}
    assert not session.alive
    await ended(session)
    with pytest.raises(SandboxUnavailable):
        begin(session, "1")


async def test_memory_is_that_of_the_session(jails: NsJails) -> None:
    session = await jails.open(Limits(memory_bytes=64 * MIB))
    begin(session, "held = [b'x' * (1 << 22) for _ in range(100)]")
    ending = await finished(session)
    assert ending.breach is LimitKind.MEMORY
    assert not session.alive


async def test_processor_time_is_of_each_program(jails: NsJails) -> None:
    session = await jails.open(Limits(cpu_s=1.0))
    burn = "import time\nuntil = time.process_time() + 0.7\nwhile time.process_time() < until: pass"
    for _ in range(2):
        begin(session, burn)
        assert (await finished(session)).status == 0
    begin(session, "while True: pass")
    assert (await finished(session)).breach is LimitKind.CPU
    assert not session.alive


async def test_a_jail_that_cannot_become_a_session_is_ended(
    jails: NsJails, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[NsJail] = []

    def refuse(jail: NsJail, *_told: object) -> None:
        taken.append(jail)
        raise SandboxUnavailable(problem=SHORT)

    monkeypatch.setattr(NsJail, "become_session", refuse)
    with pytest.raises(SandboxUnavailable):
        await jails.open(LIMITS)
    async with asyncio.timeout(TIMEOUT_S):
        await taken[0].gone
