"""One item's answer: asked for as a call of its creator's would be, and put together in one piece."""

import datetime as dt
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import uuid5

from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status
from ollamesh.inference.v1 import batch_pb2 as pb
from ollamesh.inference.v1 import completion_pb2

from services.common.errors import MeshError
from services.common.grpc.errors import status_of
from services.inference.batches.checking import ask_of, wishes_of
from services.inference.batches.ports import Done, Held
from services.inference.core.accounting import Entry, count, seconds
from services.inference.core.asks import Chat, Generate
from services.inference.core.bounds import Bounds, Policies
from services.inference.core.callers import Principal
from services.inference.core.jobs import Priority
from services.inference.core.names import key
from services.inference.engine import Terms
from services.inference.errors import ModelNotFound, NoInstance
from services.inference.gateway import Gateway

DOMAIN = "inference.ollamesh"
# How long an item may wait for a slot before it is put back. It costs nothing to wait; but an item that is put back may
# be taken where there is more room.
WAIT_S = 300.0

Answerer = Callable[[Held], Awaitable[Done]]


@dataclass(frozen=True, slots=True)
class Answers:
    """Has items answered by the gateway."""

    gateway: Gateway
    policies: Policies

    async def answer(self, held: Held) -> Done:
        """Return an item's answer as its result. Raises whatever a call would."""
        item = pb.BatchItem.FromString(held.request)
        bounds = self.policies.bounds(held.creator.roles)
        ask, owner = ask_of(item), held.creator.principal
        try:
            stream = await self.gateway.open(
                ask, owner, _terms(owner, bounds), bounds, wishes=wishes_of(item)
            )
        except ModelNotFound:
            # An instance that nobody has seen yet may have it: after a start, or while it is away. An item can wait.
            if self.gateway.has_seen_all:
                raise
            raise NoInstance(model=ask.model) from None
        folded = Folded()
        try:
            while (response := await stream.read()) is not None:
                folded.add(completion_pb2.ChatResponse.FromString(response).event)
        finally:
            stream.close()
        entry = _entry(held, ask, folded)
        if self.gateway.budgets is not None:
            self.gateway.budgets.used(entry)
        return Done(
            held=held,
            succeeded=True,
            payload=_result(held, item, answer=folded.answer()).SerializeToString(),
            entry=entry,
        )


def _terms(owner: Principal, bounds: Bounds) -> Terms:
    # Of its time, a wait takes nothing away: an item is not to fail because it waited.
    total_max_s = WAIT_S + bounds.timeout_s_max
    return Terms(
        tenant=owner.organization_id,
        priority=Priority.BATCH,
        wait_max_s=WAIT_S,
        total_max_s=total_max_s,
        run_max_s=total_max_s,
    )


class Folded:
    """Events of a stream, folded into what they come to."""

    def __init__(self) -> None:
        self.stream_id = ""
        self.source = completion_pb2.ANSWER_SOURCE_UNSPECIFIED
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._answer = pb.StreamBatchResultsResponse.Answer()

    def add(self, event: completion_pb2.CompletionEvent) -> None:
        match event.WhichOneof("event"):
            case "delta":
                delta = event.delta
                self._texts.append(delta.text)
                self._thoughts.append(delta.thinking)
                self._answer.message.tool_calls.extend(delta.tool_calls)
                self._answer.logprobs.extend(delta.logprobs)
            case "opened":
                self.stream_id = event.opened.stream_id
            case "started":
                self._answer.model = event.started.model
                self._answer.model_digest = event.started.model_digest
                self.source = event.started.source
            case "finished":
                finished = event.finished
                self._answer.finish_reason = finished.reason
                self._answer.usage.CopyFrom(finished.usage)
                self._answer.timings.CopyFrom(finished.timings)
                self._answer.context.extend(finished.context)

    def answer(self) -> pb.StreamBatchResultsResponse.Answer:
        message = self._answer.message
        message.role = completion_pb2.ROLE_ASSISTANT
        message.content = "".join(self._texts)
        message.thinking = "".join(self._thoughts)
        return self._answer


def _entry(held: Held, ask: Chat | Generate, folded: Folded) -> Entry:
    """What the ledger says of an item. Its name is the item's own, so that no item is there twice."""
    answer = folded.answer()
    usage, timings = answer.usage, answer.timings
    cached = folded.source == completion_pb2.ANSWER_SOURCE_CACHE
    joined = folded.source == completion_pb2.ANSWER_SOURCE_JOINED
    return Entry(
        entry_id=uuid5(held.place.batch_id, str(held.place.item_index)),
        created_at=dt.datetime.now(dt.UTC),
        stream_id=folded.stream_id,
        principal=held.creator.principal,
        model=key(ask.model),
        operation="chat" if isinstance(ask, Chat) else "text_completion",
        prompt_token_count=count(usage.prompt_token_count),
        output_token_count=count(usage.output_token_count),
        gpu_s=0.0 if cached or joined else seconds(_seconds(timings.prompt) + _seconds(timings.output)),
        queue_s=seconds(_seconds(timings.queue)),
        cached=cached,
        joined=joined,
    )


def failed(held: Held, error: MeshError) -> Done:
    """Return an item's failure as its result."""
    item = pb.BatchItem.FromString(held.request)
    result = _result(held, item, error=status_of(error, DOMAIN))
    return Done(held=held, succeeded=False, payload=result.SerializeToString())


def _result(
    held: Held,
    item: pb.BatchItem,
    *,
    answer: pb.StreamBatchResultsResponse.Answer | None = None,
    error: Status | None = None,
) -> pb.StreamBatchResultsResponse:
    return pb.StreamBatchResultsResponse(
        item_index=held.place.item_index, custom_id=item.custom_id, answer=answer, error=error
    )


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9
