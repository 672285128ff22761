"""The usage ledger in the real PostgreSQL: what is added, added up, kept and refused."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TypeAlias

import asyncpg
import pytest

from services.common.errors import StoreBusy
from services.common.postgres import Database
from services.inference.adapters.postgres_usage import PostgresUsage, charge
from services.inference.core.accounting import COUNT_MAX, SECONDS_MAX, Dimension, Line, Question
from services.inference.core.callers import Principal
from tests.fakes.usage_book import entry
from tests.stack import Database as Migrated

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TODAY = dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
DAY = dt.timedelta(days=1)
NOTHING = Line(
    project=None,
    user=None,
    model=None,
    day=None,
    request_count=0,
    prompt_token_count=0,
    output_token_count=0,
    gpu_s=0.0,
    queue_s=0.0,
    cached_count=0,
    joined_count=0,
    cancelled_count=0,
)
ANN = Principal(organization_id="org", project_id="one", user_id="user:ann")
BOB = Principal(organization_id="org", project_id="two", user_id="user:bob")
EVE = Principal(organization_id="other", project_id="one", user_id="user:eve")


@pytest.fixture
async def store(database: Migrated) -> AsyncIterator[Database]:
    async with Database.connect(database("inference"), connections_max=4) as connected:
        yield connected


@pytest.fixture
async def book(store: Database) -> PostgresUsage:
    return PostgresUsage(store)


@pytest.fixture
async def admin(database: Migrated) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database.admin_dsn)
    await connection.execute("SET search_path = inference")
    yield connection
    await connection.close()


def asks(
    *dimensions: Dimension, user: str | None = None, organization: str = "org", **more: dt.datetime
) -> Question:
    period = {"start": TODAY - 10 * DAY, "end": TODAY + 10 * DAY, **more}
    return Question(organization_id=organization, user_id=user, dimensions=dimensions, **period)


async def read(book: PostgresUsage, question: Question, *, lines_max: int = 100) -> list[Line]:
    return list(await book.read(question, lines_max=lines_max))


async def partitions(admin: Connection) -> list[str]:
    rows = await admin.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits "
        "WHERE inhparent = 'usage_entries'::regclass ORDER BY name"
    )
    return [row["name"] for row in rows]


def named(day: dt.datetime) -> str:
    return f"usage_entries_{day:%Y%m%d}"


async def test_what_is_written_is_added_up(book: PostgresUsage) -> None:
    await book.write(
        [
            entry(principal=ANN, prompt_token_count=10, output_token_count=5, gpu_s=1.5, queue_s=0.25),
            entry(principal=ANN, prompt_token_count=1, cached=True),
            entry(principal=BOB, output_token_count=7, joined=True, cancelled=True, queue_s=1.0),
            entry(principal=EVE, output_token_count=1000),
        ]
    )
    (total,) = await read(book, asks())
    assert total == replace(
        NOTHING,
        request_count=3,
        prompt_token_count=11,
        output_token_count=12,
        gpu_s=1.5,
        queue_s=1.25,
        cached_count=1,
        joined_count=1,
        cancelled_count=1,
    )
    (own,) = await read(book, asks(user="user:ann"))
    assert (own.request_count, own.output_token_count) == (2, 5)
    assert await read(book, asks(user="user:eve")) == [NOTHING], "of another organisation"


async def test_usage_is_told_apart_as_asked(book: PostgresUsage) -> None:
    yesterday = TODAY - DAY + dt.timedelta(hours=5)
    await book.write(
        [
            entry(principal=ANN, model="a", output_token_count=1, created_at=yesterday),
            entry(principal=ANN, model="b", output_token_count=2, created_at=TODAY),
            entry(
                principal=BOB,
                model="a",
                output_token_count=4,
                created_at=TODAY + DAY - dt.timedelta(microseconds=1),
            ),
        ]
    )

    async def told(*dimensions: Dimension) -> list[tuple[object, ...]]:
        lines = await read(book, asks(*dimensions))
        return [
            (
                *(value for value in (line.project, line.user, line.model, line.day) if value),
                line.output_token_count,
            )
            for line in lines
        ]

    assert await told(Dimension.MODEL) == [("a", 5), ("b", 2)]
    assert await told(Dimension.USER) == [("user:ann", 3), ("user:bob", 4)]
    assert await told(Dimension.PROJECT) == [("one", 3), ("two", 4)]
    assert await told(Dimension.DAY) == [(TODAY - DAY, 1), (TODAY, 6)]
    whole = await told(*Dimension)
    assert whole == [
        ("one", "user:ann", "a", TODAY - DAY, 1),
        ("one", "user:ann", "b", TODAY, 2),
        ("two", "user:bob", "a", TODAY, 4),
    ]
    assert len(await read(book, asks(*Dimension), lines_max=2)) == 2


async def test_a_period_has_its_start_and_not_its_end(book: PostgresUsage) -> None:
    await book.write([entry(principal=ANN, created_at=TODAY), entry(principal=ANN, created_at=TODAY + DAY)])
    (line,) = await read(book, asks(start=TODAY, end=TODAY + DAY))
    assert line.request_count == 1
    assert await read(book, asks(Dimension.DAY, start=TODAY - 2 * DAY, end=TODAY)) == []


async def test_an_entry_counts_once_however_often_it_is_written(book: PostgresUsage, store: Database) -> None:
    entries = [entry(principal=ANN, output_token_count=3) for _ in range(3)]
    await book.write(entries)
    await asyncio.gather(*(book.write([*entries, entry(principal=BOB)]) for _ in range(4)))
    async with store.connection(system=True) as connection:
        await charge(connection, entries[0], entries[0])
    (line,) = await read(book, asks(user="user:ann"))
    assert (line.request_count, line.output_token_count) == (3, 9)
    (line,) = await read(book, asks())
    assert line.request_count == 7


async def test_a_charge_is_part_of_its_transaction(book: PostgresUsage, store: Database) -> None:
    """What a batch job answers and what it costs are committed together or not at all."""
    charged = entry(principal=ANN, output_token_count=3)

    async def fails() -> None:
        async with store.transaction(system=True) as connection:
            await charge(connection, charged)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fails()
    assert await read(book, asks()) == [NOTHING]
    for _ in range(2):
        async with store.transaction(system=True) as connection:
            await charge(connection, charged)
    (line,) = await read(book, asks())
    assert line.request_count == 1


async def test_the_largest_of_everything_fits(book: PostgresUsage) -> None:
    huge = {"prompt_token_count": COUNT_MAX, "output_token_count": COUNT_MAX, "gpu_s": SECONDS_MAX}
    name = "é" * 512
    await book.write([entry(principal=ANN, model=name, stream_id=name, **huge) for _ in range(500)])
    (line,) = await read(book, asks(Dimension.MODEL))
    assert (line.model, line.output_token_count) == (name, 500 * COUNT_MAX)


async def test_days_are_made_ahead_once(book: PostgresUsage, admin: Connection) -> None:
    before = await partitions(admin)
    assert {named(TODAY + n * DAY) for n in range(-1, 8)} <= set(before), "the migration made a week"
    assert await book.keep(ahead_days=7, kept_days=400) in {(0, 0), (1, 0)}, "one more if midnight has passed"
    made, dropped = await book.keep(ahead_days=10, kept_days=400)
    assert (2 <= made <= 3, dropped) == (True, 0)
    assert named(TODAY + 10 * DAY) in await partitions(admin)


async def test_replicas_that_keep_at_once_do_not_quarrel(book: PostgresUsage, admin: Connection) -> None:
    kept = await asyncio.gather(*(book.keep(ahead_days=20, kept_days=400) for _ in range(4)))
    await book.keep(ahead_days=20, kept_days=400)  # The one that worked may have been the last.
    assert sum(made for made, _ in kept) in {13, 14}
    assert named(TODAY + 20 * DAY) in await partitions(admin)


async def test_nothing_is_refused_for_want_of_a_day(book: PostgresUsage, admin: Connection) -> None:
    """A row of a day that nobody made is kept, is counted, and moves when the day is made."""
    late = TODAY + 9 * DAY + dt.timedelta(hours=3)
    await book.write([entry(principal=ANN, created_at=late), entry(principal=ANN, created_at=TODAY)])
    assert await admin.fetchval("SELECT count(*) FROM usage_entries_default") == 1
    await book.keep(ahead_days=10, kept_days=400)
    assert await admin.fetchval("SELECT count(*) FROM usage_entries_default") == 0
    assert await admin.fetchval(f"SELECT count(*) FROM {named(late)}") == 1
    (line,) = await read(book, asks())
    assert line.request_count == 2


async def test_days_long_past_go(book: PostgresUsage, admin: Connection) -> None:
    old, older = TODAY - 10 * DAY, TODAY - 11 * DAY
    for day in (old, older):
        await admin.execute(
            f"CREATE TABLE {named(day)} PARTITION OF usage_entries "
            f"FOR VALUES FROM ('{day.isoformat()}') TO ('{(day + DAY).isoformat()}')"
        )
    oldest = entry(principal=ANN, created_at=TODAY - 20 * DAY)  # It was never given a day.
    await book.write([entry(principal=ANN, created_at=old), entry(principal=ANN, created_at=older), oldest])
    assert (await book.keep(ahead_days=7, kept_days=10))[1] == 1
    left = await partitions(admin)
    assert named(old) in left
    assert named(older) not in left
    assert await admin.fetchval("SELECT count(*) FROM usage_entries") == 1


async def test_whoever_reads_for_long_is_not_waited_for(
    book: PostgresUsage, admin: Connection, store: Database
) -> None:
    """Days are made later, and meanwhile nobody who writes waits behind the one who makes them."""
    async with admin.transaction():
        await admin.execute("LOCK TABLE usage_entries_default IN ACCESS SHARE MODE")
        with pytest.raises(StoreBusy):
            await book.keep(ahead_days=12, kept_days=400)
    assert (await book.keep(ahead_days=12, kept_days=400))[0] >= 4


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE usage_entries SET output_token_count = 0",
        "DELETE FROM usage_entries",
        "TRUNCATE usage_entries",
        "DROP TABLE usage_entries_default",
        f"SELECT * FROM {named(TODAY)}",
        f"INSERT INTO {named(TODAY)} SELECT * FROM usage_entries",
        "DELETE FROM usage_entries_default",
        "CREATE TABLE mine PARTITION OF usage_entries FOR VALUES FROM ('2000-01-01') TO ('2000-01-02')",
    ],
)
async def test_the_service_can_only_add(store: Database, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with store.connection() as connection:
            await connection.execute(statement)


@pytest.mark.parametrize(("ahead_days", "kept_days"), [(0, 400), (32, 400), (7, 6), (7, 3661), (None, 400)])
async def test_what_keeps_days_does_nothing_else(
    store: Database, admin: Connection, ahead_days: int | None, kept_days: int
) -> None:
    """However it is called: it neither fills the disk with partitions nor drops what is young."""
    before = await partitions(admin)
    with pytest.raises(asyncpg.PostgresError):
        async with store.connection() as connection:
            await connection.execute("SELECT keep_usage_partitions($1, $2)", ahead_days, kept_days)
    assert await partitions(admin) == before


async def test_only_this_service_keeps_days(database: Migrated) -> None:
    for service in ("auth", "agent"):
        connection = await asyncpg.connect(database.system(service))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT inference.keep_usage_partitions(7, 400)")
        await connection.close()


async def test_statements_are_counted_and_their_texts_are_the_admins(
    book: PostgresUsage, admin: Connection, database: Migrated, store: Database
) -> None:
    await book.write([entry(principal=ANN)])
    row = await admin.fetchrow(
        "SELECT calls, query FROM public.pg_stat_statements JOIN pg_database ON oid = dbid "
        "WHERE datname = $1 AND query LIKE '%INSERT INTO usage_entries (%'",
        database.name,
    )
    assert row is not None
    assert row["calls"] >= 1
    assert "user:ann" not in row["query"], "only shapes are kept, not values"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with store.connection() as connection:
            await connection.fetch("SELECT query FROM public.pg_stat_statements")
