"""Programs of profiles that run them by a command, in fresh jails and in sessions."""

import shutil
from collections.abc import AsyncIterator

import pytest

from services.sandbox.adapters.ns.engine import NsJails
from services.sandbox.core.limits import Limits
from services.sandbox.ports import SessionJail, Stream
from tests.service.ns_jails import begin, ended, finished, session_of
from tests.service.sandbox_app import built_root
from tests.service.sandbox_engine import engine

LIMITS = Limits()

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="this machine has no bash")


@pytest.fixture
async def jails() -> AsyncIterator[NsJails]:
    async with engine(folder=built_root("bash")) as made:
        assert made.problem is None
        yield made


@pytest.fixture
async def session(jails: NsJails) -> AsyncIterator[SessionJail]:
    async with session_of(jails, LIMITS) as opened:
        yield opened


async def test_code_is_a_file_and_its_process_the_command(jails: NsJails) -> None:
    jail = await jails.take(LIMITS)
    output = begin(jail, "pwd; cat; echo $0 $$; ls; ls /proc/self/fd; echo err >&2; exit 3", b"in\n")
    assert (await ended(jail)).status == 3
    assert output.stdout.startswith("/work\nin\nmain.sh 2\nmain.sh\n0\n1\n2\n3\n")
    assert output.stderr == "err\n"
    assert output.of(Stream.RESULTS) == b""


async def test_signals_are_as_a_shell_expects_them(jails: NsJails) -> None:
    jail = await jails.take(LIMITS)
    output = begin(jail, "yes | head -n 1; echo ${PIPESTATUS[0]}")
    await ended(jail)
    assert (output.stdout, output.stderr) == ("y\n141\n", "")
    jail = await jails.take(LIMITS)
    output = begin(jail, "trap 'caught=1' INT; echo up; until [ $caught ]; do sleep 0.02; done; echo on")
    await output.until("up\n")
    jail.interrupt()
    assert (await ended(jail)).status == 0
    assert output.stdout == "up\non\n"


async def test_an_interrupt_that_is_not_handled_ends_the_command(jails: NsJails) -> None:
    jail = await jails.take(LIMITS)
    output = begin(jail, "echo up; sleep 3600; echo on")
    await output.until("up\n")
    jail.interrupt()
    assert (await ended(jail)).status in {-2, 130}
    assert output.stdout == "up\n"


async def test_a_session_keeps_files_and_no_variables(session: SessionJail) -> None:
    output = begin(session, "x=1; echo $x > kept; sleep 3600 & echo $$")
    assert (await finished(session)).status == 0
    first = output.stdout
    output = begin(session, "echo ${x-unset}; cat kept; echo /proc/[0-9]*; exit 7")
    assert (await finished(session)).status == 7
    unset, kept, processes = output.stdout.splitlines()
    assert (unset, kept) == ("unset", "1")
    assert len(processes.split()) == 2  # That of the session, and its own: not the one that was left.
    assert first
    begin(session, "kill -9 $$")
    assert (await finished(session)).status == -9
    assert session.alive


async def test_a_program_of_a_session_can_be_interrupted(session: SessionJail) -> None:
    for _ in range(2):
        output = begin(session, "echo up; sleep 3600; echo on")
        await output.until("up\n")
        session.interrupt()
        assert (await finished(session)).status in {-2, 130}
        assert session.alive


@pytest.mark.parametrize("left", ["ln -s /dev/full main.sh", "true", "rm main.sh; mkdir -p a"])
async def test_what_a_program_leaves_in_place_of_the_next_is_replaced(
    session: SessionJail, left: str
) -> None:
    begin(session, f"rm -f main.sh; {left}")
    await finished(session)
    output = begin(session, "echo here")
    assert (await finished(session)).status == 0
    assert output.stdout == "here\n"


async def test_a_folder_in_place_of_the_program_is_told(session: SessionJail) -> None:
    begin(session, "rm main.sh; mkdir main.sh")
    await finished(session)
    output = begin(session, "echo here")
    assert (await finished(session)).status == 126
    assert "main.sh cannot be written" in output.stderr


async def test_a_session_whose_parent_is_killed_is_lost(session: SessionJail) -> None:
    begin(session, "kill -9 $PPID; sleep 3600")
    await finished(session)
    assert not session.alive
