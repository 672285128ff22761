"""That every hot query finds its rows by the index that was made for it, in tables of the size they will have.

PostgreSQL chooses by what it knows of a table, so tables are filled and analysed, and then it is asked how it would
read them: for these arguments, as for the first calls of a connection, and for any, as may be later. The usage ledger
has a million rows in 25 days, of 200 organisations and 2,000 users. The others have fewer: their queries find single
rows or a page by a key, and the choice is the same from some thousands on.
"""

import datetime as dt
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

import asyncpg
import pytest

from services.agent.adapters import (
    postgres_assistants,
    postgres_events,
    postgres_leases,
    postgres_requests,
    postgres_runs,
    postgres_threads,
)
from services.auth.adapters import postgres as auth
from services.auth.adapters import postgres_people
from services.common.postgres import Database as Pool
from services.inference.adapters import postgres_usage
from services.inference.core.accounting import Dimension, Question
from tests.stack import Database, run

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

ROW_COUNT = 1_000_000
DAY = dt.timedelta(days=1)
TODAY = dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
DAY_COUNT = 25
START = TODAY - (DAY_COUNT - 1) * DAY

# A day is filled before it is attached, so that its indexes are built once. Nobody will miss it after a crash.
_LEDGER = """
    CREATE UNLOGGED TABLE {part} (LIKE usage_entries);
    INSERT INTO {part}
    SELECT lpad(to_hex({number} * {row_count} + n), 32, '0')::uuid, '{low}'::timestamptz + n * interval '2 seconds',
        'stream', 'org-' || n % 200, 'project-' || n % 1000, 'user-' || n % 2000, 'model-' || n % 7, 'chat',
        100, 100, 1.0, 0.5, false, false, false
    FROM generate_series(1, {row_count}) n;
    ALTER TABLE usage_entries ATTACH PARTITION {part} FOR VALUES FROM ('{low}') TO ('{high}');
"""
# Of 1,000 people, 30 threads of two runs each, most of them ended; what belongs together has numbers that tell.
_ID = "lpad(to_hex({}), 32, '0')::uuid"
_AGENT = f"""
    SET session_replication_role = replica;  -- Foreign keys need no check here.
    INSERT INTO threads (thread_id, organization_id, user_id, payload)
        SELECT {_ID.format("n")}, 'org-' || n % 10, 'user-' || n % 1000, 'payload' FROM generate_series(1, 30000) n;
    INSERT INTO messages (thread_id, position, run_id, payload)
        SELECT {_ID.format("n")}, place, {_ID.format("n")}, 'payload'
        FROM generate_series(1, 30000) n, generate_series(1, 3) place;
    INSERT INTO runs (run_id, thread_id, input, config, status, outcome, holder, lease_until, end_time)
        SELECT {_ID.format("n")}, {_ID.format("n / 2 + 1")}, 'input', 'config',
            CASE WHEN n % 1000 = 0 THEN 'PENDING' ELSE 'SUCCEEDED' END,
            CASE WHEN n % 1000 = 0 THEN NULL ELSE 'outcome'::bytea END, {_ID.format("n % 3")},
            now() + interval '10 seconds', CASE WHEN n % 1000 = 0 THEN NULL ELSE now() END
        FROM generate_series(1, 60000) n;
    INSERT INTO assistants (assistant_id, organization_id, user_id, display_name)
        SELECT {_ID.format("n")}, 'org-' || n % 10, 'user-' || n % 1000, 'name' FROM generate_series(1, 20000) n;
    INSERT INTO assistant_versions (assistant_id, version, version_id, config)
        SELECT {_ID.format("n")}, 1, {_ID.format("n")}, 'config' FROM generate_series(1, 20000) n;
    INSERT INTO run_events
        SELECT {_ID.format("n")}, sequence, 'payload'
        FROM generate_series(1, 60000) n, generate_series(1, 2) sequence;
    INSERT INTO requests
        SELECT 'org-' || n % 10, 'user-' || n % 1000, 'request-' || n, 'hash', {_ID.format("n")},
            now() - n * interval '1 second'
        FROM generate_series(1, 30000) n;
    SET session_replication_role = DEFAULT;
"""
_AUTH = """
    INSERT INTO organizations SELECT 'org-' || n, 'name' FROM generate_series(0, 9) n;
    INSERT INTO projects SELECT 'org-' || n, 'one', 'name' FROM generate_series(0, 9) n;
    INSERT INTO users
        SELECT 'user:' || n, 'org-' || n % 10, 'one', 'name-' || n, '$argon2id$', 'user'
        FROM generate_series(1, 20000) n;
    INSERT INTO service_accounts
        SELECT 'client-' || n, 'org-' || n % 10, 'one', decode(repeat('00', 32), 'hex'), 'user'
        FROM generate_series(1, 20000) n;
"""


async def _fill(database: Database) -> None:
    connection = await asyncpg.connect(database.admin_dsn)
    # A sample of 3,000 rows of each table tells as much here as the usual 30,000.
    await connection.execute("SET maintenance_work_mem = '64MB'; SET default_statistics_target = 10")
    await connection.execute("SET search_path = inference")
    for number in range(DAY_COUNT):
        low = START + number * DAY
        part = f"usage_entries_{low:%Y%m%d}"
        await connection.execute(f"DROP TABLE IF EXISTS {part}")
        high, row_count = low + DAY, ROW_COUNT // DAY_COUNT
        await connection.execute(
            _LEDGER.format(part=part, number=number, low=low, high=high, row_count=row_count)
        )
    await connection.execute(f"SET search_path = agent; {_AGENT}")
    await connection.execute(f"SET search_path = auth; {_AUTH}")
    await connection.execute("ANALYZE")
    await connection.close()


@pytest.fixture(scope="module")
def filled(module_database: Database) -> Database:
    run(_fill(module_database))
    return module_database


@dataclass(frozen=True, slots=True)
class Hot:
    """A query, its arguments, and the index that each large table is to be read by."""

    name: str
    service: str
    statement: str
    arguments: Sequence[object]
    indexes: frozenset[str]  # Patterns of how their names end.

    def __str__(self) -> str:
        return self.name


def agent(name: str, statement: str, arguments: Sequence[object], *indexes: str) -> Hot:
    return Hot(name, "agent", statement, arguments, frozenset(indexes))


def usage(name: str, *dimensions: Dimension, user: str | None, index: str) -> Hot:
    question = Question(
        organization_id="org-7", user_id=user, start=START, end=TODAY + DAY, dimensions=dimensions
    )
    statement, arguments = postgres_usage.reading(question, lines_max=100)
    return Hot(name, "inference", statement, arguments, frozenset({index}))


OWNER = ("org-7", "user-7")
THREAD, RUN, HOLDER = UUID(int=7), UUID(int=1000), UUID(int=1)
LEASE = [RUN, HOLDER, 0]
# Runs that have not ended are few, as many as replicas may have; an index that has no others will do as well.
UNFINISHED = "(runs_pkey|runs_of_thread|runs_one_works_on_a_thread|runs_to_take)"
TO_TAKE = "runs_to_take"
HOT = [
    usage("own total", user="user-7", index="user_id_created_at_idx"),
    usage(
        "own by day and model", Dimension.DAY, Dimension.MODEL, user="user-7", index="user_id_created_at_idx"
    ),
    usage("organisation total", user=None, index="organization_id_created_at_idx"),
    usage("organisation by everything", *Dimension, user=None, index="organization_id_created_at_idx"),
    agent("threads", postgres_threads.PAGE, [*OWNER, None, 20], "threads_of_owner", "runs_of_thread"),
    agent("thread", postgres_threads.FIND, [*OWNER, THREAD], "threads_pkey", "runs_of_thread"),
    agent("owned", postgres_threads.OWNED, [*OWNER, THREAD], "threads_pkey"),
    agent("messages", postgres_threads.MESSAGES, [THREAD, None, 20], "messages_pkey"),
    agent("forget thread", postgres_threads.DELETE, [*OWNER, THREAD], "threads_pkey"),
    agent("runs", postgres_runs.PAGE, [THREAD, None, 20], "runs_of_thread"),
    agent("run", postgres_runs.FIND, [*OWNER, RUN], "runs_pkey", "threads_pkey"),
    agent("unfinished", postgres_runs.UNFINISHED, [*OWNER, THREAD], "threads_pkey", UNFINISHED),
    agent("begin", postgres_leases.BEGIN, LEASE, UNFINISHED),
    agent("held", postgres_leases.HELD, LEASE, UNFINISHED),
    agent("history", postgres_leases.HISTORY, [RUN, 20], "runs_pkey", "messages_pkey"),
    agent("renew leases", postgres_leases.KEEP, [[RUN], [0], HOLDER, 10.0], UNFINISHED),
    agent(
        "expired leases",
        postgres_leases.ADOPT,
        [HOLDER, 10.0, 100, False],
        TO_TAKE,
        "runs_pkey",
        "threads_pkey",
    ),
    agent(
        "expired urgent leases",
        postgres_leases.ADOPT_URGENT,
        [HOLDER, 10.0, 100, False],
        TO_TAKE,
        "runs_pkey",
        "threads_pkey",
    ),
    agent("take", postgres_leases.TAKE, [HOLDER, 10.0, RUN], UNFINISHED, "threads_pkey"),
    agent("wake", postgres_leases.WAKE, [RUN], UNFINISHED),
    agent("give back", postgres_leases.GIVE_BACK, LEASE, UNFINISHED),
    agent("request cancel", postgres_runs.REQUEST_CANCEL, [RUN, False], UNFINISHED),
    agent("displace", postgres_runs.DISPLACE, [THREAD, False], UNFINISHED),
    agent("watched", postgres_runs.WATCHED, [[RUN], 10.0], UNFINISHED),
    agent("lock later", postgres_runs.LOCK_LATER, [RUN], "runs_pkey", f"(runs_of_thread|{UNFINISHED})"),
    agent("built upon", postgres_runs.BUILT_UPON, [RUN], "runs_pkey", "runs_of_thread", "messages_pkey"),
    agent(
        "room",
        postgres_runs.ROOM,
        [*OWNER, False, 64, THREAD, 999],
        UNFINISHED,
        "(threads_pkey|threads_of_owner)",
        "runs_of_thread",
    ),
    agent("room for threads", postgres_threads.IS_FULL, [*OWNER, 9_999], "threads_of_owner"),
    agent("assistants", postgres_assistants.PAGE, [*OWNER, None, 20], "assistants_of_owner"),
    agent("assistant", postgres_assistants.FIND, [*OWNER, THREAD, 0], "assistants_pkey"),
    agent("batch of runs", postgres_runs.BATCH, [*OWNER, RUN], "runs_of_batch", "threads_pkey"),
    agent("events", postgres_events.READ, [RUN, 0, 128], "runs_pkey", "run_events_pkey"),
    agent("told", postgres_events.TOLD, [RUN], "run_events_pkey"),
    agent("tell", postgres_events.TELL, [*LEASE, 0, [b"event"], b"usage"], UNFINISHED),
    agent(
        "say",
        postgres_events.SAY,
        [*LEASE, 0, [b"event"], b"usage", [b"message"], "SUCCEEDED", b"outcome"],
        UNFINISHED,
        "threads_pkey",
    ),
    agent("told already", postgres_events.ALREADY, [*LEASE, 4], "runs_pkey"),
    agent("remembered request", postgres_requests.REMEMBERED, [*OWNER, "request-7"], "requests_pkey"),
    Hot("login", "auth", auth._FIND_USER, ["name-7"], frozenset({"users_username_key"})),
    Hot("users", "auth", postgres_people.PAGE, ["org-7", "", 20], frozenset({"users_of_organization"})),
    Hot("user", "auth", postgres_people.FIND, ["org-7", "user:7"], frozenset({"users_pkey"})),
    Hot("grant", "auth", auth._FIND_SERVICE_ACCOUNT, ["client-7"], frozenset({"service_accounts_pkey"})),
]


def nodes(plan: dict[str, object]) -> Iterator[dict[str, object]]:
    yield plan
    children = plan.get("Plans", [])
    assert isinstance(children, list)
    for child in children:
        yield from nodes(child)


def literal(value: object) -> str:
    match value:
        case None:
            return "NULL"
        case int() | float():
            return str(value)
        case bytes():
            return f"'\\x{value.hex()}'::bytea"
        case UUID():
            return f"'{value}'::uuid"
        case list():
            return f"ARRAY[{', '.join(map(literal, value))}]"
        case _:
            return f"'{value}'"


async def explained(connection: Connection, hot: Hot, mode: str) -> list[dict[str, object]]:
    arguments = ", ".join(map(literal, hot.arguments))
    await connection.execute(f"SET plan_cache_mode = {mode}; DEALLOCATE ALL; PREPARE hot AS {hot.statement}")
    text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE hot({arguments})")
    return list(nodes(json.loads(text)[0]["Plan"]))


@pytest.mark.parametrize("hot", HOT, ids=str)
async def test_every_hot_query_uses_its_index(filled: Database, hot: Hot) -> None:
    """As it is planned for its arguments."""
    await assert_by_index(filled, hot, "force_custom_plan")


@pytest.mark.parametrize("hot", [hot for hot in HOT if hot.service != "inference"], ids=str)
async def test_so_it_does_when_the_plan_is_for_any_arguments(filled: Database, hot: Hot) -> None:
    """Which PostgreSQL may come to prefer. The ledger's reader does not let it."""
    await assert_by_index(filled, hot, "force_generic_plan")


async def assert_by_index(filled: Database, hot: Hot, mode: str) -> None:
    connection = await asyncpg.connect(
        filled(hot.service), server_settings={"ollamesh.organization": "org-7"}
    )
    rows = await connection.fetch("SELECT relname, reltuples FROM pg_class")
    plan = await explained(connection, hot, mode)
    await connection.close()
    sizes = {row["relname"]: row["reltuples"] for row in rows}
    read_whole = {str(node["Relation Name"]) for node in plan if node["Node Type"] == "Seq Scan"}
    assert not [name for name in read_whole if sizes[name] > 0]
    used = {str(node["Index Name"]) for node in plan if "Index Name" in node}
    for index in hot.indexes:
        assert any(re.search(f"{index}$", name) for name in used), (index, used)


async def test_a_batch_is_checked_by_its_key_and_reads_nothing(filled: Database) -> None:
    connection = await asyncpg.connect(filled("inference"))
    arguments = (
        "ARRAY[gen_random_uuid()], ARRAY[now()], " + "'{a}', " * 6 + "'{1}', " * 4 + "'{f}', '{f}', '{f}'"
    )
    await connection.execute(f"PREPARE hot AS {postgres_usage.WRITE}")
    text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE hot({arguments})")
    await connection.close()
    plan = list(nodes(json.loads(text)[0]["Plan"]))
    assert plan[0]["Conflict Arbiter Indexes"] == ["usage_entries_pkey"]
    assert {node["Node Type"] for node in plan} == {"ModifyTable", "Function Scan"}


async def test_a_month_of_one_organisation_is_added_up_in_time(filled: Database) -> None:
    """Of a million rows, 5,000 are theirs. Far from the 5 s that a statement may take."""
    async with Pool.connect(filled("inference"), connections_max=1) as connected:
        question = Question(
            organization_id="org-7", user_id=None, start=START, end=TODAY + DAY, dimensions=tuple(Dimension)
        )
        lines = await postgres_usage.PostgresUsage(connected).read(question, lines_max=10_000)
    assert sum(line.request_count for line in lines) == ROW_COUNT // 200
