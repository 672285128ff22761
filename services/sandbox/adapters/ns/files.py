"""The service's end of the files of a session: its init does what is asked, and no name means anything here.

The bytes of each call go through a pipe of its own, so that what nobody reads, or has not come yet, holds up nobody else.
See inside.transfers for the other end.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import TypeVar

import msgspec
import structlog

from services.common.errors import MeshError
from services.sandbox.adapters.ns.inside.order import Closed, Delete, FileOrder, Found, Get, List, Put, pack
from services.sandbox.adapters.ns.jail import LOST, SHORT, NsJail
from services.sandbox.adapters.ns.streams import READ_BYTES, Input
from services.sandbox.errors import FileNotFound, FileNotRegular, FileTooLarge, SandboxUnavailable
from services.sandbox.guest.files import NOT_FOUND, NOT_REGULAR, TOO_LARGE
from services.sandbox.ports import FileEntry

log = structlog.get_logger(__name__)

ANSWER_WITHIN_S = 10.0  # The init waits for nobody, but it may have little of a processor.
ENTRY_BYTES_MAX = 2048  # Of a list: a name in JSON, and three numbers.

_Listed = list[tuple[str, int, bool, float]]
_T = TypeVar("_T")


class _Transfer:
    """What the init tells of one call: once what was found, then that it is closed, and what went wrong."""

    def __init__(self, transfer_id: int) -> None:
        loop = asyncio.get_running_loop()
        self.transfer_id = transfer_id
        self.found: asyncio.Future[Found | None] = loop.create_future()
        self.closed: asyncio.Future[str | None] = loop.create_future()

    def hear(self, message: Found | Closed) -> None:
        if isinstance(message, Closed):
            self.close(message.error)
        elif not self.found.done():
            self.found.set_result(message)

    def close(self, error: str | None) -> None:
        if not self.found.done():
            self.found.set_result(None)
        if not self.closed.done():
            self.closed.set_result(error)


class NsFiles:
    """The port `Files`."""

    def __init__(self, jail: NsJail, *, bytes_max: int) -> None:
        self._jail = jail
        self._bytes_max = bytes_max
        self._ids = count(1)
        self._under_way: dict[int, _Transfer] = {}

    def hear(self, message: Found | Closed) -> None:
        """What the init says. Of a transfer that was given up, nothing matters."""
        if (transfer := self._under_way.get(message.transfer_id)) is not None:
            transfer.hear(message)

    def lose(self) -> None:
        """The jail is gone."""
        for transfer in self._under_way.values():
            transfer.close(LOST)

    async def put(self, path: str, size_bytes: int, chunks: AsyncIterator[bytes]) -> FileEntry:
        with self._transfer() as transfer:
            with self._writing(Put(transfer.transfer_id, path, size_bytes)) as pipe:
                async for chunk in chunks:
                    await pipe.feed(chunk, end=False)
                    if transfer.closed.done():  # It is refused.
                        break
            await self._until_closed(transfer, path)
            return _entry(path, transfer.found.result())

    async def get(self, path: str, *, offset: int) -> AsyncGenerator[FileEntry | bytes, None]:
        with self._transfer() as transfer:
            with self._reading(Get(transfer.transfer_id, path, offset)) as pipe:
                if (found := await self._told(transfer.found)) is not None:
                    yield _entry(path, found)
                    while data := await _read(pipe):
                        yield data
            await self._until_closed(transfer, path)

    async def list(self, path: str, *, after: str, count_max: int) -> Sequence[FileEntry]:
        listed = bytearray()
        with self._transfer() as transfer:
            with self._reading(List(transfer.transfer_id, path, after, count_max)) as pipe:
                while (data := await _read(pipe)) and len(listed) < count_max * ENTRY_BYTES_MAX:
                    listed += data
            await self._until_closed(transfer, path)
        folder = f"{path}/" if path else ""
        return [
            FileEntry(path=folder + name, size_bytes=size_bytes, is_folder=is_folder, modified_s=modified_s)
            for name, size_bytes, is_folder, modified_s in msgspec.json.decode(listed, type=_Listed)
        ]

    async def delete(self, path: str) -> None:
        with self._transfer() as transfer:
            self._jail.send(pack(Delete(transfer.transfer_id, path)))
            await self._until_closed(transfer, path)

    @contextmanager
    def _transfer(self) -> Iterator[_Transfer]:
        if not self._jail.alive:
            raise SandboxUnavailable(problem=LOST)
        transfer = _Transfer(next(self._ids))
        self._under_way[transfer.transfer_id] = transfer
        try:
            yield transfer
        finally:
            del self._under_way[transfer.transfer_id]

    @contextmanager
    def _writing(self, order: Put) -> Iterator[Input]:
        reading, writing = _pipe()
        pipe = Input(writing, b"")
        try:
            self._ask(order, reading)
            yield pipe
        finally:
            pipe.close()

    @contextmanager
    def _reading(self, order: Get | List) -> Iterator[int]:
        reading, writing = _pipe()
        try:
            self._ask(order, writing)
            yield reading
        finally:
            os.close(reading)

    def _ask(self, order: FileOrder, theirs: int) -> None:
        try:
            self._jail.send(pack(order), [theirs])
        finally:
            os.close(theirs)

    async def _until_closed(self, transfer: _Transfer, path: str) -> None:
        if (error := await self._told(transfer.closed)) is not None:
            raise self._error(error, path)

    async def _told(self, what: "asyncio.Future[_T]") -> _T:
        """Wait for the init, but not for ever."""
        done, _ = await asyncio.wait([what], timeout=ANSWER_WITHIN_S)
        if not done:
            log.error("init_silent", jail_id=self._jail.jail_id)
            self._jail.kill()
            raise SandboxUnavailable(problem=LOST)
        return what.result()

    def _error(self, kind: str, path: str) -> MeshError:
        if kind == NOT_FOUND:
            return FileNotFound(path=path)
        if kind == NOT_REGULAR:
            return FileNotRegular(path=path)
        if kind == TOO_LARGE:
            return FileTooLarge(max_bytes=self._bytes_max)
        return SandboxUnavailable(problem=LOST if kind == LOST else "the file could not be passed on")


def _entry(path: str, found: Found | None) -> FileEntry:
    if found is None:
        raise SandboxUnavailable(problem=LOST)
    return FileEntry(path=path, size_bytes=found.size_bytes, is_folder=False, modified_s=found.modified_s)


def _pipe() -> tuple[int, int]:
    try:
        return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SandboxUnavailable(problem=SHORT) from error


async def _read(pipe: int) -> bytes:
    """What has come, as soon as there is something; b"" at the end."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(pipe, READ_BYTES)
        except BlockingIOError:
            ready = asyncio.Event()
            loop.add_reader(pipe, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(pipe)
