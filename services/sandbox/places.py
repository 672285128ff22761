"""Places to run in, and to keep a session in: what core.admission decides, for those who wait."""

import asyncio
from types import TracebackType
from typing import Self

from services.sandbox.core.admission import Admission, Bounds, Claim, Ticket
from services.sandbox.core.owners import Owner


class Places:
    """All places of this service. The loop is the lock."""

    def __init__(self, bounds: Bounds) -> None:
        self.books = Admission(bounds)
        self._waiting: dict[Ticket, Place] = {}

    def ask(self, owner: Owner, claim: Claim) -> "Place":
        """Return a place to wait for, which must be given back. Raises what Admission.ask raises."""
        place = Place(self, self.books.ask(owner, claim))
        self._waiting[place.ticket] = place
        self._advance()
        return place

    def reserve(self, owner: Owner, memory_bytes: int) -> "Place":
        """Likewise, for a session, which holds its memory without running anything."""
        return self.ask(owner, Claim(memory_bytes=memory_bytes, runs=False))

    def give_back(self, place: "Place") -> None:
        self._waiting.pop(place.ticket, None)
        self.books.give_back(place.ticket)
        self._advance()

    def _advance(self) -> None:
        for ticket in self.books.advance():
            self._waiting.pop(ticket).granted.set()


class Place:
    """`async with` waits for it, and gives it back. Or `await held()`, and `give_back()`, which is good at any time."""

    def __init__(self, places: Places, ticket: Ticket) -> None:
        self.ticket = ticket
        self.granted = asyncio.Event()
        self.held_s: float | None = None  # Since when somebody has it.
        self._places = places

    @property
    def ahead_count(self) -> int | None:
        """How many go first; None if it waits for nobody any more."""
        if self.ticket.is_held or self.ticket.is_returned:
            return None
        return self._places.books.ahead_count(self.ticket)

    async def held(self) -> None:
        await self.granted.wait()
        self.held_s = asyncio.get_running_loop().time()

    def give_back(self) -> None:
        """Let others have it. Idempotent."""
        self._places.give_back(self)

    async def __aenter__(self) -> Self:
        try:
            await self.held()
        except asyncio.CancelledError:
            self.give_back()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()
