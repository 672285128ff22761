"""OpenAI's batches and files on one side, ours on the other; decides nothing.

A batch's output and errors are no files of their own: they are written, line by line, when they are read.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from uuid import uuid4

import msgspec
from google.api.httpbody_pb2 import HttpBody
from ollamesh.compat.openai.v1 import openai_batch_service_pb2 as pb
from ollamesh.compat.openai.v1.openai_batch_service_pb2_grpc import OpenAIBatchServiceServicer
from ollamesh.inference.v1.batch_pb2 import CreateBatchRequest

from services.common.errors import InvalidRequest, NotServed
from services.common.grpc.around import Context
from services.inference.batches.intake import CHECKED_AT_ONCE, UPLOAD_S_MAX, Draft
from services.inference.batches.ports import FileRecord, NewFile, PageRequest, Record
from services.inference.batches.servicer import BatchDesk, creator_of_call
from services.inference.errors import QuotaExceeded
from services.inference.rest import openai_batch_objects as objects
from services.inference.rest.bodies import first_part, json_body, part
from services.inference.rest.openai_batch_lines import ENDPOINTS, Read, at_line, read, writer
from services.inference.rest.openai_batch_objects import Origin
from services.inference.rest.openai_uploads import Upload
from services.inference.rest.wire import parsed, renamed, wrong
from services.inference.who import principal

CONTENT = "application/octet-stream"
FILES_AT_ONCE, BATCHES_AT_ONCE, AT_ONCE_MAX = 100, 20, 100
# What OpenAI lets its callers ask for. Who asks for more files than are told at once gets the others by asking on.
FILES_LIMIT_MAX, BATCHES_LIMIT_MAX = 10_000, 100
DRAINED_BYTES_MAX = 512 * 1024 * 1024  # OpenAI's own limit.
Body = AsyncIterator[bytes]  # Parts of HttpBody, serialised.


class BatchCall(msgspec.Struct, kw_only=True):
    """What makes a batch."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None


class OpenAIBatchServicer(OpenAIBatchServiceServicer):
    """What fails before the first part is answered around this (refusals.py)."""

    def __init__(self, desk: BatchDesk | None) -> None:
        """Without a database there is no desk."""
        self._known_desk = desk

    @property
    def _desk(self) -> BatchDesk:
        if self._known_desk is None:
            raise NotServed(needs="DATABASE_URL")
        return self._known_desk

    # Files

    async def CreateFile(self, request: AsyncIterator[HttpBody], context: Context) -> Body:
        intake = self._desk.intake
        with intake.room.share() as grow_to:
            try:
                async with asyncio.timeout(UPLOAD_S_MAX):
                    upload = await _received(request, intake.bytes_max, grow_to)
            except TimeoutError:
                raise wrong("file", "took too long to arrive") from None
            filename, parts = upload.whole()
            made = await self._desk.files.create(
                principal(), NewFile(file_id=uuid4(), filename=filename, parts=parts)
            )
        yield json_body(objects.file(made))

    async def ListFiles(self, request: pb.ListFilesRequest, context: Context) -> Body:
        desk, owner = self._desk, principal()
        before = None
        if request.after:
            before = (await desk.files.find(owner, objects.input_id(request.after))).position
        found: list[FileRecord] = []
        more = False
        if request.purpose in {"", objects.PURPOSE}:
            page = await desk.files.page(
                owner, before=before, size=_limit(request.limit, FILES_AT_ONCE, FILES_LIMIT_MAX)
            )
            found, more = list(page[0]), page[1]
        yield json_body(objects.listed([objects.file(one) for one in found], more=more))

    async def GetFile(self, request: pb.GetFileRequest, context: Context) -> Body:
        if (output := objects.output_of(request.file_id)) is None:
            found = await self._desk.files.find(principal(), objects.input_id(request.file_id))
            yield json_body(objects.file(found))
            return
        record = await self._desk.batches.find(principal(), output.batch_id)
        size_bytes = 0
        async with aclosing(self._lines(record, succeeded=output.succeeded)) as lines:
            async for some in lines:
                size_bytes += len(some)
        yield json_body(objects.output_file(record, output, size_bytes))

    async def DeleteFile(self, request: pb.DeleteFileRequest, context: Context) -> Body:
        if objects.output_of(request.file_id) is not None:
            raise wrong(
                "file_id", "goes with its batch, and cannot be deleted by itself", "unsupported_value"
            )
        await self._desk.files.delete(principal(), objects.input_id(request.file_id))
        yield json_body({"id": request.file_id, "object": "file", "deleted": True})

    async def GetFileContent(self, request: pb.GetFileContentRequest, context: Context) -> Body:
        if (output := objects.output_of(request.file_id)) is None:
            found = await self._desk.files.find(principal(), objects.input_id(request.file_id))
            content = self._parts(found)
        else:
            record = await self._desk.batches.find(principal(), output.batch_id)
            content = self._lines(record, succeeded=output.succeeded)
        begun = False
        async with aclosing(content):
            async for some in content:
                yield part(some) if begun else first_part(CONTENT, some)
                begun = True
        if not begun:
            yield first_part(CONTENT, b"")

    # Batches

    async def CreateBatch(self, request: HttpBody, context: Context) -> Body:
        call = parsed(request.data, BatchCall)
        _check(call)
        desk, creator = self._desk, creator_of_call()
        found = await desk.files.find(principal(), objects.input_id(call.input_file_id))
        draft = Draft(
            creator=creator, bounds=desk.policies.bounds(creator.roles), bytes_max=desk.intake.bytes_max
        )
        draft.begin(CreateBatchRequest.Header())
        with desk.intake.room.share() as grow_to:
            await self._read(found, draft, call.endpoint, grow_to)
            origin = Origin(input_file_id=call.input_file_id, endpoint=call.endpoint, metadata=call.metadata)
            made = await desk.intake.accept(draft, origin.pack())
        desk.worker.nudge()
        yield json_body(objects.batch(made))

    async def ListBatches(self, request: pb.ListBatchesRequest, context: Context) -> Body:
        desk, owner = self._desk, principal()
        before = None
        if request.after:
            before = (await desk.batches.find(owner, objects.batch_id(request.after))).position
        page = PageRequest(
            size=_limit(request.limit, BATCHES_AT_ONCE, BATCHES_LIMIT_MAX), before=before, only_of_origin=True
        )
        found, more = await desk.batches.page(owner, page)
        yield json_body(objects.listed([objects.batch(one) for one in found], more=more))

    async def GetBatch(self, request: pb.GetBatchRequest, context: Context) -> Body:
        found = await self._desk.batches.find(principal(), objects.batch_id(request.batch_id))
        yield json_body(objects.batch(found))

    async def CancelBatch(self, request: pb.CancelBatchRequest, context: Context) -> Body:
        ended = await self._desk.batches.cancel(principal(), objects.batch_id(request.batch_id))
        yield json_body(objects.batch(ended))

    # What files hold

    async def _parts(self, found: FileRecord) -> AsyncGenerator[bytes, None]:
        index = 0
        while (some := await self._desk.files.part(found.file_id, index)) is not None:
            yield some
            index += 1

    async def _lines(self, record: Record, *, succeeded: bool) -> AsyncGenerator[bytes, None]:
        """Results as they stand, a page of them at a time."""
        owner, after = principal(), 0
        write = writer(endpoint=Origin.of(record).endpoint, created=record.create_time)
        while True:
            page = await self._desk.batches.results(
                owner, record.batch_id, after_sequence=after, only=succeeded
            )
            if not page.found:
                return
            after = page.found[-1].sequence
            yield b"".join(map(write, page.found))

    async def _read(
        self, found: FileRecord, draft: Draft, endpoint: str, grow_to: Callable[[int], None]
    ) -> None:
        """Check the requests in a file, and put them into the draft. Raises InvalidRequest."""
        taken: set[str] = set()
        some: list[tuple[int, Read]] = []
        number = 0
        async with aclosing(_lines_of(self._parts(found))) as lines:
            async for line in lines:
                number += 1
                if not line.strip():
                    continue
                some.append((number, _read_line(line, number, endpoint, taken)))
                if len(some) == CHECKED_AT_ONCE:
                    await _add(draft, some)
                    grow_to(draft.items_bytes)
                    some = []
        await _add(draft, some)
        grow_to(draft.items_bytes)


async def _received(
    request: AsyncIterator[HttpBody], bytes_max: int, grow_to: Callable[[int], None]
) -> Upload:
    """Read an upload to its end. Raises InvalidRequest and QuotaExceeded."""
    upload: Upload | None = None
    try:
        async for received in request:
            upload = upload or Upload(received.content_type, bytes_max=bytes_max)
            upload.feed(received.data)
            grow_to(upload.size_bytes)
    except (InvalidRequest, QuotaExceeded):
        await _drain(request)
        raise
    if upload is None:
        raise wrong("file", "is required", "missing_required_parameter")
    return upload


async def _drain(request: AsyncIterator[HttpBody]) -> None:
    """Read what still comes, to nowhere: who is answered while they send may see only a broken connection."""
    drained_bytes = 0
    async for received in request:
        drained_bytes += len(received.data)
        if drained_bytes > DRAINED_BYTES_MAX:
            return


def _read_line(line: bytes, number: int, endpoint: str, taken: set[str]) -> Read:
    try:
        found = read(line, endpoint=endpoint)
        if found.item.custom_id in taken:
            raise wrong("custom_id", "is that of an earlier line", "duplicate_custom_id")
    except InvalidRequest as error:
        raise at_line(error, number) from None
    taken.add(found.item.custom_id)
    return found


async def _add(draft: Draft, some: list[tuple[int, Read]]) -> None:
    """Have requests judged as calls are; what is wrong is said of their lines."""
    first = len(draft.items)
    try:
        await draft.add([found.item for _, found in some])
    except InvalidRequest as error:
        index, field = objects.item_field(error.violations[0].field)
        if index is None:
            raise
        # Only the first is told: a file has as many as it has lines.
        number, found = some[index - first]
        broken = error.violations[0]
        told = wrong(field, broken.description, broken.rule)
        raise at_line(renamed(told, found.names), number) from None


async def _lines_of(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    rest = b""
    async for some in parts:
        *whole, rest = (rest + some).split(b"\n")
        for line in whole:
            yield line
        await asyncio.sleep(0)
    if rest:
        yield rest


def _check(call: BatchCall) -> None:
    if call.endpoint not in ENDPOINTS:
        raise wrong("endpoint", f"must be one of {', '.join(ENDPOINTS)}", "invalid_value")
    if call.completion_window != objects.WINDOW:
        raise wrong("completion_window", f"must be '{objects.WINDOW}'", "invalid_value")
    metadata: Mapping[str, str] = call.metadata or {}
    if len(metadata) > 16 or any(len(name) > 64 or len(value) > 512 for name, value in metadata.items()):
        raise wrong("metadata", "has at most 16 names of 64 characters, and values of 512", "invalid_value")


def _limit(limit: int, usual: int, limit_max: int) -> int:
    """Return how many to tell at once."""
    if not 0 <= limit <= limit_max:
        raise wrong("limit", f"must be between 1 and {limit_max}", "invalid_value")
    return min(limit or usual, AT_ONCE_MAX)
