"""Batches as Python values: many requests that may wait, and what came of them.

    batch = await client.create_batch([batches.chat("smollm2:135m", text, custom_id=name) for name, text in texts])
    async for result in client.batch_results(batch.batch_id):
        print(result.custom_id, result.text if result.error is None else result.error)

What `chat` has no parameter for goes into a `BatchItem` of the protos.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import grpc
from google.rpc.status_pb2 import Status
from ollamesh.client import chats
from ollamesh.client.errors import CallError, explain
from ollamesh.client.values import duration, time
from ollamesh.inference.v1 import batch_pb2 as pb

State = Literal["pending", "running", "done", "cancelled", "unknown"]

STATES: Mapping[int, State] = {
    pb.BATCH_STATE_PENDING: "pending",
    pb.BATCH_STATE_RUNNING: "running",
    pb.BATCH_STATE_DONE: "done",
    pb.BATCH_STATE_CANCELLED: "cancelled",
}
# Of one message of the upload. A single item may be larger than the second, and is a message by itself then.
ITEMS_AT_ONCE = 1000
BYTES_AT_ONCE = 4 * 1024 * 1024
CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

BatchItem = pb.BatchItem


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """How far a batch is. Times are None until they have come."""

    batch_id: str
    display_name: str
    state: State
    item_count: int
    succeeded_count: int
    failed_count: int
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    due_time: datetime | None
    expire_time: datetime | None

    @property
    def has_ended(self) -> bool:
        return self.state in {"done", "cancelled"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one item: an answer, or the error that a call would have raised."""

    sequence: int
    item_index: int
    custom_id: str
    text: str = ""
    thinking: str = ""
    model: str = ""
    finish_reason: chats.FinishReason = "unknown"
    prompt_token_count: int = 0
    output_token_count: int = 0
    error: CallError | None = None


def chat(
    model: str,
    messages: str | Sequence[chats.Message],
    *,
    custom_id: str = "",
    options: chats.Options | None = None,
) -> BatchItem:
    """Return an item that asks for a model's next message. A plain string is one message of the user's."""
    asked = [chats.Message("user", messages)] if isinstance(messages, str) else messages
    return BatchItem(custom_id=custom_id, chat=chats.request_of(model, asked, options or chats.Options()))


def parts_of(
    items: Iterable[BatchItem],
    *,
    request_id: str,
    display_name: str,
    window_s: float | None,
    retention_s: float | None,
) -> Iterator[pb.CreateBatchRequest]:
    """The messages of an upload, none of them larger than a server takes."""
    header = pb.CreateBatchRequest.Header(
        request_id=request_id,
        display_name=display_name,
        completion_window=duration(window_s),
        retention=duration(retention_s),
    )
    yield pb.CreateBatchRequest(header=header)
    held: list[BatchItem] = []
    held_bytes = 0
    for item in items:
        item_bytes = item.ByteSize()
        if held and (len(held) == ITEMS_AT_ONCE or held_bytes + item_bytes > BYTES_AT_ONCE):
            yield pb.CreateBatchRequest(items=pb.CreateBatchRequest.Items(items=held))
            held, held_bytes = [], 0
        held.append(item)
        held_bytes += item_bytes
    if held:
        yield pb.CreateBatchRequest(items=pb.CreateBatchRequest.Items(items=held))


def batch_of(batch: pb.Batch) -> Batch:
    return Batch(
        batch_id=batch.batch_id,
        display_name=batch.display_name,
        state=STATES.get(batch.state, "unknown"),
        item_count=batch.item_count,
        succeeded_count=batch.succeeded_count,
        failed_count=batch.failed_count,
        create_time=time(batch.create_time),
        start_time=time(batch.start_time),
        end_time=time(batch.end_time),
        due_time=time(batch.due_time),
        expire_time=time(batch.expire_time),
    )


def result_of(told: pb.StreamBatchResultsResponse) -> Result:
    answer = told.answer
    return Result(
        sequence=told.sequence,
        item_index=told.item_index,
        custom_id=told.custom_id,
        text=answer.message.content,
        thinking=answer.message.thinking,
        model=answer.model,
        finish_reason=chats.FINISH_REASONS.get(answer.finish_reason, "unknown"),
        prompt_token_count=answer.usage.prompt_token_count,
        output_token_count=answer.usage.output_token_count,
        error=_error(told.error) if told.HasField("error") else None,
    )


def _error(status: Status) -> CallError:
    error = CallError(code=CODES.get(status.code, grpc.StatusCode.UNKNOWN), message=status.message)
    explain(error, status)
    return error
