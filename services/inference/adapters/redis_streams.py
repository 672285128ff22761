"""Streams in Redis: for each a sealed head, and a Redis stream of sealed records.

The id of a record is the number of its newest frame, so Redis itself refuses what was added before, and what a
process adds that has been taken over from.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from redis.exceptions import ResponseError

from services.inference.adapters.redis_link import Command, RedisAway, RedisLink
from services.inference.adapters.seals import Seals
from services.inference.streams.ports import Away, News, Writing
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
FOLLOWED_MS = 2000
CLAIM_MS = 600_000  # Of a maker that died: whoever comes takes over from it.
INHERIT_MS = 10_000
MAIL_MAX = 64
RECORDS_MAX = 256  # At once.
OPEN_MS = 3600_000  # What is never ended, because its maker died, is kept so long.
FULL = "OOM"  # How Redis begins to say that it is full.

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

    async def write(self, writings: Sequence[Writing]) -> None:
        commands = [command for writing in writings for command in self._commands(writing)]
        if commands:
            answers = await self._asked(*commands, refusals=True)
            # Another refusal is of what is there already, or of what was taken over.
            if any(isinstance(answer, ResponseError) and str(answer).startswith(FULL) for answer in answers):
                raise Away

    async def head(self, tenant: str, stream_id: str) -> Head | None:
        (sealed,) = await self._asked(("GET", f"{PREFIX}{stream_id}:head"))
        return self._opened(sealed, tenant, stream_id, decode_head)

    async def news(self, tenant: str, stream_id: str, *, after: str, owner: str) -> News:
        key = PREFIX + stream_id
        found, lives, _ = await self._asked(
            ("XRANGE", key, f"({after}" if after else "-", "+", "COUNT", RECORDS_MAX),
            ("EXISTS", PROCESSES + owner),
            ("SET", f"{key}:followed", self._process_id, "PX", FOLLOWED_MS),
        )
        records = [
            record
            for _, fields in found
            if (record := self._opened(fields[1], tenant, stream_id, decode_record)) is not None
        ]
        return News(records=records, place=found[-1][0].decode() if found else after, owner_lives=bool(lives))

    async def is_followed(self, stream_id: str) -> bool:
        (found,) = await self._asked(("EXISTS", f"{PREFIX}{stream_id}:followed"))
        return bool(found)

    async def claim(self, name: bytes, stream_id: str) -> str:
        # Redis 7 has SET with NX and GET; of two that come at once, one is told of the other.
        (other,) = await self._asked(("SET", JOINS + name, stream_id, "NX", "GET", "PX", CLAIM_MS))
        return stream_id if other is None else str(other.decode())

    async def release(self, name: bytes, stream_id: str) -> None:
        key = JOINS + name
        (holder,) = await self._asked(("GET", key))
        if holder is not None and holder.decode() == stream_id:
            await self._asked(("DEL", key))

    async def inherit(self, stream_id: str, *, owner: str) -> bool:
        key = f"{PREFIX}{stream_id}:heir:{owner}"
        (done,) = await self._asked(("SET", key, self._process_id, "NX", "PX", INHERIT_MS))
        return done is not None

    async def alive(self) -> list[str]:
        key = PROCESSES + self._process_id
        _, mail = await self._asked(("SET", key, "1", "PX", ALIVE_MS), ("LPOP", f"{key}:mail", MAIL_MAX))
        return [each.decode() for each in mail or ()]

    async def cancel(self, stream_id: str, *, owner: str) -> None:
        key = f"{PROCESSES}{owner}:mail"
        await self._asked(("RPUSH", key, stream_id), ("PEXPIRE", key, ALIVE_MS * 5))

    async def farewell(self) -> None:
        with suppress(Away):
            await self._asked(("DEL", PROCESSES + self._process_id))

    def _commands(self, writing: Writing) -> list[Command]:
        key, name = PREFIX + writing.stream_id, writing.stream_id.encode()
        commands: list[Command] = []
        if writing.head is not None:
            sealed = self._seals.seal(encode(writing.head), tenant=writing.tenant, name=name)
            commands.append(("SET", f"{key}:head", sealed, "PX", self._kept_ms + OPEN_MS))
        for record in writing.records:
            sealed = self._seals.seal(encode(record), tenant=writing.tenant, name=name)
            commands.append(("XADD", key, _id(record, writing), "r", sealed))
        if writing.first > 1:
            commands.append(("XTRIM", key, "MINID", f"{writing.first}-0"))
        if any(isinstance(record, End) for record in writing.records):
            commands += [(("PEXPIRE", each, self._kept_ms)) for each in (key, f"{key}:head")]
        elif writing.head is not None:
            commands.append(("PEXPIRE", key, self._kept_ms + OPEN_MS))
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
            return f"{first + len(frames) - 1}-1"
        case Heir():
            return f"{writing.last}-{1 + writing.heir_count}"
        case End():
            return f"{writing.last}-1000000"
