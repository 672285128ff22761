"""Calls to embed texts that come together are sent to an instance together.

Only those of one tenant: what is charged is a slot's time, which cannot be divided between strangers so that it could
be checked, and a caller must not see by its own latency what others ask (core/microbatch.py says who waits for whom).

A caller sees nothing of it: its texts come back in its order, its errors are its own, its time is its own, and if it
leaves the others go on. What an instance refuses, because of one text, is asked again for each caller apart.
"""

import asyncio
import contextvars
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

from services.common.errors import Kind, MeshError
from services.common.tracing.current import Current, current
from services.inference.core.admission import Order
from services.inference.core.asks import Embed
from services.inference.core.jobs import Priority
from services.inference.core.microbatch import Gatherings, shares
from services.inference.desk import Desk
from services.inference.engine import Terms
from services.inference.errors import QueueTimeout, TimeExceeded
from services.inference.work import Embedding

# Longer texts gain nothing by company.
GATHERED_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """Vectors by text, in order; what each took; and which weights made them, in the instance's spelling."""

    vectors: Sequence[Sequence[float]]
    token_counts: Sequence[int]
    model: str
    model_digest: str
    placed_at_s: float | None  # When an instance began.
    gpu_s: float  # How long it worked for these texts.


@dataclass(frozen=True, slots=True)
class _Like:
    """What calls have in common that can be sent together."""

    tenant: str
    model: str
    truncate: bool
    dimension_count: int | None
    priority: Priority


@dataclass(slots=True)
class _Call:
    order: Order
    terms: Terms
    result: asyncio.Future[Embedded]
    asked_by: Current
    batch: "_Batch | None" = None  # Once it was sent.


@dataclass(slots=True)
class _Batch:
    calls: dict[int, _Call]  # Those who have not left.
    task: asyncio.Task[None] | None = None
    work: Embedding | None = None


class MicroBatches:
    """Its `run` must run."""

    def __init__(self, desk: Desk, *, delay_s: float, texts_max: int) -> None:
        self._desk = desk
        self._gatherings = Gatherings[_Like](delay_s=delay_s, texts_max=texts_max)
        self._is_on = delay_s > 0
        self._numbers = count(1)
        self._calls: dict[int, _Call] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: asyncio.TaskGroup | None = None  # Once it runs.
        self._context = contextvars.Context()  # Of its tasks: those of a caller's hold its token.

    async def run(self) -> None:
        """Send what was gathered, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks, self._context = tasks, contextvars.copy_context()
            await asyncio.Event().wait()

    async def embed(self, order: Order, terms: Terms) -> Embedded:
        """Return the vectors of an Embed's texts, or raise why there are none."""
        ask = _ask(order)
        byte_count = sum(len(text.encode()) for text in ask.inputs)
        if not self._is_on or self._tasks is None or byte_count > GATHERED_BYTES_MAX:
            return await self._asked(order, terms, [current()])
        loop = asyncio.get_running_loop()
        number, call = next(self._numbers), _Call(order, terms, loop.create_future(), current())
        self._calls[number] = call
        like = _Like(terms.tenant, order.model, ask.truncate, ask.dimension_count, terms.priority)
        out_of_time = loop.call_later(terms.total_max_s, _out_of_time, call)
        try:
            self._send(self._gatherings.arrive(like, number, len(ask.inputs), loop.time()))
            return await call.result
        finally:
            out_of_time.cancel()
            self._leave(number)

    def _leave(self, number: int) -> None:
        """A caller has what it gets, or wants it no more. The last one to leave ends the work."""
        call = self._calls.pop(number)
        if call.batch is None:
            self._gatherings.leave(number)
            self._wake_up()
            return
        del call.batch.calls[number]
        if not call.batch.calls and call.batch.task is not None:
            call.batch.task.cancel()

    def _send(self, batches: Sequence[Sequence[int]]) -> None:
        assert self._tasks is not None, "it runs"
        for numbers in batches:
            batch = _Batch({number: self._calls[number] for number in numbers})
            for call in batch.calls.values():
                call.batch = batch
            batch.task = self._tasks.create_task(self._carry_out(batch), context=self._context)
        self._wake_up()

    def _wake_up(self) -> None:
        """Set the timer for the next that are due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (due_at_s := self._gatherings.next_due_at_s) is not None:
            self._timer = asyncio.get_running_loop().call_at(due_at_s, self._due)

    def _due(self) -> None:
        # A timer may be early, by the clock's resolution.
        now_s = max(asyncio.get_running_loop().time(), self._gatherings.next_due_at_s or 0.0)
        self._send(self._gatherings.due(now_s))

    async def _carry_out(self, batch: _Batch) -> None:
        calls = list(batch.calls.values())
        try:
            embedded = await self._asked(*_joined(calls), [call.asked_by for call in calls], batch)
        except MeshError as error:
            if error.kind is Kind.INVALID and len(calls) > 1:
                self._send([[number] for number in batch.calls])
            else:
                _fail(calls, error)
        except asyncio.CancelledError:
            for call in calls:  # If this is the service's end, some still wait.
                call.result.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - Its callers learn of it; the others go on.
            _fail(calls, error)
        else:
            _divide(calls, embedded)

    async def _asked(
        self, order: Order, terms: Terms, asked_by: Sequence[Current], batch: _Batch | None = None
    ) -> Embedded:
        work = Embedding(order, asked_by)
        if batch is not None:
            batch.work = work
        ticket = await self._desk.submit(order, terms, work)
        try:
            found = await work.result
        finally:
            self._desk.abandon(ticket)
        lengths = [len(text) for text in _ask(order).inputs]
        return Embedded(
            vectors=found.vectors.vectors,
            token_counts=shares(found.vectors.prompt_token_count, lengths),
            model=found.model,
            model_digest=found.model_digest,
            placed_at_s=work.placed_at_s,
            gpu_s=usage.prompt_s if (usage := work.usage()) is not None else 0.0,
        )


def _ask(order: Order) -> Embed:
    assert isinstance(order.ask, Embed)
    return order.ask


def _joined(calls: Sequence[_Call]) -> tuple[Order, Terms]:
    """All of them as one, which may take as long as any of them: each looks to its own time."""
    first = calls[0]
    asks = [_ask(call.order) for call in calls]
    order = replace(
        first.order,
        ask=replace(asks[0], inputs=tuple(text for ask in asks for text in ask.inputs)),
        keep_alive_s=max(call.order.keep_alive_s for call in calls),
        prompt_token_count=sum(call.order.prompt_token_count for call in calls),
    )
    terms = replace(
        first.terms,
        wait_max_s=max(call.terms.wait_max_s for call in calls),
        total_max_s=max(call.terms.total_max_s for call in calls),
    )
    return order, terms


def _divide(calls: Sequence[_Call], embedded: Embedded) -> None:
    start, token_count = 0, sum(embedded.token_counts)
    for call in calls:
        end = start + len(_ask(call.order).inputs)
        if not call.result.done():
            share = sum(embedded.token_counts[start:end]) / token_count if token_count else 1 / len(calls)
            call.result.set_result(
                replace(
                    embedded,
                    vectors=embedded.vectors[start:end],
                    token_counts=embedded.token_counts[start:end],
                    gpu_s=embedded.gpu_s * share,
                )
            )
        start = end


def _fail(calls: Sequence[_Call], error: Exception) -> None:
    for call in calls:
        if not call.result.done():
            call.result.set_exception(error)


def _out_of_time(call: _Call) -> None:
    if not call.result.done():
        work = call.batch.work if call.batch is not None else None
        has_begun = work is not None and work.is_placed
        call.result.set_exception(TimeExceeded() if has_begun else QueueTimeout())
