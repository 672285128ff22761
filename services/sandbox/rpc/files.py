"""Files of sessions: protobuf on one side, the port `Files` on the other.

A file is put whole or not at all: its last bytes are passed on only when the stream has ended where its header says.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress

from ollamesh.sandbox.v1 import sandbox_service_pb2 as pb

from services.common.errors import InvalidRequest, MeshError, Violation
from services.common.grpc.around import Context
from services.sandbox.core import paths
from services.sandbox.core.pages import from_token, to_token
from services.sandbox.errors import FileTooLarge
from services.sandbox.ports import FileEntry
from services.sandbox.rpc.sessions import owner
from services.sandbox.session import Session
from services.sandbox.sessions import Sessions
from services.sandbox.sessions_told import SessionsTold

PAGE_SIZE = 100
CHUNK_BYTES_MAX = 1 << 18
DRAINED_WITHIN_S = 0.5
DRAINED_FACTOR = 2
_TIME_S_MAX = 253_402_300_799  # The last second that a Timestamp can say. A program can set any.


class FileMethods:
    def __init__(self, sessions: Sessions, told: SessionsTold, *, file_bytes_max: int) -> None:
        self._sessions, self._told = sessions, told
        self._file_bytes_max = file_bytes_max

    async def PutFile(
        self, requests: AsyncIterator[pb.PutFileRequest], context: Context
    ) -> pb.PutFileResponse:
        try:
            return await self._put(requests)
        except MeshError:
            await _drain(requests, bytes_max=DRAINED_FACTOR * self._file_bytes_max)
            raise

    async def _put(self, requests: AsyncIterator[pb.PutFileRequest]) -> pb.PutFileResponse:
        header = await _header(requests)
        _check_path(header.path, "header.path")
        if header.size_bytes > self._file_bytes_max:
            raise FileTooLarge(max_bytes=self._file_bytes_max)
        session = self._sessions.get(owner(), header.session_id)
        with session.files() as files:
            async with aclosing(_chunks(requests, header.size_bytes, session)) as chunks:
                if header.size_bytes == 0:
                    async for _ in chunks:  # Who needs none would not look whether there are some.
                        raise AssertionError("no byte was announced")
                entry = await files.put(header.path, header.size_bytes, chunks)
        self._told.put(session, header.path, header.size_bytes)
        return pb.PutFileResponse(file=_message(entry))

    async def GetFile(
        self, request: pb.GetFileRequest, context: Context
    ) -> AsyncIterator[pb.GetFileResponse]:
        _check_path(request.path, "path")
        session = self._sessions.get(owner(), request.session_id)
        sent_bytes: int | None = None
        try:
            with session.files() as files:
                async with aclosing(files.get(request.path, offset=request.offset)) as parts:
                    async for part in parts:
                        if isinstance(part, FileEntry):
                            sent_bytes = 0
                            yield pb.GetFileResponse(header=_message(part))
                            continue
                        for at in range(0, len(part), CHUNK_BYTES_MAX):
                            chunk = part[at : at + CHUNK_BYTES_MAX]
                            yield pb.GetFileResponse(chunk=chunk)
                            sent_bytes = (sent_bytes or 0) + len(chunk)
                        session.touch()
        finally:
            if sent_bytes is not None:
                self._told.got(session, request.path, sent_bytes)

    async def ListFiles(self, request: pb.ListFilesRequest, context: Context) -> pb.ListFilesResponse:
        if request.path:
            _check_path(request.path, "path")
        after = _after(request.page_token)
        count_max = request.page_size or PAGE_SIZE
        with self._sessions.get(owner(), request.session_id).files() as files:
            found = await files.list(request.path, after=after, count_max=count_max + 1)
        more = len(found) > count_max
        page = found[:count_max]
        return pb.ListFilesResponse(
            files=(_message(entry) for entry in page if _is_sayable(entry.path)),
            next_page_token=to_token(page[-1].path.rpartition("/")[2]) if more else "",
        )

    async def DeleteFile(self, request: pb.DeleteFileRequest, context: Context) -> pb.DeleteFileResponse:
        _check_path(request.path, "path")
        session = self._sessions.get(owner(), request.session_id)
        with session.files() as files:
            await files.delete(request.path)
        self._told.deleted(session, request.path)
        return pb.DeleteFileResponse()


async def _drain(requests: AsyncIterator[pb.PutFileRequest], *, bytes_max: int) -> None:
    """Drop what a refused sender has on its way.

    A grpc.aio client whose write fails because its call has ended makes that an INTERNAL error, and forgets why it was
    refused (grpc/grpc#36066).
    """
    dropped_bytes = 0
    with suppress(TimeoutError, MeshError):  # The latter: what comes is not even a request.
        async with asyncio.timeout(DRAINED_WITHIN_S):
            async for request in requests:
                dropped_bytes += request.ByteSize()
                if dropped_bytes > bytes_max:
                    return


async def _header(requests: AsyncIterator[pb.PutFileRequest]) -> pb.PutFileRequest.Header:
    """What has to come first. Raises InvalidRequest."""
    async for first in requests:
        if first.HasField("header"):
            return first.header
        break
    raise _broken("header", "has to come first")


async def _chunks(
    requests: AsyncIterator[pb.PutFileRequest], size_bytes: int, session: Session
) -> AsyncGenerator[bytes, None]:
    """What follows the header, `size_bytes` in all. Raises InvalidRequest, before the last of it, if it is not."""
    left_bytes, last = size_bytes, b""
    async for request in requests:
        if request.HasField("header"):
            raise _broken("header", "may come only once")
        session.touch()
        if len(request.chunk) > left_bytes:
            raise _broken("chunk", f"goes beyond the {size_bytes} bytes that the header announced")
        left_bytes -= len(request.chunk)
        if left_bytes:
            yield request.chunk
        elif request.chunk:
            last = request.chunk
    if left_bytes:
        raise _broken("chunk", f"is missing: {left_bytes} of {size_bytes} bytes have not come")
    if last:
        yield last


def _check_path(path: str, field: str) -> None:
    if (fault := paths.fault(path)) is not None:
        raise _broken(field, fault)


def _after(page_token: str) -> str:
    """The name that a page begins behind. Raises InvalidRequest; what is longer than a name would fit into no order."""
    try:
        after = from_token(page_token)
        if len(after.encode("utf-8", "surrogateescape")) > paths.PART_BYTES_MAX:
            raise ValueError
    except ValueError:
        raise _broken("page_token", "is not one of ours") from None
    return after


def _broken(field: str, description: str) -> InvalidRequest:
    return InvalidRequest([Violation(field, description, field.rpartition(".")[2])])


def _is_sayable(path: str) -> bool:
    """Programs may give files names that are no text. Nobody could ask for those by name, either."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _message(entry: FileEntry) -> pb.File:
    message = pb.File(path=entry.path, size_bytes=entry.size_bytes, folder=entry.is_folder)
    message.modified_time.FromMicroseconds(round(min(max(entry.modified_s, 0), _TIME_S_MAX) * 1e6))
    return message
