"""Items of batches in memory, for tests of their worker. The real store keeps the same promises (tests/contract)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from ollamesh.inference.v1.batch_pb2 import BatchItem

from services.common.errors import StoreUnavailable
from services.inference.batches.ports import Claim, Creator, Done, Held, Place, PutBack
from services.inference.core.batches import Open
from services.inference.core.callers import Principal


@dataclass(slots=True)
class _Item:
    request: bytes
    organization_id: str
    due_s: float = 0.0
    fence: int = 0
    attempt_count: int = 0
    put_back_count: int = 0


@dataclass(slots=True)
class FakeItems:
    """Implements batches.ports.Items. Time is `now_s`, which tests set; leases last `lease_s` of it."""

    lease_s: float = 10.0
    now_s: float = 0.0
    is_away: bool = False
    items: dict[Place, _Item] = field(default_factory=dict)
    cancelled: set[UUID] = field(default_factory=set)
    results: list[Done] = field(default_factory=list)

    def add(self, batch_id: UUID, count: int, *, organization_id: str = "org-1") -> None:
        for index in range(count):
            self.items[Place(batch_id, index)] = _Item(
                BatchItem(custom_id=str(index)).SerializeToString(), organization_id
            )

    async def open(self, *, paused: Collection[UUID]) -> Sequence[Open]:
        self._reach()
        found: dict[str, Open] = {}
        for place, item in self.items.items():
            if self._is_new(place, item) and place.batch_id not in paused:
                found.setdefault(item.organization_id, Open(place.batch_id, item.organization_id))
        return list(found.values())

    async def take(self, batch_id: UUID, *, count_max: int) -> Sequence[Held]:
        self._reach()
        places = [
            place
            for place, item in self.items.items()
            if place.batch_id == batch_id and self._is_new(place, item)
        ]
        return [self._taken(place) for place in places[:count_max]]

    async def take_suspect(self) -> Held | None:
        self._reach()
        for place, item in self.items.items():
            if item.attempt_count and item.due_s <= self.now_s and place.batch_id not in self.cancelled:
                return self._taken(place)
        return None

    async def keep(self, held: Collection[Held], *, renew: bool) -> set[Claim]:
        self._reach()
        kept = {one.claim for one in held if self._is_held(one)}
        if renew:
            for place, _ in kept:
                self.items[place].due_s = self.now_s + self.lease_s
        return kept

    async def finish(self, done: Sequence[Done]) -> set[Claim]:
        self._reach()
        written = [one for one in done if self._is_held(one.held)]
        for one in written:
            del self.items[one.held.place]
        self.results += written
        return {one.held.claim for one in written}

    async def put_back(self, given_up: Sequence[PutBack]) -> None:
        self._reach()
        for one in given_up:
            if self._is_held(one.held):
                item = self.items[one.held.place]
                item.due_s = self.now_s + one.delay_s
                item.put_back_count += 1
                item.attempt_count -= 0 if one.counts else 1

    async def seize_overdue(self, *, count_max: int) -> Sequence[Held]:
        self._reach()
        return []

    async def sweep(self) -> Mapping[str, int]:
        self._reach()
        return {}

    def _reach(self) -> None:
        if self.is_away:
            raise StoreUnavailable

    def _is_new(self, place: Place, item: _Item) -> bool:
        return item.attempt_count == 0 and item.due_s <= self.now_s and place.batch_id not in self.cancelled

    def _is_held(self, held: Held) -> bool:
        item = self.items.get(held.place)
        return item is not None and item.fence == held.fence and held.place.batch_id not in self.cancelled

    def _taken(self, place: Place) -> Held:
        item = self.items[place]
        item.fence += 1
        item.attempt_count += 1
        item.due_s = self.now_s + self.lease_s
        owner = Principal(organization_id=item.organization_id, project_id="p", user_id="u")
        return Held(
            place=place,
            fence=item.fence,
            request=item.request,
            creator=Creator(principal=owner, roles=("user",)),
            attempt_count=item.attempt_count,
            put_back_count=item.put_back_count,
        )
