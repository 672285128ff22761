"""Batches through gRPC, for tests."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import grpc.aio
from google.rpc.error_details_pb2 import ErrorInfo
from ollamesh.inference.v1 import batch_pb2 as pb
from ollamesh.inference.v1 import completion_pb2

from services.common.grpc.client import bearer, held
from tests.service.inference_app import TIMEOUT_S, WITHIN_S, Service

Result = pb.StreamBatchResultsResponse
ENDED = {pb.BATCH_STATE_DONE, pb.BATCH_STATE_CANCELLED}


def chat_item(text: str = "hello", *, custom_id: str = "", **more: Any) -> pb.BatchItem:
    messages = [completion_pb2.Message(role=completion_pb2.ROLE_USER, content=text)]
    request = completion_pb2.ChatRequest(**{"model": "tiny", "messages": messages, **more})
    return pb.BatchItem(custom_id=custom_id, chat=request)


def generate_item(prompt: str, *, custom_id: str = "", **more: Any) -> pb.BatchItem:
    request = completion_pb2.GenerateRequest(**{"model": "tiny", "prompt": prompt, **more})
    return pb.BatchItem(custom_id=custom_id, generate=request)


def parts(
    items: Sequence[pb.BatchItem], *, at_once: int = 1000, **header: Any
) -> Iterable[pb.CreateBatchRequest]:
    yield pb.CreateBatchRequest(header=pb.CreateBatchRequest.Header(**header))
    for start in range(0, len(items), at_once):
        some = pb.CreateBatchRequest.Items(items=items[start : start + at_once])
        yield pb.CreateBatchRequest(items=some)


def creating(
    service: Service, requests: Iterable[pb.CreateBatchRequest], *, timeout_s: float = TIMEOUT_S, **who: Any
) -> Any:
    """Start CreateBatch. `who` is for Identity.token."""
    metadata = bearer(service.identity.token(**who))

    async def sent() -> AsyncIterator[pb.CreateBatchRequest]:
        for request in requests:
            yield request

    return service.stub.CreateBatch(sent(), timeout=timeout_s, metadata=metadata)  # type: ignore[arg-type]


async def create(service: Service, items: Sequence[pb.BatchItem], **header: Any) -> pb.Batch:
    made: pb.Batch = (await creating(service, parts(items, **header))).batch
    return made


async def get(service: Service, batch_id: str) -> pb.Batch:
    found: pb.Batch = (await service.call("GetBatch", pb.GetBatchRequest(batch_id=batch_id))).batch
    return found


async def until_batch(service: Service, batch_id: str, *states: int) -> pb.Batch:
    """Return a batch when it has come so far; to its end, if no states are named."""
    async with asyncio.timeout(TIMEOUT_S):
        while (found := await get(service, batch_id)).state not in (states or ENDED):
            await asyncio.sleep(0.02)
    return found


async def results(service: Service, batch_id: str, *, after: int = 0) -> list[Result]:
    """Read results to the end of the batch."""
    call = service.call(
        "StreamBatchResults", pb.StreamBatchResultsRequest(batch_id=batch_id, after_sequence=after)
    )
    with held(call) as stream:
        return [result async for result in stream]


async def next_result(call: grpc.aio.UnaryStreamCall[Any, Any]) -> Result:
    async with asyncio.timeout(WITHIN_S):
        response = await call.read()
    assert isinstance(response, Result), "the stream goes on"
    return response


def reason(result: Result) -> str:
    """Why a result is none; empty if it is one."""
    return str(_info(result).reason)


def facts(result: Result) -> dict[str, str]:
    return dict(_info(result).metadata)


def _info(result: Result) -> ErrorInfo:
    info = ErrorInfo()
    for detail in result.error.details:
        detail.Unpack(info)
    return info
