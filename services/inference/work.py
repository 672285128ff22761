"""What a slot is used for: to answer a prompt as a stream, or to embed texts.

The engine gives slots and takes them back, whatever they are used for; a Work knows what to ask of the
instance and where the result goes.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from services.inference.completion import Completion, Finished, Started
from services.inference.core.admission import Order
from services.inference.core.asks import Chat
from services.inference.core.ledger import Card
from services.inference.ports import Instance, Vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a Work is to run."""

    name: str
    instance: Instance
    card: Card  # Of the model, as this instance has it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a Work came to, for the metrics. Times are seconds of the event loop's clock."""

    operation: str  # gen_ai.operation.name
    ended_at_s: float | None  # None if its caller did not wait for the end.
    first_token_at_s: float | None = None
    output_token_count: int = 0
    error: Exception | None = None


class Work(Protocol):
    """The use of one slot."""

    @property
    def begun(self) -> bool:
        """Whether anything reached the caller: if so, nobody else may start over."""

    @property
    def over(self) -> bool:
        """Whether the caller has all that it will get."""

    def queue(self, ahead_count: int) -> None:
        """Hear how many go first."""

    async def run(self, place: Place) -> None:
        """Do it. Raises what Instance raises."""

    def fail(self, error: Exception) -> None:
        """Hear that it will not be done."""

    def summary(self) -> Summary:
        """Tell what came of it."""


class Answering:
    """Answers a Chat or Generate into a Completion."""

    def __init__(self, order: Order, completion: Completion) -> None:
        self._order = order
        self._completion = completion

    @property
    def begun(self) -> bool:
        return self._completion.begun

    @property
    def over(self) -> bool:
        return self._completion.ending is not None

    def queue(self, ahead_count: int) -> None:
        self._completion.queue(ahead_count)

    async def run(self, place: Place) -> None:
        card = place.card
        started = Started(model=card.name, model_digest=card.digest, instance=place.name)
        self._completion.place(started, now_s=asyncio.get_running_loop().time())
        await place.instance.complete(self._order, card.name, self._completion)

    def fail(self, error: Exception) -> None:
        self._completion.fail(error)

    def summary(self) -> Summary:
        ending = self._completion.ending
        return Summary(
            operation="chat" if isinstance(self._order.ask, Chat) else "text_completion",
            ended_at_s=self._completion.ended_at_s,
            first_token_at_s=self._completion.first_piece_at_s,
            output_token_count=ending.outcome.output_token_count if isinstance(ending, Finished) else 0,
            error=ending if isinstance(ending, Exception) else None,
        )


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors, and the model that made them, in its instance's spelling."""

    vectors: Vectors
    model: str


class Embedding:
    """Answers an Embed into a future: all or nothing, so another instance may always start over."""

    begun = False

    def __init__(self, order: Order) -> None:
        self._order = order
        self._ended_at_s: float | None = None
        self._error: Exception | None = None
        self.result: asyncio.Future[Embedded] = asyncio.get_running_loop().create_future()

    @property
    def over(self) -> bool:
        return self._ended_at_s is not None

    def queue(self, ahead_count: int) -> None:
        """A unary call has nowhere to tell it."""

    async def run(self, place: Place) -> None:
        vectors = await place.instance.embed(self._order, place.card.name)
        if not self.result.done():  # Its caller may have left.
            self._ended_at_s = asyncio.get_running_loop().time()
            self.result.set_result(Embedded(vectors, place.card.name))

    def fail(self, error: Exception) -> None:
        if not self.result.done():
            self._ended_at_s = asyncio.get_running_loop().time()
            self._error = error
            self.result.set_exception(error)

    def summary(self) -> Summary:
        return Summary(operation="embeddings", ended_at_s=self._ended_at_s, error=self._error)
