"""The methods of InferenceService that are about batches."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from ollamesh.inference.v1 import batch_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceServicer

from services.common.errors import NotServed
from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.inference.batches import wire
from services.inference.batches.following import follow
from services.inference.batches.intake import Intake
from services.inference.batches.ports import Batches, Creator, Files, PageRequest
from services.inference.batches.worker import BatchWorker
from services.inference.core.bounds import Policies
from services.inference.who import principal

PAGE_SIZE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDesk:
    """Where batches are handed in and asked about."""

    batches: Batches
    files: Files
    intake: Intake
    worker: BatchWorker
    policies: Policies


class BatchMethods(InferenceServiceServicer):
    """A part of the servicer. Without a database (`_desk` is None) there are no batches."""

    _desk: BatchDesk | None = None

    async def CreateBatch(
        self, request: AsyncIterator[pb.CreateBatchRequest], context: Context
    ) -> pb.CreateBatchResponse:
        desk = self._batches()
        creator = creator_of_call()
        record = await desk.intake.read(request, creator, desk.policies.bounds(creator.roles))
        desk.worker.nudge()
        return pb.CreateBatchResponse(batch=wire.batch(record))

    async def GetBatch(self, request: pb.GetBatchRequest, context: Context) -> pb.GetBatchResponse:
        found = await self._batches().batches.find(principal(), wire.batch_id(request.batch_id))
        return pb.GetBatchResponse(batch=wire.batch(found))

    async def ListBatches(self, request: pb.ListBatchesRequest, context: Context) -> pb.ListBatchesResponse:
        page = PageRequest(size=request.page_size or PAGE_SIZE, before=wire.position(request.page_token))
        found, more = await self._batches().batches.page(principal(), page)
        return pb.ListBatchesResponse(
            batches=map(wire.batch, found), next_page_token=wire.token(found[-1]) if more else ""
        )

    async def CancelBatch(self, request: pb.CancelBatchRequest, context: Context) -> pb.CancelBatchResponse:
        ended = await self._batches().batches.cancel(principal(), wire.batch_id(request.batch_id))
        return pb.CancelBatchResponse(batch=wire.batch(ended))

    # Yields responses that are serialised already.

    async def StreamBatchResults(  # type: ignore[override]
        self, request: pb.StreamBatchResultsRequest, context: Context
    ) -> AsyncIterator[bytes]:
        pages = follow(
            self._batches().batches,
            principal(),
            wire.batch_id(request.batch_id),
            after_sequence=request.after_sequence,
        )
        async with aclosing(pages):
            async for page in pages:
                for found in page.found:
                    yield wire.result(found)

    def _batches(self) -> BatchDesk:
        if self._desk is None:
            raise NotServed(needs="DATABASE_URL")
        return self._desk


def creator_of_call() -> Creator:
    found = caller()
    return Creator(
        principal=principal(),
        roles=(found.role.value, *(["service"] if found.is_service else [])),
    )
