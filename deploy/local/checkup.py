"""What could be wrong with a stack that runs: memory, latency, the database, the clock. For `ollamesh doctor`.

Numbers are those of deploy/prometheus/rules, looked at once instead of for minutes: what is only a moment's may pass. Pure functions
judge, so that each can be shown to find what it is for.
"""

import asyncio
import ctypes
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import asyncpg
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.finding import Check, ill, well

WITHIN_S = 5.0
PART_BYTES_MAX = 2_000_000_000
# Model servers hold their models, and some are children of the inference service.
HOLDS_MODELS = frozenset({"runtime", "inference"})
WAIT_MAX_S = 30.0
LAG_MAX_S = 0.1
SLOW_MS, SLOW_CALLS_MIN = 500.0, 10
TRANSACTION_MAX_S = 300.0
CONNECTIONS_MAX_SHARE = 0.8
RUNBOOKS = "less deploy/runbooks"

_DATABASE = """
    SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connection_count,
           current_setting('max_connections')::int AS connection_count_max,
           (SELECT count(*) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0) AS blocked_count,
           coalesce((SELECT extract(epoch FROM max(now() - xact_start)) FROM pg_stat_activity
                     WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()), 0)::float AS transaction_s
"""
_SLOWEST = """
    SELECT left(regexp_replace(query, '\\s+', ' ', 'g'), 60) AS statement, mean_exec_time::float AS mean_ms
    FROM pg_stat_statements WHERE calls >= $1 ORDER BY mean_exec_time DESC LIMIT 1
"""


# Its own check says so, then.
_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """What PostgreSQL says of itself."""

    connection_count: int
    connection_count_max: int
    blocked_count: int
    transaction_s: float  # How old the oldest is.
    slowest: str = ""
    slowest_ms: float = 0.0


def memory(sizes: Mapping[str, int]) -> Check:
    """`sizes` in bytes, by part."""
    largest = max(sizes, key=lambda name: sizes[name], default="")
    for name, size in sizes.items():
        if size > PART_BYTES_MAX and name not in HOLDS_MODELS:
            return ill("part size", f"{name} holds {size / 1e9:.1f} GB", f"{RUNBOOKS}/memory.md")
    total = sum(sizes.values()) / 1e9
    return well("part size", f"{total:.1f} GB in all, the largest is {largest}")


def latency(samples: Mapping[str, Mapping[str, float]]) -> Iterator[Check]:
    """`samples` by service, then by name: what they measured, without labels."""
    wait_s = samples.get("inference", {}).get("ollamesh_queue_oldest_seconds", 0.0)
    if wait_s > WAIT_MAX_S:
        yield ill("queue", f"a request has waited {wait_s:.0f} s for a slot", f"{RUNBOOKS}/queue-overload.md")
    else:
        yield well("queue", f"the oldest request has waited {wait_s:.1f} s")
    for service, measured in samples.items():
        count = measured.get("ollamesh_event_loop_lag_seconds_count", 0.0)
        mean_s = measured.get("ollamesh_event_loop_lag_seconds_sum", 0.0) / count if count else 0.0
        if mean_s > LAG_MAX_S:
            yield ill(
                "loop",
                f"the event loop of {service} is {mean_s:.2f} s late, on average",
                f"{RUNBOOKS}/latency.md",
            )
        if measured.get("ollamesh_postgres_pool_waiting", 0.0) > 0:
            yield ill("pool", f"calls of {service} wait for a connection", f"{RUNBOOKS}/postgres-slow.md")


def database(seen: Database) -> Iterator[Check]:
    page = f"{RUNBOOKS}/postgres-slow.md"
    share = seen.connection_count / seen.connection_count_max
    if share > CONNECTIONS_MAX_SHARE:
        yield ill("connections", f"{share:.0%} of PostgreSQL's connections are taken", page)
    if seen.blocked_count:
        yield ill("locks", f"{seen.blocked_count} sessions wait for a lock that another holds", page)
    if seen.transaction_s > TRANSACTION_MAX_S:
        yield ill("transactions", f"one has been open for {seen.transaction_s / 60:.0f} minutes", page)
    if seen.slowest_ms > SLOW_MS:
        yield ill("statements", f"{seen.slowest_ms:.0f} ms on average: {seen.slowest}", page)
    yield well(
        "database",
        f"{seen.connection_count} of {seen.connection_count_max} connections, "
        f"the slowest statement takes {seen.slowest_ms:.0f} ms",
    )


def clock() -> Check:
    """Whether the kernel's clock is kept right. A container cannot mend it, so that nobody does is no fault of the stack."""
    unsynchronised = 5
    told = bytearray(256)  # A struct timex, which asks for nothing while it is all zero.
    state = ctypes.CDLL(None).adjtimex((ctypes.c_char * len(told)).from_buffer(told))
    return well("clock", "nobody keeps it right" if state == unsynchronised else "is kept right")


def ask(urls: Mapping[str, str]) -> Mapping[str, Mapping[str, float]]:
    """What services measure: sums over all labels. One that does not answer is left out: its own check says so."""
    return {name: found for name, url in urls.items() if (found := _scraped(url))}


def _scraped(url: str) -> Mapping[str, float]:
    try:
        with urllib.request.urlopen(url, timeout=WITHIN_S) as answer:  # noqa: S310 - An http URL of our own stack.
            text = answer.read().decode()
    except OSError:
        return {}
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def ask_database(dsn: str) -> Database | None:
    """None if it does not answer."""
    try:
        return asyncio.run(asyncio.wait_for(_asked(dsn), WITHIN_S))
    except _AWAY:
        return None


async def _asked(dsn: str) -> Database:
    connection = await asyncpg.connect(dsn)
    try:
        facts = await connection.fetchrow(_DATABASE)
        slowest: Sequence[asyncpg.Record] = await connection.fetch(_SLOWEST, SLOW_CALLS_MIN)
    finally:
        await connection.close()
    assert facts is not None
    if not slowest:
        return Database(**dict(facts))
    return Database(**dict(facts), slowest=slowest[0]["statement"], slowest_ms=slowest[0]["mean_ms"])
