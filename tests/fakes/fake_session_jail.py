"""A session's jail that lives in this process: it keeps variables and files, and runs what tests write.

Programs are Python, run in place, so they must end by themselves; three things that real ones do are taken from their
text: `time.sleep(` hangs until an interrupt or a kill, `os._exit(N)` and `os.abort()` end the interpreter.
"""

import asyncio
import io
import re
import signal
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from services.sandbox.core.lifecycle import Ending
from services.sandbox.core.limits import LimitKind, Limits
from services.sandbox.errors import FileNotFound, FileNotRegular, FileTooLarge, SandboxUnavailable
from services.sandbox.ports import FileEntry, Program, Stream, Write

CHUNK_BYTES = 1 << 16
MODIFIED_S = 1.0
_EXITS = re.compile(r"os\._exit\((\d+)\)")


class FakeSessionJail:
    def __init__(self, limits: Limits | None = None) -> None:
        self.alive = True
        self.files = FakeFiles(self, (limits or Limits()).files_bytes)
        self.begun = asyncio.Event()
        self.interrupt_count = self.kill_count = 0
        self.is_deaf = False  # To interrupts.
        self.fed = b""
        self._variables: dict[str, object] = {"open": self.files.open}
        self._write: Write = lambda _stream, _data: None
        loop = asyncio.get_running_loop()
        self._over: asyncio.Future[Ending] = loop.create_future()
        self._finished: asyncio.Future[Ending] = loop.create_future()

    def begin(self, program: Program, write: Write) -> None:
        assert self.alive
        self._write = write
        self._finished = asyncio.get_running_loop().create_future()
        self.begun.set()
        code = program.code.decode()
        if "time.sleep(" in code:
            self._run(code.partition("time.sleep(")[0].rpartition("\n")[0])
        elif found := _EXITS.search(code):
            self.end(int(found[1]))
        elif "os.abort()" in code:
            self.end(-signal.SIGABRT)
        else:
            self.finish(self._run(code))

    async def feed(self, data: bytes, *, end: bool) -> None:
        self.fed += data

    def interrupt(self) -> None:
        self.interrupt_count += 1
        if not self.is_deaf and not self._finished.done():
            self._write(Stream.STDERR, b"KeyboardInterrupt\n")
            self.finish(1)

    def finish(self, status: int) -> None:
        """What runs ends, and its interpreter goes on."""
        self._finished.set_result(_ending(status))

    def end(self, status: int | None, breach: LimitKind | None = None) -> None:
        """The jail ends, and what runs with it."""
        self.alive = False
        ending = _ending(status, breach)
        for waited in (self._finished, self._over):
            if not waited.done():
                waited.set_result(ending)

    def kill(self) -> None:
        self.kill_count += 1
        self.end(-signal.SIGKILL)

    async def finished(self) -> Ending:
        return await asyncio.shield(self._finished)

    async def ended(self) -> Ending:
        return await asyncio.shield(self._over)

    def _run(self, code: str) -> int:
        def show(*values: object, flush: bool = False) -> None:
            self._write(Stream.STDOUT, (" ".join(map(str, values)) + "\n").encode())

        self._variables["print"] = show
        try:
            exec(compile(code, "main.py", "exec"), self._variables)
        except Exception:
            self._write(Stream.STDERR, traceback.format_exc().encode())
            return 1
        return 0


class FakeFiles:
    """The port `Files`, as a mapping of paths to contents; a folder has None."""

    def __init__(self, jail: FakeSessionJail, bytes_max: int) -> None:
        self._jail, self._bytes_max = jail, bytes_max
        self.held: dict[str, bytes | None] = {"": None}

    def open(self, path: str) -> io.BytesIO:
        """What programs open."""
        if (data := self.held.get(path)) is None:
            raise OSError(path)
        return io.BytesIO(data)

    async def put(self, path: str, size_bytes: int, chunks: AsyncIterator[bytes]) -> FileEntry:
        self._check()
        data = bytearray()
        async for chunk in chunks:
            data += chunk
            self._check()
        assert len(data) == size_bytes
        folders = [path[:at] for at, letter in enumerate(path) if letter == "/"]
        if any(self.held.get(folder) is not None for folder in folders) or self._is_folder(path):
            raise FileNotRegular(path=path)
        others_bytes = sum(len(held or b"") for name, held in self.held.items() if name != path)
        if others_bytes + size_bytes > self._bytes_max:
            raise FileTooLarge(max_bytes=self._bytes_max)
        self.held.update(dict.fromkeys(folders), **{path: bytes(data)})
        return self._entry(path)

    async def get(self, path: str, *, offset: int) -> AsyncGenerator[FileEntry | bytes, None]:
        self._check()
        data = self._found(path)
        if data is None:
            raise FileNotRegular(path=path)
        yield self._entry(path)
        for at in range(offset, len(data), CHUNK_BYTES):
            yield data[at : at + CHUNK_BYTES]

    async def list(self, path: str, *, after: str, count_max: int) -> Sequence[FileEntry]:
        self._check()
        if self._found(path) is not None:
            raise FileNotRegular(path=path)
        start = f"{path}/" if path else ""
        names = {each.removeprefix(start) for each in self.held if each and each.startswith(start)}
        own = sorted(name for name in names if "/" not in name and name > after)
        return [self._entry(start + name) for name in own[:count_max]]

    async def delete(self, path: str) -> None:
        self._check()
        for name in [each for each in self.held if each == path or each.startswith(f"{path}/")]:
            del self.held[name]

    def _check(self) -> None:
        if not self._jail.alive:
            raise SandboxUnavailable(problem="the jail was lost")

    def _found(self, path: str) -> bytes | None:
        if path not in self.held:
            raise FileNotFound(path=path)
        return self.held[path]

    def _is_folder(self, path: str) -> bool:
        return path in self.held and self.held[path] is None

    def _entry(self, path: str) -> FileEntry:
        data = self.held[path]
        return FileEntry(
            path=path, size_bytes=len(data or b""), is_folder=data is None, modified_s=MODIFIED_S
        )


def _ending(status: int | None, breach: LimitKind | None = None) -> Ending:
    return Ending(status, breach, cpu_s=0.25, peak_memory_bytes=3)
