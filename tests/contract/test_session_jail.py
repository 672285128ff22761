"""What the sandbox's service needs of a session's jail, and the fake that its tests use: both keep the same promises."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from services.sandbox.adapters.ns.engine import NsJails
from services.sandbox.core.lifecycle import Ending
from services.sandbox.core.limits import MIB, Limits
from services.sandbox.errors import FileNotFound, FileNotRegular, FileTooLarge, SandboxUnavailable
from services.sandbox.ports import FileEntry, Files, Jails, Program, SessionJail, Stream
from tests.fakes.fake_jails import FakeJails
from tests.service.sandbox_app import built_root

TIMEOUT_S = 30.0
LIMITS = Limits(files_bytes=MIB)
SLEEP = "print('up', flush=True)\nimport time\ntime.sleep(3600)"


@dataclass
class Running:
    """A jail, and what its programs wrote."""

    jail: SessionJail
    output: dict[Stream, bytearray] = field(default_factory=lambda: {each: bytearray() for each in Stream})

    def begin(self, code: str, stdin: bytes = b"") -> None:
        for written in self.output.values():
            written.clear()
        self.jail.begin(Program(code.encode(), stdin), lambda stream, data: self.output[stream].extend(data))

    async def run(self, code: str) -> tuple[int | None, str]:
        """How `code` ended, and what it wrote to its standard output."""
        self.begin(code)
        ending = await self.finished()
        return ending.status, self.stdout

    async def finished(self) -> Ending:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.jail.finished()

    async def wrote(self, text: str) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while text not in self.stdout:
                await asyncio.sleep(0.002)

    @property
    def stdout(self) -> str:
        return self.output[Stream.STDOUT].decode()


@asynccontextmanager
async def engine_of(kind: str) -> AsyncGenerator[Jails, None]:
    if kind == "fake":
        yield FakeJails()
        return
    jails = NsJails(built_root(), usual=Limits(), warm_count=1)
    task = asyncio.create_task(jails.run())
    async with asyncio.timeout(TIMEOUT_S):
        while jails.problem == "the engine is starting":
            await asyncio.sleep(0.01)
    assert jails.problem is None
    yield jails
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture(params=["fake", "ns"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def running(kind: str) -> AsyncIterator[Running]:
    async with engine_of(kind) as jails:
        jail = await jails.open(LIMITS)
        yield Running(jail)
        jail.kill()
        async with asyncio.timeout(TIMEOUT_S):
            await jail.ended()


async def put(files: Files, path: str, data: bytes, *, part_bytes: int = 1 << 16) -> FileEntry:
    async def chunks() -> AsyncGenerator[bytes, None]:
        for at in range(0, len(data), part_bytes):
            yield data[at : at + part_bytes]

    async with aclosing(chunks()) as parts, asyncio.timeout(TIMEOUT_S):
        return await files.put(path, len(data), parts)


async def get(files: Files, path: str, offset: int = 0) -> tuple[FileEntry, bytes]:
    async with asyncio.timeout(TIMEOUT_S):
        parts = [part async for part in files.get(path, offset=offset)]
    entry, *data = parts
    assert isinstance(entry, FileEntry)
    return entry, b"".join(part for part in data if isinstance(part, bytes))


async def names(files: Files, path: str = "", after: str = "", count_max: int = 100) -> list[str]:
    return [entry.path for entry in await files.list(path, after=after, count_max=count_max)]


async def test_variables_are_kept(running: Running) -> None:
    assert await running.run("x = 41") == (0, "")
    assert await running.run("x += 1\nprint(x)") == (0, "42\n")
    assert running.jail.alive


async def test_an_error_ends_the_program_and_not_the_interpreter(running: Running) -> None:
    await running.run("x = 1")
    status, _ = await running.run("1/0")
    assert status == 1
    assert b"ZeroDivisionError" in running.output[Stream.STDERR]
    assert await running.run("print(x)") == (0, "1\n")


async def test_an_interrupt_ends_the_program_and_not_the_interpreter(running: Running) -> None:
    await running.run("x = 1")
    running.begin(SLEEP)
    await running.wrote("up")
    running.jail.interrupt()
    assert (await running.finished()).status not in {0, None}
    assert b"KeyboardInterrupt" in running.output[Stream.STDERR]
    assert running.jail.alive
    assert await running.run("print(x)") == (0, "1\n")


async def test_an_interrupt_of_nothing_changes_nothing(running: Running) -> None:
    await running.run("x = 1")
    running.jail.interrupt()
    assert await running.run("print(x)") == (0, "1\n")


@pytest.mark.parametrize(("code", "status"), [("import os; os._exit(3)", 3), ("import os; os.abort()", -6)])
async def test_the_end_of_the_interpreter_is_the_end_of_the_jail(
    running: Running, code: str, status: int
) -> None:
    running.begin(code)
    assert (await running.finished()).status == status
    assert not running.jail.alive
    async with asyncio.timeout(TIMEOUT_S):
        await running.jail.ended()


async def test_a_kill_ends_what_runs(running: Running) -> None:
    running.begin(SLEEP)
    await running.wrote("up")
    running.jail.kill()
    running.jail.kill()
    await running.finished()
    assert not running.jail.alive
    async with asyncio.timeout(TIMEOUT_S):
        await running.jail.ended()
    with pytest.raises(SandboxUnavailable):
        await running.jail.files.list("", after="", count_max=1)


async def test_a_jail_in_which_nothing_runs_can_be_killed(running: Running) -> None:
    await running.run("x = 1")
    running.jail.kill()
    async with asyncio.timeout(TIMEOUT_S):
        await running.jail.ended()
    assert not running.jail.alive


async def test_a_waiter_that_leaves_takes_nothing_away(running: Running) -> None:
    running.begin(SLEEP)
    waiting = asyncio.create_task(running.jail.finished())
    await running.wrote("up")
    waiting.cancel()
    await asyncio.wait([waiting])
    running.jail.interrupt()
    await running.finished()
    assert running.jail.alive


async def test_jails_share_nothing(kind: str) -> None:
    async with engine_of(kind) as jails:
        one, other = [Running(await jails.open(LIMITS)) for _ in range(2)]
        await one.run("x = 1")
        await put(one.jail.files, "a", b"1")
        assert (await other.run("print(x)"))[0] == 1
        assert await names(other.jail.files) == []
        for each in (one, other):
            each.jail.kill()
            await each.jail.ended()


async def test_a_file_is_what_was_put(running: Running) -> None:
    files = running.jail.files
    data = os.urandom(300_000)
    entry = await put(files, "a.bin", data)
    assert (entry.path, entry.size_bytes, entry.is_folder) == ("a.bin", len(data), False)
    for offset in (0, 1, 65_536, 299_999, 300_000, 400_000):
        found, rest = await get(files, "a.bin", offset)
        assert (found.path, found.size_bytes) == ("a.bin", len(data))
        assert rest == data[offset:]


async def test_programs_read_what_was_put(running: Running) -> None:
    await put(running.jail.files, "a.txt", b"hello")
    assert await running.run("print(open('a.txt').read())") in [(0, "hello\n"), (0, "b'hello'\n")]


async def test_files_are_there_while_something_runs(running: Running) -> None:
    running.begin(SLEEP)
    await running.wrote("up")
    await put(running.jail.files, "a", b"1")
    assert (await get(running.jail.files, "a"))[1] == b"1"
    await running.jail.files.delete("a")
    assert await names(running.jail.files) == []


async def test_an_empty_file_is_one(running: Running) -> None:
    entry = await put(running.jail.files, "empty", b"")
    assert entry.size_bytes == 0
    assert (await get(running.jail.files, "empty"))[1] == b""


async def test_folders_are_made_as_needed(running: Running) -> None:
    files = running.jail.files
    await put(files, "a/b/c", b"1")
    assert (await get(files, "a/b/c"))[1] == b"1"
    (folder,) = await files.list("", after="", count_max=9)
    assert (folder.path, folder.is_folder) == ("a", True)
    assert await names(files, "a") == ["a/b"]
    assert await names(files, "a/b") == ["a/b/c"]


async def test_a_file_replaces_another_whole(running: Running) -> None:
    files = running.jail.files
    await put(files, "a", b"long, and before")
    await put(files, "a", b"short")
    assert (await get(files, "a"))[1] == b"short"
    assert await names(files) == ["a"]


async def test_what_is_not_there_is_not_found(running: Running) -> None:
    files = running.jail.files
    for path in ("missing", "missing/a"):
        with pytest.raises(FileNotFound):
            await get(files, path)
        with pytest.raises(FileNotFound):
            await files.list(path, after="", count_max=1)
        await files.delete(path)


async def test_what_is_no_file_is_not_read_or_replaced(running: Running) -> None:
    files = running.jail.files
    await put(files, "folder/a", b"1")
    with pytest.raises(FileNotRegular):
        await get(files, "folder")
    with pytest.raises(FileNotRegular):
        await put(files, "folder", b"2")
    with pytest.raises(FileNotRegular):
        await put(files, "folder/a/b", b"2")
    with pytest.raises(FileNotRegular):
        await files.list("folder/a", after="", count_max=1)
    assert (await get(files, "folder/a"))[1] == b"1"


async def test_what_is_too_much_leaves_what_was_there(running: Running) -> None:
    files = running.jail.files
    await put(files, "a", b"before")
    with pytest.raises(FileTooLarge):
        await put(files, "a", bytes(LIMITS.files_bytes + 1))
    with pytest.raises(FileTooLarge):
        await put(files, "b", bytes(LIMITS.files_bytes + 1))
    assert await names(files) == ["a"]
    assert (await get(files, "a"))[1] == b"before"


async def test_who_fails_while_putting_leaves_nothing(running: Running) -> None:
    class Gone(Exception):
        pass

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"12"
        raise Gone

    files = running.jail.files
    for path in ("a", "folder/b"):
        async with aclosing(chunks()) as parts:
            with pytest.raises(Gone):
                await files.put(path, 4, parts)
    assert "a" not in await names(files)
    await put(files, "a", b"after")
    assert (await get(files, "a"))[1] == b"after"


async def test_who_leaves_while_putting_leaves_nothing(running: Running) -> None:
    begun = asyncio.Event()

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"12"
        begun.set()
        await asyncio.Event().wait()

    files = running.jail.files
    await put(files, "a", b"before")
    async with aclosing(chunks()) as parts:
        putting = asyncio.create_task(files.put("a", 4, parts))
        await begun.wait()
        putting.cancel()
        await asyncio.wait([putting])
    assert putting.cancelled()
    assert (await get(files, "a"))[1] == b"before"
    assert await names(files) == ["a"]


async def test_who_stops_reading_holds_nothing_up(running: Running) -> None:
    files = running.jail.files
    await put(files, "a", bytes(900_000))
    for _ in range(20):
        reading = files.get("a", offset=0)
        await anext(reading)
        await anext(reading)
        await reading.aclose()
    assert (await get(files, "a", 899_999))[1] == b"\0"


async def test_lists_are_by_name_and_in_pages(running: Running) -> None:
    files = running.jail.files
    every = sorted(["b", "a", "é", "Z", "a b", "a.b", "~", "10", "9", "line\nbreak"])
    for name in every:
        await put(files, name, b"")
    told: list[str] = []
    while page := await names(files, after=told[-1] if told else "", count_max=3):
        assert len(page) <= 3
        told += page
    assert told == every


async def test_a_folder_goes_with_what_is_in_it(running: Running) -> None:
    files = running.jail.files
    for path in ("a/b/c", "a/d", "ab"):
        await put(files, path, b"1")
    await files.delete("a")
    await files.delete("a")
    assert await names(files) == ["ab"]
