"""Files of a session whose program does what it can against who reads and writes them."""

import asyncio
import os
import signal
import textwrap
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from services.sandbox.adapters.ns import files as adapter
from services.sandbox.adapters.ns.engine import NsJails
from services.sandbox.adapters.ns.inside.transfers import COUNT_MAX
from services.sandbox.adapters.ns.session import NsSession
from services.sandbox.core.limits import MIB, Limits
from services.sandbox.errors import FileNotFound, FileNotRegular, FileTooLarge, SandboxUnavailable
from services.sandbox.ports import FileEntry, Files, SessionJail
from tests.service.ns_jails import Output, begin, ended, finished, session_of
from tests.service.sandbox_app import TIMEOUT_S
from tests.service.sandbox_engine import engine

LIMITS = Limits(files_bytes=8 * MIB)
REFUSED = (FileNotFound, FileNotRegular)


@pytest.fixture
async def jails() -> AsyncIterator[NsJails]:
    async with engine() as made:
        yield made


@pytest.fixture
async def session(jails: NsJails) -> AsyncIterator[SessionJail]:
    async with session_of(jails, LIMITS) as opened:
        yield opened


async def put(files: Files, path: str, data: bytes, *, part_bytes: int = 1 << 16) -> FileEntry:
    async def parts() -> AsyncGenerator[bytes, None]:
        for at in range(0, len(data), part_bytes):
            yield data[at : at + part_bytes]

    async with asyncio.timeout(TIMEOUT_S), aclosing(parts()) as chunks:
        return await files.put(path, len(data), chunks)


async def get(files: Files, path: str, offset: int = 0) -> bytes:
    async with asyncio.timeout(TIMEOUT_S), aclosing(files.get(path, offset=offset)) as parts:
        entry = await anext(parts)
        assert isinstance(entry, FileEntry)
        return b"".join([part async for part in parts if isinstance(part, bytes)])


async def names(files: Files, path: str = "") -> list[str]:
    async with asyncio.timeout(TIMEOUT_S):
        return [entry.path for entry in await files.list(path, after="", count_max=1000)]


async def run(session: SessionJail, code: str) -> Output:
    output = begin(session, textwrap.dedent(code))
    assert (await finished(session)).status == 0, output.stderr
    return output


async def test_names_are_those_of_the_jail(session: SessionJail) -> None:
    """Not of the init's view of it, nor of the host's."""
    await run(
        session,
        """
        import os, socket
        for name, target in {"etc": "/etc", "passwd": "/etc/passwd", "proc": "/proc/1", "up": "..", "self": "."}.items():
            os.symlink(target, name)
        socket.socket(socket.AF_UNIX).bind("socket")
        """,
    )
    files = session.files
    for path in (
        "etc",
        "passwd",
        "etc/passwd",
        "proc",
        "proc/environ",
        "up",
        "up/etc/passwd",
        "self/passwd",
        "socket",
    ):
        with pytest.raises(FileNotRegular):
            await get(files, path)
        with pytest.raises(FileNotRegular):
            await put(files, path, b"x")
    for path in ("etc", "proc", "up", "self"):
        with pytest.raises(FileNotRegular):
            await names(files, path)
    assert await names(files) == []
    for path in ("etc", "passwd", "proc", "up", "self", "socket"):
        await files.delete(path)
    assert (
        await run(session, "import os; print(os.listdir('.'), os.path.exists('/etc/passwd'))")
    ).stdout == "[] True\n"


SWAPS = """
import os
os.mkdir("/tmp/elsewhere")
open("/tmp/elsewhere/file", "w").write("elsewhere")
os.mkdir("real")
os.symlink("/tmp/elsewhere", "link")
print("up")
while True:
    for first, second in (("real", "place"), ("place", "real"), ("link", "place"), ("place", "link")):
        try: os.rename(first, second)
        except OSError: pass
"""


async def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(session: SessionJail) -> None:
    output = begin(session, SWAPS)
    await output.until("up\n")
    files = session.files
    seen: set[bytes] = set()
    for _ in range(100):
        for act in (put(files, "place/file", b"put"), get(files, "place/file"), files.delete("place/file")):
            with suppress(*REFUSED):
                if isinstance(found := await act, bytes):
                    seen.add(found)
    session.interrupt()
    await finished(session)
    assert seen == {b"put"}
    code = "print(os.listdir('/tmp/elsewhere'), open('/tmp/elsewhere/file').read())"
    assert (await run(session, code)).stdout == "['file'] elsewhere\n"


async def test_a_file_that_is_replaced_meanwhile_is_read_as_it_was_or_is(session: SessionJail) -> None:
    output = begin(
        session,
        """
import os, socket
socket.socket(socket.AF_UNIX).bind("socket")
os.symlink("/etc/passwd", "link")
print("up")
number = 0
while True:
    number += 1
    with open("new", "w") as file: file.write("x" * (number % 7 * 30_000))
    os.rename("new", "file")
    os.truncate("file", number % 5)
    os.link("socket", "new"); os.rename("new", "file")
    os.symlink("link", "new"); os.rename("new", "file")
""",
    )
    await output.until("up\n")
    read_count = 0
    for _ in range(200):
        with suppress(*REFUSED):
            assert set(await get(session.files, "file")) <= {ord("x"), 0}
            read_count += 1
        with suppress(*REFUSED):
            await put(session.files, "file", b"x" * 100_000)
    assert read_count
    session.kill()


async def test_a_file_that_is_cut_off_meanwhile_ends_there(session: SessionJail) -> None:
    await put(session.files, "file", bytes(4 * MIB))
    async with aclosing(session.files.get("file", offset=0)) as parts:
        entry = await anext(parts)
        assert isinstance(entry, FileEntry)
        await run(session, "import os; os.truncate('file', 1000)")
        rest = [part async for part in parts if isinstance(part, bytes)]
    assert entry.size_bytes == 4 * MIB
    assert 1000 <= sum(map(len, rest)) < MIB


async def test_what_fills_up_while_a_file_comes_leaves_nothing_of_it(session: SessionJail) -> None:
    filled = asyncio.Event()

    async def parts() -> AsyncGenerator[bytes, None]:
        yield bytes(MIB)
        await run(
            session,
            "try:\n    with open('all', 'wb') as file:\n        while True: file.write(bytes(65536))\nexcept OSError: pass",
        )
        filled.set()
        yield bytes(3 * MIB)

    await put(session.files, "file", b"before")
    async with aclosing(parts()) as chunks:
        with pytest.raises(FileTooLarge) as raised:
            await session.files.put("file", 4 * MIB, chunks)
    assert raised.value.facts["max_bytes"] == str(LIMITS.files_bytes)
    assert filled.is_set()
    assert await get(session.files, "file") == b"before"
    await session.files.delete("all")
    await put(session.files, "file", bytes(4 * MIB))  # Nothing of the other is in the way.


async def test_too_many_files_are_too_many(session: SessionJail) -> None:
    await run(
        session,
        "try:\n    for number in range(10_000): open(f'{number:05}', 'w').close()\nexcept OSError: pass",
    )
    with pytest.raises(FileTooLarge):
        await put(session.files, "one/more", b"")
    told: list[str] = []
    while page := await session.files.list("", after=told[-1] if told else "", count_max=1000):
        told += [entry.path for entry in page]
    assert told == sorted(told)
    assert 3000 < len(told) <= 4096
    assert not any("more" in name for name in told)


async def test_long_names_fit_into_a_list(session: SessionJail) -> None:
    code = "for number in range(300): open(f'{number:03}' + '\\x01\\U0001f600' * 50, 'w').close()"
    await run(session, code)
    assert len(await names(session.files)) == 300


async def test_a_program_that_stops_all_that_it_can_stops_no_file(session: SessionJail) -> None:
    output = begin(
        session,
        "import os, signal\nprint('up')\nwhile True:\n    try: os.kill(1, signal.SIGSTOP)\n    except OSError: pass",
    )
    await output.until("up\n")
    await put(session.files, "file", b"1")
    assert await get(session.files, "file") == b"1"
    session.interrupt()
    await finished(session)


async def test_who_does_not_read_or_write_on_holds_up_nobody(session: SessionJail) -> None:
    never = asyncio.Event()

    async def parts() -> AsyncGenerator[bytes, None]:
        yield b"1"
        await never.wait()

    files = session.files
    await put(files, "large", bytes(MIB))
    reading = [files.get("large", offset=0) for _ in range(COUNT_MAX // 2)]
    for each in reading:
        await anext(each)
    writing = [
        asyncio.create_task(files.put(f"new{number}", 2, parts())) for number in range(COUNT_MAX // 2 - 1)
    ]
    await asyncio.sleep(0)
    await put(files, "file", b"1")
    assert await names(files) == ["file", "large"]
    assert (
        await run(session, "print(os.path.getsize('large') if (os := __import__('os')) else 0)")
    ).stdout == f"{MIB}\n"
    for task in writing:
        task.cancel()
    await asyncio.wait(writing)
    for each in reading:
        await each.aclose()
    assert await get(files, "file") == b"1"


async def test_more_at_once_than_can_be_is_refused(session: SessionJail) -> None:
    await put(session.files, "large", bytes(MIB))
    reading = [session.files.get("large", offset=0) for _ in range(COUNT_MAX)]
    for each in reading:
        await anext(each)
    with pytest.raises(SandboxUnavailable):
        await put(session.files, "file", b"1")
    for each in reading:
        await each.aclose()
    await put(session.files, "file", b"1")


async def killed_while_putting(session: SessionJail) -> None:
    async def parts() -> AsyncGenerator[bytes, None]:
        session.kill()
        for _ in range(64):
            yield bytes(1 << 16)

    async with aclosing(parts()) as chunks:
        await session.files.put("new", 4 * MIB, chunks)


async def killed_while_getting(session: SessionJail) -> None:
    async with aclosing(session.files.get("large", offset=0)) as parts:
        async for part in parts:
            if isinstance(part, FileEntry):
                session.kill()


async def killed_before_listing(session: SessionJail) -> None:
    session.kill()
    await ended(session)
    await session.files.list("", after="", count_max=1)


async def killed_while_deleting(session: SessionJail) -> None:
    deleting = asyncio.create_task(session.files.delete("missing"))
    os.kill(init_of(session), signal.SIGSTOP)  # So that it has no answer yet.
    await asyncio.sleep(0)
    session.kill()
    await deleting


@pytest.mark.parametrize(
    "act", [killed_while_putting, killed_while_getting, killed_before_listing, killed_while_deleting]
)
async def test_a_jail_that_is_lost_meanwhile_fails_the_call(
    session: SessionJail, act: Callable[[SessionJail], Awaitable[None]]
) -> None:
    await put(session.files, "large", bytes(MIB))
    async with asyncio.timeout(TIMEOUT_S):
        with pytest.raises(SandboxUnavailable):
            await act(session)


async def test_an_init_that_does_not_answer_is_given_up(
    session: SessionJail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "ANSWER_WITHIN_S", 0.2)
    os.kill(init_of(session), signal.SIGSTOP)
    with pytest.raises(SandboxUnavailable):
        await session.files.delete("file")
    await ended(session)
    assert not session.alive


def init_of(session: SessionJail) -> int:
    """Its pid."""
    assert isinstance(session, NsSession)
    told = Path(f"/proc/self/fdinfo/{session._jail._pidfd}").read_text()
    return next(int(line.split()[1]) for line in told.splitlines() if line.startswith("Pid:"))
