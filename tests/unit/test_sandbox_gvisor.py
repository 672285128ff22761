"""The engine `gvisor` without gVisor: its self-test finds what is wrong, its pipes keep their bounds, its place is swept."""

import asyncio
import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from services.sandbox.adapters.gvisor import place, runsc, selftest
from services.sandbox.adapters.gvisor.engine import NOT_INSTALLED, GvisorJails
from services.sandbox.adapters.gvisor.inside.wire import Ended, Kill, pack, unpack
from services.sandbox.adapters.gvisor.pipes import Incoming, Outgoing
from services.sandbox.core.lifecycle import Ending
from services.sandbox.core.limits import LimitKind, Limits
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.ports import Program, Stream, Write
from tests.fakes.fake_jails import FakeJail

Answer = tuple[str, Ending]


def ending(
    status: int | None, breach: LimitKind | None = None, reached: frozenset[LimitKind] = frozenset()
) -> Ending:
    return Ending(status, breach, 0.0, 0, reached)


SOUND = {
    "WALLS": ("", ending(0)),
    "FORKS": ("", ending(-9, reached=frozenset({LimitKind.PROCESSES}))),
    "MEMORY": ("", ending(-9, LimitKind.MEMORY)),
    "FILES": ("OSError: [Errno 28]", ending(1)),
}


class Jail(FakeJail):
    """Answers each program as it is told to."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        super().__init__()
        self._answers = {getattr(selftest, name): answer for name, answer in answers.items()}
        self._ending = ending(None)

    def begin(self, program: Program, write: Write) -> None:
        printed, self._ending = self._answers[program.code.decode()]
        write(Stream.STDOUT, printed.encode())

    async def ended(self) -> Ending:
        return self._ending


async def breaches(**changed: Answer) -> list[str]:
    async def build(_limits: Limits) -> Jail:
        return Jail(SOUND | changed)

    return await selftest.breaches(build, host_file=os.devnull, environment=[])


async def test_a_sound_engine_passes() -> None:
    assert await breaches() == []


@pytest.mark.parametrize(
    ("name", "answer", "found"),
    [
        ("WALLS", ("mounts\nis root\n", ending(0)), ["mounts", "is root"]),
        ("WALLS", ("", ending(1)), ["does not run a program"]),
        ("WALLS", ("", ending(None)), ["does not run a program"]),
        ("FORKS", ("", ending(-9, LimitKind.MEMORY)), ["has no limit on processes"]),
        ("MEMORY", ("", ending(-9)), ["has no limit on memory"]),
        ("FILES", ("", ending(0)), ["has no limit on files"]),
    ],
)
async def test_what_was_not_refused_is_named(name: str, answer: Answer, found: list[str]) -> None:
    assert await breaches(**{name: answer}) == found


async def test_without_runsc_it_is_not_offered(tmp_path: Path) -> None:
    jails = GvisorJails(tmp_path, runsc=tmp_path / "missing", usual=Limits(), warm_count=1)
    task = asyncio.create_task(jails.run())
    async with asyncio.timeout(10):
        while jails.problem != NOT_INSTALLED:
            await asyncio.sleep(0)
    with pytest.raises(SandboxUnavailable):
        await jails.take(Limits())
    task.cancel()


def test_what_is_no_program_is_no_runsc(tmp_path: Path) -> None:
    (tmp_path / "runsc").write_text("")
    assert runsc.find(tmp_path / "runsc") is None
    assert runsc.version(tmp_path / "runsc") is None


def test_messages_come_back_as_they_were() -> None:
    for message in (Kill(), Ended(-9, "memory", ["files"], 7)):
        assert unpack(pack(message)) == message
    with pytest.raises(ValueError, match="not a message"):
        unpack(b'["Unheard", {}]')


async def test_what_does_not_fit_into_a_pipe_waits_and_is_whole() -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    data = bytes(range(256)) * 1024  # Four times what a pipe holds.
    out = Outgoing(writing)
    out.write(data)
    out.end()
    waiting = asyncio.create_task(out.drained())
    await asyncio.sleep(0)
    assert not waiting.done()
    taken = bytearray()
    over = asyncio.Event()

    def take(chunk: bytes) -> None:
        taken.extend(chunk)
        if not chunk:
            over.set()

    Incoming(reading, take)
    async with asyncio.timeout(10):
        await over.wait()
        await waiting
    assert taken == data


async def test_what_nobody_reads_any_more_is_dropped() -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    os.close(reading)
    out = Outgoing(writing)
    out.write(b"x")
    async with asyncio.timeout(10):
        await out.drained()
    out.write(b"y")
    out.close()


def test_only_what_nobody_holds_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f"{place.PREFIX}left"
    young = tmp_path / f"{place.PREFIX}young"
    for folder in (left, young):
        folder.mkdir()
        (folder / "lock").touch()
    (left / "ready").touch()
    with place.opened() as held:
        place.sweep()
        assert set(tmp_path.iterdir()) == {held, young}
        with (held / "lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert set(tmp_path.iterdir()) == {young}
