"""Streams in Redis: for each a sealed head, and a Redis stream of sealed records.

The id of a record begins with how often the stream was taken over, and goes on with the number of its newest frame. So
Redis itself refuses what was added before, and whatever a process adds from whom the stream was taken: that one learns
of it by that. Every key expires by itself. Redis may forget any of them sooner, when it is full or was flushed: then
the stream's maker, who still has it all, is told, and writes it again.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, TypeVar

import msgspec
from redis.exceptions import ResponseError

from services.common.seals import Seals
from services.inference.adapters.redis_link import Command, RedisAway, RedisLink
from services.inference.streams.ports import Away, News, Sign, Writing, Written
from services.inference.streams.records import (
    End,
    Frames,
    Head,
    Heir,
    Record,
    decode_head,
    decode_record,
    encode,
)

PREFIX = "ollamesh:stream:"
JOINS = b"ollamesh:join:"
PROCESSES = "ollamesh:gateway:"
ALIVE_MS = 2000  # A process that is silent for so long is gone.
GONE_MS = 60_000  # So long one that has ended says so.
FOLLOWED_MS = 2000
CLAIM_MS = 600_000  # Of a maker that died: whoever comes takes over from it.
INHERIT_MS = 10_000
MAIL_MAX = 64
RECORDS_MAX = 256  # At once.
OPEN_MS = 3600_000  # What is never ended, because its maker died, is kept so long.
KNOWN = "equal or smaller"  # How Redis says that a record is not newer than its newest.
NUMBER_BITS = 40  # Of a record's id, for a frame's number; above it are those who have taken over.
MADE, LAST = 1, 2  # The second parts of ids: frames, and the end after them.
SIGNS = {b"1": Sign.ALIVE, b"0": Sign.GONE, None: Sign.NONE}
# Another one may have claimed it since, so it is looked and deleted at once.
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

T = TypeVar("T")


class RedisStreams:
    """A SharedLog."""

    def __init__(self, link: RedisLink, seals: Seals, *, process_id: str, kept_s: float) -> None:
        self._link = link
        self._seals = seals
        self._process_id = process_id
        self._kept_ms = int(kept_s * 1000)

    @property
    def up(self) -> bool:
        return self._link.up

    async def write(self, writings: Sequence[Writing]) -> list[Written]:
        parts = [self._commands(writing) for writing in writings]
        if not parts:
            return []
        answers = await self._asked(*chain.from_iterable(parts), refusals=True)
        if any(isinstance(answer, ResponseError) and KNOWN not in str(answer) for answer in answers):
            raise Away  # It is full, or may not be written to.
        outcomes = []
        for writing, part in zip(writings, parts, strict=True):
            own, answers = answers[: len(part)], answers[len(part) :]
            outcomes.append(await self._outcome(writing, part, own))
        return outcomes

    async def _outcome(
        self, writing: Writing, commands: Sequence[Command], answers: Sequence[object]
    ) -> Written:
        added = [
            answer
            for command, answer in zip(commands, answers, strict=True)
            if command[0] in {"XADD", "PEXPIRE"}
        ]
        if any(answer in {None, 0} for answer in added if not isinstance(answer, ResponseError)):
            return Written.LOST
        if not any(isinstance(answer, ResponseError) for answer in added):
            return Written.KEPT
        (newest,) = await self._asked(("XREVRANGE", PREFIX + writing.stream_id, "+", "-", "COUNT", 1))
        taken_count = int(newest[0][0].partition(b"-")[0]) >> NUMBER_BITS if newest else 0
        return Written.FENCED if taken_count > writing.heir_count else Written.KEPT

    async def head(self, tenant: str, stream_id: str) -> Head | None:
        (sealed,) = await self._asked(("GET", f"{PREFIX}{stream_id}:head"))
        return self._opened(sealed, tenant, stream_id, decode_head)

    async def news(self, tenant: str, stream_id: str, *, after: str, owner: str) -> News:
        key = PREFIX + stream_id
        found, said, is_kept, _ = await self._asked(
            ("XRANGE", key, f"({after}" if after else "-", "+", "COUNT", RECORDS_MAX),
            ("GET", PROCESSES + owner),
            ("EXISTS", key),
            ("SET", f"{key}:followed", self._process_id, "PX", FOLLOWED_MS),
        )
        records = [
            record
            for _, fields in found
            if (record := self._opened(fields[1], tenant, stream_id, decode_record)) is not None
        ]
        place = found[-1][0].decode() if found else after
        return News(records=records, place=place, owner=SIGNS.get(said, Sign.NONE), is_kept=bool(is_kept))

    async def has_ended(self, tenant: str, stream_id: str) -> bool:
        (found,) = await self._asked(("XREVRANGE", PREFIX + stream_id, "+", "-", "COUNT", 1))
        last = self._opened(found[0][1][1], tenant, stream_id, decode_record) if found else None
        return isinstance(last, End)

    async def is_followed(self, stream_id: str) -> bool:
        (found,) = await self._asked(("EXISTS", f"{PREFIX}{stream_id}:followed"))
        return bool(found)

    async def claim(self, name: bytes, stream_id: str) -> str:
        # Redis 7 has SET with NX and GET; of two that come at once, one is told of the other.
        (other,) = await self._asked(("SET", JOINS + name, stream_id, "NX", "GET", "PX", CLAIM_MS))
        return stream_id if other is None else str(other.decode())

    async def release(self, name: bytes, stream_id: str) -> None:
        await self._asked(("EVAL", RELEASE, 1, JOINS + name, stream_id))

    async def inherit(self, stream_id: str, *, owner: str) -> bool:
        key = f"{PREFIX}{stream_id}:heir:{owner}"
        (heir,) = await self._asked(("SET", key, self._process_id, "NX", "GET", "PX", INHERIT_MS))
        return heir is None or bool(heir == self._process_id.encode())

    async def alive(self) -> list[str]:
        key = PROCESSES + self._process_id
        _, mail = await self._asked(("SET", key, "1", "PX", ALIVE_MS), ("LPOP", f"{key}:mail", MAIL_MAX))
        return [each.decode() for each in mail or ()]

    async def cancel(self, stream_id: str, *, owner: str) -> None:
        key = f"{PROCESSES}{owner}:mail"
        await self._asked(("RPUSH", key, stream_id), ("PEXPIRE", key, ALIVE_MS * 5))

    async def farewell(self) -> None:
        with suppress(Away):
            await self._asked(("SET", PROCESSES + self._process_id, "0", "PX", GONE_MS))

    def _commands(self, writing: Writing) -> list[Command]:
        key, name = PREFIX + writing.stream_id, writing.stream_id.encode()
        ended = any(isinstance(record, End) for record in writing.records)
        kept_ms = self._kept_ms + (0 if ended else OPEN_MS)
        commands: list[Command] = []
        if writing.head is not None:
            sealed = self._seals.seal(encode(writing.head), tenant=writing.tenant, name=name)
            commands.append(("SET", f"{key}:head", sealed, "PX", kept_ms))
        else:
            commands.append(("PEXPIRE", f"{key}:head", kept_ms))
        for record in writing.records:
            sealed = self._seals.seal(encode(record), tenant=writing.tenant, name=name)
            made = () if writing.is_new else ("NOMKSTREAM",)
            commands.append(("XADD", key, *made, _id(record, writing), "r", sealed))
        if writing.first > max(1, writing.heir_after):  # What others have made before is bounded by itself.
            commands.append(("XTRIM", key, "MINID", f"{_major(writing, writing.first)}-0"))
        if writing.records:
            commands.append(("PEXPIRE", key, kept_ms))
        return commands

    def _opened(self, sealed: object, tenant: str, stream_id: str, decode: Callable[[bytes], T]) -> T | None:
        """Return what was sealed; None if it was not sealed for this stream, or not by us."""
        if not isinstance(sealed, bytes):
            return None
        data = self._seals.open(sealed, tenant=tenant, name=stream_id.encode())
        try:
            return None if data is None else decode(data)
        except msgspec.MsgspecError:
            return None

    async def _asked(self, *commands: Command, refusals: bool = False) -> list[Any]:
        try:
            return await self._link.ask(*commands, refusals=refusals)
        except RedisAway:
            raise Away from None


def _id(record: Record, writing: Writing) -> str:
    match record:
        case Frames(first=first, frames=frames):
            return f"{_major(writing, first + len(frames) - 1)}-{MADE}"
        case Heir():
            return f"{_major(writing, writing.heir_after)}-0"
        case End():
            return f"{_major(writing, writing.last)}-{LAST}"


def _major(writing: Writing, number: int) -> int:
    return writing.heir_count << NUMBER_BITS | number
