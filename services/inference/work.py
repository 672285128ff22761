"""What a slot is used for: to answer a prompt as a stream, or to embed texts.

The engine gives slots and takes them back, whatever they are used for; a Work knows what to ask of the
instance and where the result goes.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.common.tracing.current import Current
from services.inference.completion import Completion, Finished, Started
from services.inference.core.admission import Order
from services.inference.core.asks import Chat
from services.inference.core.ledger import Card
from services.inference.core.usage import Usage
from services.inference.errors import InstanceFailed, InstanceLost, StreamCancelled, StreamStalled
from services.inference.frame_log import FrameLog
from services.inference.ports import Fault, Instance, Trouble, Vectors
from services.inference.repetition import Repetition
from services.inference.tracing import SlotTrace, told

# How long the first token may take, by what was measured: generous, because a wrong alarm costs an answer. As long
# as nothing was, configuration alone decides.
_FIRST_TOKEN_BASE_S = 20.0
_FIRST_TOKEN_PROMPTS = 10.0
_FIRST_TOKEN_LOADS = 3.0  # Should the instance have given the model up meanwhile.


def first_token_max_s(*, reading_s: float, load_s: float) -> float:
    """Return how long a first token may take where the prompt and a load are predicted to take so long."""
    return _FIRST_TOKEN_BASE_S + _FIRST_TOKEN_PROMPTS * reading_s + _FIRST_TOKEN_LOADS * load_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where a Work is to run."""

    name: str
    instance: Instance
    card: Card  # Of the model, as this instance has it.
    first_token_s: float  # How long the instance may take to begin.


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a Work came to, for the metrics. Times are seconds of the event loop's clock."""

    operation: str  # gen_ai.operation.name
    ended_at_s: float | None  # None if its caller did not wait for the end.
    first_token_at_s: float | None = None
    prompt_token_count: int = 0
    output_token_count: int = 0
    error: Exception | None = None
    exemplar: Callable[[], Mapping[str, str] | None] = lambda: (
        None
    )  # What leads to its trace, if there is one.


class Work(Protocol):
    """The use of one slot."""

    @property
    def begun(self) -> bool:
        """Whether anything reached the caller."""

    @property
    def may_restart(self) -> bool:
        """Whether another instance may do it from the beginning, whatever has reached the caller."""

    @property
    def over(self) -> bool:
        """Whether the caller has all that it will get."""

    def queue(self, ahead_count: int, *, wait_s: float) -> None:
        """Hear how many go first, and how long that is predicted to take (inf: nobody can say)."""

    async def run(self, seat: Seat) -> None:
        """Do it. Raises what Instance raises."""

    def fail(self, error: Exception) -> None:
        """Hear that it will not be done."""

    def usage(self) -> Usage | None:
        """Return what the instance says it took, if the work was done."""

    def summary(self) -> Summary:
        """Tell what came of it."""


def failure(work: Work, instance: str, trouble: Trouble) -> Exception:
    """Return what a work's caller is told of an instance's trouble."""
    if not work.begun:
        return InstanceFailed(instance=instance)
    return StreamStalled() if trouble.fault is Fault.STALLED else InstanceLost()


class Answering:
    """Answers a Chat or Generate into a Completion."""

    def __init__(
        self,
        order: Order,
        completion: Completion,
        *,
        told: Callable[[FrameLog], Repetition],
        failed: Callable[[Exception], None] | None = None,
        asked_by: Current = None,
    ) -> None:
        """`told` says what a log holds. `failed` hears that it will not be done; without it, the readers do."""
        self._order = order
        self._completion = completion
        self._repeated = told
        self._failed = failed or completion.fail
        self._trace = SlotTrace("chat" if isinstance(order.ask, Chat) else "text_completion", [asked_by])

    @property
    def begun(self) -> bool:
        return self._completion.begun

    @property
    def may_restart(self) -> bool:
        return self._completion.may_restart

    @property
    def over(self) -> bool:
        # One that its readers have left is not: the instance is to be told.
        return self._completion.ending is not None and not self._left

    @property
    def _left(self) -> bool:
        return isinstance(self._completion.ending, StreamCancelled)

    def queue(self, ahead_count: int, *, wait_s: float) -> None:
        self._completion.queue(ahead_count, wait_s=wait_s)

    async def run(self, seat: Seat) -> None:
        card = seat.card
        if self._completion.begun:
            self._completion.restart(self._repeated)
        started = Started(model=card.name, model_digest=card.digest, instance=seat.name)
        asked_at_s = asyncio.get_running_loop().time()
        self._completion.place(started, now_s=asked_at_s)
        with self._trace.asking(card.name, seat.name) as span:
            await seat.instance.complete(
                self._order, card.name, self._completion, first_token_s=seat.first_token_s
            )
            if span is not None:
                told(
                    span,
                    ending.outcome if isinstance(ending := self._completion.ending, Finished) else None,
                    first_token_at_s=self._completion.first_piece_at_s,
                    asked_at_s=asked_at_s,
                )

    def fail(self, error: Exception) -> None:
        self._trace.fail(error)
        self._failed(error)

    def usage(self) -> Usage | None:
        ending = self._completion.ending
        return ending.outcome.usage if isinstance(ending, Finished) else None

    def summary(self) -> Summary:
        ending = self._completion.ending
        return Summary(
            operation="chat" if isinstance(self._order.ask, Chat) else "text_completion",
            ended_at_s=None if self._left else self._completion.ended_at_s,
            first_token_at_s=self._completion.first_piece_at_s,
            prompt_token_count=ending.outcome.prompt_token_count if isinstance(ending, Finished) else 0,
            output_token_count=ending.outcome.output_token_count if isinstance(ending, Finished) else 0,
            error=ending if isinstance(ending, Exception) and not self._left else None,
            exemplar=self._trace.exemplar,
        )


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors, and the model that made them, in its instance's spelling."""

    vectors: Vectors
    model: str
    model_digest: str


class Embedding:
    """Answers an Embed into a future: all or nothing, so another instance may always start over."""

    begun = False
    may_restart = True

    def __init__(self, order: Order, asked_by: Sequence[Current] = ()) -> None:
        self.is_placed = False
        self._trace = SlotTrace("embeddings", asked_by)
        self._order = order
        self.placed_at_s: float | None = None
        self._ended_at_s: float | None = None
        self._usage: Usage | None = None
        self._error: Exception | None = None
        self.result: asyncio.Future[Embedded] = asyncio.get_running_loop().create_future()

    @property
    def over(self) -> bool:
        return self._ended_at_s is not None

    def queue(self, ahead_count: int, *, wait_s: float) -> None:
        """A unary call has nowhere to tell it."""

    async def run(self, seat: Seat) -> None:
        self.is_placed = True
        began_at_s = self.placed_at_s = asyncio.get_running_loop().time()
        with self._trace.asking(seat.card.name, seat.name) as span:
            vectors = await seat.instance.embed(self._order, seat.card.name, first_token_s=seat.first_token_s)
            if span is not None:
                span.set({"gen_ai.usage.input_tokens": vectors.prompt_token_count})
        now_s = asyncio.get_running_loop().time()
        # Ollama does not say how much of the time it read for.
        self._usage = Usage(prompt_token_count=vectors.prompt_token_count, prompt_s=now_s - began_at_s)
        if not self.result.done():  # Its caller may have left.
            self._ended_at_s = now_s
            self.result.set_result(Embedded(vectors, seat.card.name, seat.card.digest))

    def fail(self, error: Exception) -> None:
        self._trace.fail(error)
        if not self.result.done():
            self._ended_at_s = asyncio.get_running_loop().time()
            self._error = error
            self.result.set_exception(error)

    def usage(self) -> Usage | None:
        return self._usage

    def summary(self) -> Summary:
        return Summary(
            operation="embeddings",
            ended_at_s=self._ended_at_s,
            prompt_token_count=self._usage.prompt_token_count if self._usage is not None else 0,
            error=self._error,
            exemplar=self._trace.exemplar,
        )
