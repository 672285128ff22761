"""A SharedLog in memory, held to the real one by tests/contract/test_inference_redis_streams.py."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.inference.adapters.redis_streams import ALIVE_MS, FOLLOWED_MS, NUMBER_BITS, RECORDS_MAX
from services.inference.streams.ports import Away, News, Sign, Writing, Written
from services.inference.streams.records import End, Frames, Head, Heir, Record

Id = tuple[int, int]


@dataclass(slots=True)
class Memory:
    """What the processes share, and who of them cannot reach it."""

    heads: dict[tuple[str, str], Head] = field(default_factory=dict)
    logs: defaultdict[tuple[str, str], list[tuple[Id, Record]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    signs: dict[str, tuple[Sign, float]] = field(default_factory=dict)  # With the time they were given.
    followed: dict[str, float] = field(default_factory=dict)
    claims: dict[bytes, str] = field(default_factory=dict)
    heirs: dict[tuple[str, str], str] = field(default_factory=dict)
    mail: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    cut_off: set[str] = field(default_factory=set)  # Processes.
    is_full: bool = False

    def flush(self) -> None:
        """Forget everything."""
        for each in (self.heads, self.logs, self.signs, self.followed, self.claims, self.heirs, self.mail):
            each.clear()

    def of(self, process_id: str) -> "MemoryStreams":
        return MemoryStreams(self, process_id)


class MemoryStreams:
    """One process's way to it. `up` is what a process believes, and so is only false for one that is cut off."""

    def __init__(self, memory: Memory, process_id: str) -> None:
        self._memory = memory
        self._process_id = process_id

    @property
    def up(self) -> bool:
        return self._process_id not in self._memory.cut_off

    async def write(self, writings: Sequence[Writing]) -> list[Written]:
        await self._reached()
        if self._memory.is_full and any(writing.records or writing.head for writing in writings):
            raise Away
        return [self._write(writing) for writing in writings]

    def _write(self, writing: Writing) -> Written:
        key = (writing.tenant, writing.stream_id)
        heads, logs = self._memory.heads, self._memory.logs
        if writing.head is not None:
            heads[key] = writing.head
        if key not in heads or (writing.records and not writing.is_new and not logs[key]):
            return Written.LOST
        refused = False
        for record in writing.records:
            place = _id(record, writing)
            if logs[key] and place <= logs[key][-1][0]:
                refused = True
            else:
                logs[key].append((place, record))
        if writing.first > max(1, writing.heir_after):
            least = (writing.heir_count << NUMBER_BITS | writing.first, 0)
            logs[key] = [one for one in logs[key] if one[0] >= least]
        fenced = refused and logs[key][-1][0][0] >> NUMBER_BITS > writing.heir_count
        return Written.FENCED if fenced else Written.KEPT

    async def head(self, tenant: str, stream_id: str) -> Head | None:
        await self._reached()
        return self._memory.heads.get((tenant, stream_id))

    async def news(self, tenant: str, stream_id: str, *, after: str, owner: str) -> News:
        await self._reached()
        self._memory.followed[stream_id] = _now_s()
        begin = tuple(map(int, after.split("-"))) if after else (-1, -1)
        found = [one for one in self._memory.logs[tenant, stream_id] if one[0] > begin][:RECORDS_MAX]
        place = "{}-{}".format(*found[-1][0]) if found else after
        return News(
            records=[record for _, record in found],
            place=place,
            owner=self._sign(owner),
            is_kept=bool(self._memory.logs[tenant, stream_id]),
        )

    async def has_ended(self, tenant: str, stream_id: str) -> bool:
        await self._reached()
        log = self._memory.logs[tenant, stream_id]
        return bool(log) and isinstance(log[-1][1], End)

    async def is_followed(self, stream_id: str) -> bool:
        await self._reached()
        return _now_s() - self._memory.followed.get(stream_id, float("-inf")) < FOLLOWED_MS / 1000

    async def claim(self, name: bytes, stream_id: str) -> str:
        await self._reached()
        return self._memory.claims.setdefault(name, stream_id)

    async def release(self, name: bytes, stream_id: str) -> None:
        await self._reached()
        if self._memory.claims.get(name) == stream_id:
            del self._memory.claims[name]

    async def inherit(self, stream_id: str, *, owner: str) -> bool:
        await self._reached()
        return self._memory.heirs.setdefault((stream_id, owner), self._process_id) == self._process_id

    async def alive(self) -> list[str]:
        await self._reached()
        self._memory.signs[self._process_id] = (Sign.ALIVE, _now_s())
        return self._memory.mail.pop(self._process_id, [])

    async def cancel(self, stream_id: str, *, owner: str) -> None:
        await self._reached()
        self._memory.mail[owner].append(stream_id)

    async def farewell(self) -> None:
        await self._reached()
        self._memory.signs[self._process_id] = (Sign.GONE, _now_s())

    def _sign(self, owner: str) -> Sign:
        sign, at_s = self._memory.signs.get(owner, (Sign.NONE, 0.0))
        return Sign.NONE if sign is Sign.ALIVE and _now_s() - at_s > ALIVE_MS / 1000 else sign

    async def _reached(self) -> None:
        await asyncio.sleep(0)  # Others may come between, as they do.
        if not self.up:
            raise Away


def _id(record: Record, writing: Writing) -> Id:
    match record:
        case Frames(first=first, frames=frames):
            number, part = first + len(frames) - 1, 1
        case Heir():
            number, part = writing.heir_after, 0
        case End():
            number, part = writing.last, 2
    return writing.heir_count << NUMBER_BITS | number, part


def _now_s() -> float:
    return asyncio.get_running_loop().time()
