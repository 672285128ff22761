"""The audit chain in PostgreSQL.

One transaction at a time appends, whichever replica's: an advisory lock is its turn. Who has it reads where the chain is at,
so nobody need remember that, and the primary key refuses a second event in one place whatever happens to the lock.
"""

import asyncio
import datetime as dt
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import asyncpg

from services.auth.core.audit_chain import Entry, Place, linked
from services.common.auditing.records import Record
from services.common.postgres import Connection, Database
from services.common.postgres_metrics import PoolMetrics

CONNECTIONS_MAX = 3  # Of its own: logins may use up theirs. One appends, one reads, one signs.
CONNECT_S_MAX = 1.0
COMMAND_S_MAX = 2.0
CHAIN_LOCK = 0x6175646974  # "audit"; whoever holds it appends.
HEADS_LOCK = 0x6865616473  # "heads"; whoever holds it signs.
TURN_S_MAX = 5  # A replica that hangs in its turn loses it.
HASHED_AT_ONCE = 100  # Some milliseconds; then others have the loop.
SCANNED_MAX = 20_000  # Events looked at for one page.
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_COLUMNS = (
    "sequence",
    "event_id",
    "event_time",
    "record_time",
    "service",
    "action",
    "outcome",
    "user_id",
    "organization_id",
    "object",
    "reason",
    "details",
    "hash",
)
_ALL = ", ".join(_COLUMNS)

_PATIENCE = f"SET LOCAL idle_in_transaction_session_timeout = '{TURN_S_MAX}s'"
_TURN = "SELECT pg_advisory_xact_lock($1)"
_AT = "SELECT sequence, hash, record_time FROM audit_events ORDER BY sequence DESC LIMIT 1"
_KNOWN = "SELECT event_id FROM audit_events WHERE event_id = ANY($1::uuid[])"
_RANGE = f"SELECT {_ALL} FROM audit_events WHERE sequence > $1 ORDER BY sequence LIMIT $2"  # noqa: S608 - Ours.
_HASH = "SELECT hash FROM audit_events WHERE sequence = $1"
_TIME = "SELECT record_time FROM audit_events WHERE sequence = $1"
_PAGE = """
    SELECT * FROM (
        SELECT {columns} FROM audit_events
        WHERE sequence {beyond} $1 {of_organization} ORDER BY sequence {direction} LIMIT {scanned_max}
    ) AS scanned
    WHERE ($3::text IS NULL OR action = $3) AND ($4::timestamptz IS NULL OR event_time >= $4)
    ORDER BY sequence {direction} LIMIT $5
"""
_SCANNED_TO = """
    SELECT sequence FROM audit_events WHERE sequence {beyond} $1 {of_organization}
    ORDER BY sequence {direction} OFFSET {scanned_max} - 1 LIMIT 1
"""
_HEADS = "SELECT number, sequence, signed FROM audit_heads WHERE number > $1 ORDER BY number LIMIT $2"
_HEAD_AT = (
    "SELECT number, sequence, signed FROM audit_heads WHERE sequence <= $1 ORDER BY sequence DESC LIMIT 1"
)
_ADD_HEAD = "INSERT INTO audit_heads (number, sequence, signed) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
_KEYS = "SELECT key_id, sealed_key FROM audit_keys ORDER BY create_time"
_ADD_KEY = "INSERT INTO audit_keys (key_id, sealed_key) VALUES ($1, $2)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which events, and from where on."""

    organization_id: str | None  # None: of all.
    action: str | None = None
    since_us: int | None = None
    beyond: int | None = None  # A sequence; None: from the beginning, or the end.
    newest_first: bool = False
    count_max: int = 100


@dataclass(frozen=True, slots=True)
class Link:
    """An entry as it is stored."""

    entry: Entry
    hash: bytes


@dataclass(frozen=True, slots=True)
class StoredHead:
    number: int
    sequence: int
    signed: str


def connected(database_url: str, metrics: PoolMetrics | None = None) -> AbstractAsyncContextManager[Database]:
    return Database.connect(
        database_url,
        connections_max=CONNECTIONS_MAX,
        connect_s_max=CONNECT_S_MAX,
        command_s_max=COMMAND_S_MAX,
        metrics=metrics,
    )


class PostgresAudit:
    """Every method raises StoreFailure when the store does not answer in time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- The chain --------------------------------------------------------------------------------

    async def append(self, records: Sequence[Record]) -> int:
        """Add those that are not in it yet, in their order. Return the sequence of the last event."""
        async with self._database.transaction() as connection:
            await _take_turn(connection, CHAIN_LOCK)
            row = await connection.fetchrow(_AT)
            place = Place(row["sequence"], row["hash"]) if row else Place()
            record_time_us = max(time.time_ns() // 1000, _us(row["record_time"]) if row else 0)
            fresh = await _fresh(connection, records)
            rows, place = await _linked_rows(fresh, place, record_time_us)
            if rows:
                # COPY knows no row-level security, so there is none here: `page` says whose events are seen.
                await connection.copy_records_to_table("audit_events", records=rows, columns=_COLUMNS)
            return place.sequence

    async def at(self) -> Place:
        """Where the chain is at."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_AT)
        return Place(row["sequence"], row["hash"]) if row else Place()

    async def hash_at(self, sequence: int) -> bytes | None:
        async with self._database.connection() as connection:
            found: bytes | None = await connection.fetchval(_HASH, sequence)
        return found

    async def links(self, after_sequence: int, count_max: int) -> list[Link]:
        """The part of the chain that follows, in order."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_RANGE, after_sequence, count_max)
        return [_link(row) for row in rows]

    async def page(self, wanted: Wanted) -> tuple[list[Link], int | None]:
        """Some of the events, and the sequence from which to go on; None when there are no more.

        Looks at so many events at most, so a page may be short, or empty, and not the last.
        """
        start = await self._start(wanted)
        since = None if wanted.since_us is None else _time(wanted.since_us)
        async with self._database.connection() as connection:
            arguments = (start, wanted.organization_id)
            rows = await connection.fetch(
                _sql(_PAGE, wanted), *arguments, wanted.action, since, wanted.count_max
            )
            if len(rows) == wanted.count_max:
                return [_link(row) for row in rows], rows[-1]["sequence"]
            scanned_to: int | None = await connection.fetchval(_sql(_SCANNED_TO, wanted), *arguments)
        return [_link(row) for row in rows], scanned_to

    async def _start(self, wanted: Wanted) -> int:
        """Beyond which sequence to look."""
        if wanted.newest_first:
            return 2**63 - 1 if wanted.beyond is None else wanted.beyond
        if wanted.beyond is not None or wanted.since_us is None:
            return wanted.beyond or 0
        return await self._last_before(_time(wanted.since_us))

    async def _last_before(self, moment: dt.datetime) -> int:
        """The last event that was recorded before `moment`: found by halving, for record times never go back."""
        low, high = 0, (await self.at()).sequence
        async with self._database.connection() as connection:
            while low < high:
                middle = (low + high + 1) // 2
                recorded = await connection.fetchval(_TIME, middle)
                if recorded is None or recorded < moment:
                    low = middle
                else:
                    high = middle - 1
        return low

    # ---- Its heads and their keys -----------------------------------------------------------------

    async def heads(self, after_number: int, count_max: int) -> list[StoredHead]:
        async with self._database.connection() as connection:
            return [_head(row) for row in await connection.fetch(_HEADS, after_number, count_max)]

    async def head_at(self, sequence: int = 2**63 - 1) -> StoredHead | None:
        """The last head of those at `sequence` or before."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_HEAD_AT, sequence)
        return _head(row) if row else None

    async def add_head(self, head: StoredHead) -> None:
        """Do nothing if another replica has added one with this number, or for this event."""
        async with self._database.connection() as connection:
            await connection.execute(_ADD_HEAD, head.number, head.sequence, head.signed)

    async def keys(self, make: tuple[str, bytes]) -> list[tuple[str, bytes]]:
        """Ids and keys, sealed, oldest first. The first of all is `make`, for whichever replica is the first."""
        async with self._database.transaction() as connection:
            await _take_turn(connection, HEADS_LOCK)
            rows = await connection.fetch(_KEYS)
            if not rows:
                await connection.execute(_ADD_KEY, *make)
                return [make]
        return [(row["key_id"], row["sealed_key"]) for row in rows]

    async def reseal(self, renew: Callable[[bytes], bytes | None]) -> int:
        """Add each key, sealed anew, if `renew` says that it must be; return how many."""
        async with self._database.connection() as connection:
            latest = {row["key_id"]: row["sealed_key"] for row in await connection.fetch(_KEYS)}
            renewed = {key: anew for key, sealed in latest.items() if (anew := renew(sealed)) is not None}
            for key_id, sealed in renewed.items():
                await connection.execute(_ADD_KEY, key_id, sealed)
        return len(renewed)

    async def add_key(self, key_id: str, sealed: bytes) -> None:
        async with self._database.connection() as connection:
            await connection.execute(_ADD_KEY, key_id, sealed)


async def _take_turn(connection: Connection, lock: int) -> None:
    await connection.execute(_PATIENCE)
    await connection.execute(_TURN, lock)


async def _fresh(connection: Connection, records: Sequence[Record]) -> list[Record]:
    """Those that the chain does not have, each once."""
    named = {record.event_id: record for record in reversed(records)}
    known = {row["event_id"] for row in await connection.fetch(_KNOWN, list(named))}
    return [record for record in reversed(named.values()) if record.event_id not in known]


async def _linked_rows(
    records: Sequence[Record], place: Place, record_time_us: int
) -> tuple[list[tuple[object, ...]], Place]:
    rows: list[tuple[object, ...]] = []
    record_time = _time(record_time_us)
    for number, record in enumerate(records, 1):
        entry = _entry(record, place.sequence + 1, record_time_us)
        place = Place(entry.sequence, linked(place.hash, entry))
        details = json.dumps(dict(entry.details), ensure_ascii=False)
        times = (_time(record.time_us), record_time)
        words = (entry.service, entry.action, entry.outcome, entry.user_id, entry.organization_id)
        rest = (entry.object, entry.reason, details, place.hash)
        rows.append((entry.sequence, record.event_id, *times, *words, *rest))
        if number % HASHED_AT_ONCE == 0:
            await asyncio.sleep(0)
    return rows, place


def _entry(record: Record, sequence: int, record_time_us: int) -> Entry:
    happened = record.happened
    return Entry(
        sequence=sequence,
        event_id=str(record.event_id),
        event_time_us=record.time_us,
        record_time_us=record_time_us,
        service=record.service,
        action=happened.action.name,
        outcome=happened.outcome.name,
        user_id=happened.user_id,
        organization_id=happened.organization_id,
        object=happened.object,
        reason=happened.reason,
        details=happened.details,
    )


def _link(row: asyncpg.Record) -> Link:
    """Whatever the row holds: somebody may have put it there who can do anything to the table."""
    details = json.loads(row["details"] or "null")
    entry = Entry(
        sequence=row["sequence"],
        event_id=str(row["event_id"]),
        event_time_us=_us(row["event_time"]),
        record_time_us=_us(row["record_time"]),
        service=row["service"],
        action=row["action"],
        outcome=row["outcome"],
        user_id=row["user_id"],
        organization_id=row["organization_id"],
        object=row["object"],
        reason=row["reason"],
        details=details if isinstance(details, dict) else {"": str(details)},
    )
    return Link(entry, row["hash"])


def _head(row: asyncpg.Record) -> StoredHead:
    return StoredHead(row["number"], row["sequence"], row["signed"])


def _sql(template: str, wanted: Wanted) -> str:
    return template.format(
        columns=_ALL,
        beyond="<" if wanted.newest_first else ">",
        direction="DESC" if wanted.newest_first else "ASC",
        # A condition that may hold for all would keep the planner from the index.
        of_organization="AND $2::text IS NULL"
        if wanted.organization_id is None
        else "AND organization_id = $2",
        scanned_max=SCANNED_MAX,
    )


def _time(us: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=us)


def _us(time_: dt.datetime) -> int:
    try:
        return (time_ - _EPOCH) // dt.timedelta(microseconds=1)
    except TypeError:  # Nothing, or for ever.
        return -1
