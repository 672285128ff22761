"""An answer that is made here, and those who read it."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace

import msgspec

from services.common.tracing.current import Current, current
from services.inference.broadcast import Dress, Reader
from services.inference.charging import Account
from services.inference.completion import Completion
from services.inference.core.admission import Order
from services.inference.desk import Desk
from services.inference.engine import Terms
from services.inference.errors import DeadlineUnreachable, QueueTimeout, StreamCancelled
from services.inference.streams.records import Head
from services.inference.wire.told import repetition
from services.inference.work import Answering


@dataclass(frozen=True, slots=True)
class _Seat:
    """A reader's."""

    until_s: float  # How long they can wait for a slot.
    leaves: Callable[[], None]


# For whose call, so that what is done for it is in its trace.
Spawn = Callable[[Coroutine[None, None, None], Current], asyncio.Task[None]]

# What only says that one reader could not wait long enough.
_OF_ONE_READER = (QueueTimeout, DeadlineUnreachable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How a stream is kept for those who read it again, or elsewhere."""

    tenant: str
    head: Head
    is_kept: bool
    account: Account | None  # Who is charged for it; None if nobody is here.
    heir_count: int = 0  # How often it was taken over.
    heir_after: int = 0  # The last frame that was there when it was.


class Live:
    """One use of a slot, asked for on behalf of all its readers.

    The deadline of one reader ends no other's stream: if the slot did not come in time for one, it is asked for again
    on behalf of those who can wait longer. The last one to leave ends it, after `linger_s`.
    """

    def __init__(
        self,
        completion: Completion,
        keeping: Keeping,
        *,
        desk: Desk,
        spawn: Spawn,
        deserted: Callable[["Live"], None],
    ) -> None:
        """`deserted` hears that nobody has read it for `linger_s`; it may abandon it."""
        self.completion = completion
        self.keeping = keeping
        self.stream_ids: list[str] = []  # Of all who opened it.
        self.name: bytes | None = None  # Under which others join it.
        self.linger_s = 0.0
        self.is_made_here = True
        self.is_decided = (
            True  # Whether it is known where it is made; until then nobody else shall hear of it.
        )
        self.is_claimed = False  # Whether other replicas have been told of the name.
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stream_id = completion.stream_id  # Under which it is kept.
        self.asked_by = current()  # The call that opened it.
        self._desk = desk
        self._spawn = spawn
        self._deserted = deserted
        self._order: Order | None = None
        self._terms: Terms | None = None
        self._until_s = 0.0  # How long those can wait for whom a slot was last asked for.
        self._ticket: int | None = None
        self._abandoned = False
        self._seats: dict[Reader, _Seat] = {}
        self._lingering: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None  # Whatever is done for all of them.

    @property
    def is_open(self) -> bool:
        """Whether one can still come to read it as it is made."""
        return not self._abandoned and not self.completion.ended

    # Readers

    def attach(
        self,
        stream_id: str,
        *,
        wait_max_s: float,
        after: int = 0,
        dress: Dress | None = None,
        linger_s: float = 0.0,
        leaves: Callable[[], None] = lambda: None,
    ) -> Reader:
        """Return a reader, who must leave; `leaves` is called when they do."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        reader = self.completion.reader(stream_id, after=after, dress=dress)
        self._seats[reader] = _Seat(_now_s() + wait_max_s, leaves)
        self.linger_s = max(self.linger_s, linger_s)
        self.completion.lingers = self.linger_s > 0
        return reader

    def leave(self, reader: Reader) -> None:
        """Idempotent and synchronous."""
        reader.close()
        if (seat := self._seats.pop(reader, None)) is None:
            return
        seat.leaves()
        if self._seats or not self.is_open:
            return
        if self.linger_s > 0:
            loop = asyncio.get_running_loop()
            self._lingering = loop.call_later(self.linger_s, self._deserted, self)
        else:
            self._deserted(self)

    @property
    def wait_left_s(self) -> float:
        """How long the most patient reader can wait for a slot."""
        return max((seat.until_s for seat in self._seats.values()), default=0.0) - _now_s()

    def dress(self, dress: Callable[[str], Dress]) -> None:
        """Pass what all readers get through what `dress` makes for their names. None must have read yet."""
        for reader in self._seats:
            reader.dress_as(dress(reader.stream_id))

    async def until_accepted(self, reader: Reader) -> None:
        """Return when the request is accepted. Raises why it is not."""
        await asyncio.shield(self.accepted)
        if reader.failure is not None and not self.completion.begun:
            raise reader.failure

    @property
    def is_deserted(self) -> bool:
        return not self._seats

    def drop(self, stream_id: str, error: Exception) -> None:
        """End all readers of one name; and the stream, if there are no others here."""
        for reader in self._seats:
            if reader.stream_id == stream_id:
                reader.fail(error)
        if all(reader.failed for reader in self._seats):
            self.abandon()

    # Making

    def begin(self, work: Coroutine[None, None, None]) -> None:
        """Do `work` for all readers: in a task that no reader's leaving cancels, and that is nobody's call."""
        self._task = self._spawn(self._begun(work), self.asked_by)
        # Cancelled before its first step, it never began.
        self._task.add_done_callback(lambda _: work.close())

    def accept(self) -> None:
        """Let those go on who wait for it to be accepted or refused. Idempotent."""
        if not self.accepted.done():
            self.accepted.set_result(None)

    async def make(self, order: Order, terms: Terms) -> None:
        """Ask for a slot. Raises why there is none, if that concerns all readers."""
        self._order, self.is_decided = order, True
        while True:
            self._terms, self._until_s = terms, _now_s() + terms.wait_max_s
            try:
                await self._submit(order, terms)
            except _OF_ONE_READER as error:
                longer = self._longer(error)
                if longer is None:
                    raise
                terms = longer
            else:
                return

    def abandon(self, error: Exception | None = None) -> None:
        """End it: nobody wants it, or it has failed with `error`. Idempotent."""
        self._abandoned = True
        if self._ticket is not None:  # Before it ends: else its slot would be believed to be done with.
            self._desk.abandon(self._ticket)
        if self._task is not None:
            self._task.cancel()
        self.completion.fail(error or StreamCancelled())
        self.settle()

    def settle(self) -> None:
        """Let go of all that an ended stream needs no more; what was told is kept. Idempotent."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        self._order = self._terms = None  # A prompt may be large.
        self.keeping = replace(self.keeping, head=msgspec.structs.replace(self.keeping.head, request=b""))
        self.accept()

    async def _submit(self, order: Order, terms: Terms) -> None:
        work = Answering(order, self.completion, told=repetition, failed=self._failed, asked_by=self.asked_by)
        ticket = await self._desk.submit(order, terms, work)
        if self._abandoned:
            self._desk.abandon(ticket)
        self._ticket = ticket

    def _failed(self, error: Exception) -> None:
        """Hear that what was asked for is not done."""
        longer = self._longer(error) if isinstance(error, _OF_ONE_READER) else None
        if longer is None or self._order is None or self.completion.begun:
            self.completion.fail(error)
            return
        self.begin(self.make(self._order, longer))

    def _longer(self, error: Exception) -> Terms | None:
        """End those who could wait no longer; return the terms of those who can, if there are any."""
        for reader, seat in self._seats.items():
            if seat.until_s <= self._until_s:
                reader.fail(error)
        left_s = self.wait_left_s if any(not reader.failed for reader in self._seats) else 0.0
        if left_s <= 0 or self._terms is None:
            return None
        return replace(self._terms, wait_max_s=left_s, total_max_s=max(left_s, self._terms.total_max_s))

    async def _begun(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - its own readers learn of it; the others go on.
            self.completion.fail(error)
        finally:
            self.accept()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
