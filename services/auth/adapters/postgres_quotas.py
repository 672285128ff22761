"""Limits and the ledger of budgets in PostgreSQL.

Whatever changes an organisation's ledger takes the organisation's lock first, and only that one: no two can deadlock, and
what is left cannot change between being looked at and being given.
"""

import datetime as dt
from collections.abc import Mapping

import asyncpg

from services.auth.core.quotas import (
    NOTHING,
    Account,
    Amount,
    Book,
    Books,
    Kind,
    Limits,
    Subject,
    given,
    stream_limits,
)
from services.auth.errors import QuotaExceeded, RequestIdReused, ReservationNotFound
from services.auth.quota_ports import Reservation, Settlement, Wish
from services.common.postgres import Connection, Database

SWEPT_AT_ONCE = 5000
RESERVATIONS_KEPT = dt.timedelta(days=2)  # A settlement that is later than this is not known any more.
USAGE_KEPT = dt.timedelta(days=400)

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('quotas of ' || $1, 0))"
# The clock is read after the lock is had: `now()` would be when the transaction began to wait for it.
_BOOKS = """
    WITH clock AS MATERIALIZED (
        SELECT time, (time AT TIME ZONE 'UTC')::date AS day FROM (SELECT clock_timestamp() AS time) read
    )
    SELECT subject.kind, clock.time, quotas.organization_id IS NOT NULL AS is_set, quotas.requests_per_second,
           quotas.request_burst_count, quotas.tokens_per_day, quotas.gpu_seconds_per_day,
           quotas.concurrent_stream_count, quotas.batch_items_per_day,
           coalesce(used.token_count, 0) AS used_token_count,
           coalesce(used.gpu_us, 0) AS used_gpu_us,
           coalesce(used.batch_item_count, 0) AS used_batch_item_count,
           reserved.*
    FROM clock CROSS JOIN unnest($2::text[], $3::text[]) AS subject (kind, subject_id)
    LEFT JOIN quotas ON quotas.organization_id = $1 AND quotas.kind = subject.kind
        AND quotas.subject_id = subject.subject_id
    LEFT JOIN quota_usage used ON used.organization_id = $1 AND used.kind = subject.kind
        AND used.subject_id = subject.subject_id AND used.day = clock.day
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(greatest(granted_token_count - used_token_count, 0)), 0)::bigint AS reserved_token_count,
               coalesce(sum(greatest(granted_gpu_us - used_gpu_us, 0)), 0)::bigint AS reserved_gpu_us,
               coalesce(sum(greatest(granted_batch_item_count - used_batch_item_count, 0)), 0)::bigint
                   AS reserved_batch_item_count
        FROM quota_reservations
        WHERE organization_id = $1 AND day = clock.day AND lease_until > clock.time AND reservation_id <> $4
        AND CASE subject.kind WHEN 'project' THEN project_id = subject.subject_id
                              WHEN 'api_key' THEN api_key_id = subject.subject_id ELSE true END
    ) reserved
"""
_FIND = "SELECT * FROM quota_reservations WHERE reservation_id = $1"
_RESERVE = """
    INSERT INTO quota_reservations (reservation_id, organization_id, project_id, api_key_id, day,
        granted_token_count, granted_gpu_us, granted_batch_item_count, lease_until)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
_GIVE_UP = "DELETE FROM quota_reservations WHERE reservation_id = $1"
_SETTLE = """
    UPDATE quota_reservations SET used_token_count = $2, used_gpu_us = $3, used_batch_item_count = $4,
        granted_token_count = $5, granted_gpu_us = $6, granted_batch_item_count = $7, lease_until = $8
    WHERE reservation_id = $1
"""
_COUNT = """
    INSERT INTO quota_usage AS known (organization_id, kind, subject_id, day, token_count, gpu_us, batch_item_count)
    SELECT $1, kind, subject_id, $4, $5, $6, $7 FROM unnest($2::text[], $3::text[]) AS subject (kind, subject_id)
    ON CONFLICT (organization_id, kind, subject_id, day) DO UPDATE SET
        token_count = known.token_count + excluded.token_count,
        gpu_us = known.gpu_us + excluded.gpu_us,
        batch_item_count = known.batch_item_count + excluded.batch_item_count
"""
_LIMITS = """
    SELECT quotas.* FROM unnest($2::text[], $3::text[]) AS subject (kind, subject_id)
    JOIN quotas USING (kind, subject_id) WHERE quotas.organization_id = $1
"""
_SET = """
    INSERT INTO quotas (organization_id, kind, subject_id, requests_per_second, request_burst_count, tokens_per_day,
        gpu_seconds_per_day, concurrent_stream_count, batch_items_per_day)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (organization_id, kind, subject_id) DO UPDATE SET
        requests_per_second = excluded.requests_per_second, request_burst_count = excluded.request_burst_count,
        tokens_per_day = excluded.tokens_per_day, gpu_seconds_per_day = excluded.gpu_seconds_per_day,
        concurrent_stream_count = excluded.concurrent_stream_count,
        batch_items_per_day = excluded.batch_items_per_day, update_time = now()
"""
_EXISTS = {
    Kind.ORGANIZATION: "SELECT count(*) FROM organizations WHERE organization_id = $1 AND $2 = $1",
    Kind.PROJECT: "SELECT count(*) FROM projects WHERE organization_id = $1 AND project_id = $2",
}
_SWEEP = """
    DELETE FROM quota_reservations WHERE reservation_id IN
        (SELECT reservation_id FROM quota_reservations WHERE lease_until < now() - $1::interval LIMIT $2)
"""
_FORGET = "DELETE FROM quota_usage WHERE day < (now() AT TIME ZONE 'UTC' - $1::interval)::date"


class PostgresQuotas:
    """Implements quota_ports.Ledger."""

    def __init__(self, database: Database, defaults: Mapping[Kind, Limits]) -> None:
        """`defaults` are for subjects whose limits were never set."""
        self._database = database
        self._defaults = defaults

    async def reserve(self, reservation_id: str, account: Account, wish: Wish) -> Reservation:
        async with self._database.transaction(system=True) as connection:
            await connection.execute(_LOCK, account.organization_id)
            row = await connection.fetchrow(_FIND, reservation_id)
            if row is not None and _account(row) != account:
                raise RequestIdReused
            books, now = await self._books(connection, account, but=reservation_id)
            if row is not None and row["lease_until"] <= now and _amount(row, "used") == NOTHING:
                await connection.execute(_GIVE_UP, reservation_id)  # It came to nothing: asked for anew.
                row = None
            if row is not None:
                found = given(books, wish.needed)
                granted = _amount(row, "granted")
                return _reservation(books, found.limited, row["lease_until"], granted, now=now)
            found = given(books, wish.needed, wish.wanted)
            if found.spent is not None:
                raise QuotaExceeded.of(found.spent, reset_s=(_reset(now) - now).total_seconds())
            until = now + dt.timedelta(seconds=wish.lease_s or 0)
            home = account.organization_id, account.project_id, account.api_key_id
            await connection.execute(_RESERVE, reservation_id, *home, _day(now), *found.amount.parts, until)
            return _reservation(books, found.limited, until, found.amount, now=now)

    async def settle(self, reservation_id: str, used: Amount, wish: Wish | None) -> Settlement:
        async with self._database.transaction(system=True) as connection:
            row = await connection.fetchrow(_FIND, reservation_id)
            if row is None:
                raise ReservationNotFound
            account = _account(row)
            await connection.execute(_LOCK, account.organization_id)
            row = await connection.fetchrow(_FIND, reservation_id)  # As it is now.
            if row is None:
                raise ReservationNotFound
            before = _amount(row, "used")
            used = used.at_least(before)
            if used != before:
                more = (used - before).parts
                await connection.execute(
                    _COUNT, account.organization_id, *_columns(account), row["day"], *more
                )
            books, now = await self._books(connection, account, but=reservation_id)
            granted, until, reservation, spent = used, now, None, None
            if wish is not None and row["day"] == _day(now):
                found = given(books, wish.needed, wish.wanted)
                granted, until = used + found.amount, now + dt.timedelta(seconds=wish.lease_s or 0)
                spent = found.spent
                reservation = _reservation(books, found.limited, until, granted, now=now)
            await connection.execute(_SETTLE, reservation_id, *used.parts, *granted.parts, until)
            return Settlement(reservation, spent)

    async def book(self, subject: Subject) -> tuple[Book, dt.datetime]:
        ids = {subject.kind: subject.subject_id}
        async with self._database.connection(organization_id=subject.organization_id) as connection:
            books, now = await self._read(connection, subject.organization_id, ids, but="")
        return books[subject.kind], _reset(now)

    async def limits(self, account: Account) -> Mapping[Kind, Limits]:
        async with self._database.connection(organization_id=account.organization_id) as connection:
            rows = await connection.fetch(_LIMITS, account.organization_id, *_columns(account))
        found = {Kind(row["kind"]): _limits(row) for row in rows}
        return {each.kind: found.get(each.kind, self.default(each.kind)) for each in account.subjects}

    async def set_limits(self, subject: Subject, limits: Limits) -> None:
        async with self._database.connection(organization_id=subject.organization_id) as connection:
            await connection.execute(
                _SET,
                subject.organization_id,
                subject.kind.value,
                subject.subject_id,
                limits.requests_per_second,
                limits.request_burst_count,
                limits.tokens_per_day,
                limits.gpu_seconds_per_day,
                limits.concurrent_stream_count,
                limits.batch_items_per_day,
            )

    async def exists(self, subject: Subject) -> bool:
        statement = _EXISTS.get(subject.kind)
        if statement is None:  # A key's limits belong to its organisation, whether it is there yet or not.
            return True
        async with self._database.connection(organization_id=subject.organization_id) as connection:
            return bool(await connection.fetchval(statement, subject.organization_id, subject.subject_id))

    async def sweep(self) -> None:
        async with self._database.connection(system=True) as connection:
            await connection.execute(_SWEEP, RESERVATIONS_KEPT, SWEPT_AT_ONCE)
            await connection.execute(_FORGET, USAGE_KEPT)

    def default(self, kind: Kind) -> Limits:
        """What holds where nothing was set."""
        return self._defaults.get(kind, Limits())

    async def _books(
        self, connection: Connection, account: Account, *, but: str
    ) -> tuple[Books, dt.datetime]:
        ids = {each.kind: each.subject_id for each in account.subjects}
        return await self._read(connection, account.organization_id, ids, but=but)

    async def _read(
        self, connection: Connection, organization_id: str, ids: Mapping[Kind, str], *, but: str
    ) -> tuple[Books, dt.datetime]:
        kinds = [kind.value for kind in ids]
        rows = await connection.fetch(_BOOKS, organization_id, kinds, list(ids.values()), but)
        books = {
            (kind := Kind(row["kind"])): Book(
                limits=_limits(row) if row["is_set"] else self.default(kind),
                used=_amount(row, "used"),
                reserved=_amount(row, "reserved"),
            )
            for row in rows
        }
        return books, rows[0]["time"]


def _reservation(
    books: Books,
    limited: tuple[bool, bool, bool],
    until: dt.datetime,
    amount: Amount,
    *,
    now: dt.datetime,
) -> Reservation:
    return Reservation(
        amount=amount,
        limited=limited,
        streams=stream_limits(books),
        expire_time=until,
        reset_time=_reset(now),  # Of the day that it is: the lease may outlast it.
    )


def _columns(account: Account) -> tuple[list[str], list[str]]:
    return [each.kind.value for each in account.subjects], [each.subject_id for each in account.subjects]


def _account(row: asyncpg.Record) -> Account:
    return Account(
        organization_id=row["organization_id"], project_id=row["project_id"], api_key_id=row["api_key_id"]
    )


def _amount(row: asyncpg.Record, what: str) -> Amount:
    return Amount(row[f"{what}_token_count"], row[f"{what}_gpu_us"], row[f"{what}_batch_item_count"])


def _limits(row: asyncpg.Record) -> Limits:
    return Limits(
        requests_per_second=row["requests_per_second"],
        request_burst_count=row["request_burst_count"],
        tokens_per_day=row["tokens_per_day"],
        gpu_seconds_per_day=row["gpu_seconds_per_day"],
        concurrent_stream_count=row["concurrent_stream_count"],
        batch_items_per_day=row["batch_items_per_day"],
    )


def _day(now: dt.datetime) -> dt.date:
    return now.astimezone(dt.UTC).date()


def _reset(now: dt.datetime) -> dt.datetime:
    """When the day of `now` is over."""
    return dt.datetime.combine(_day(now) + dt.timedelta(days=1), dt.time(), dt.UTC)
