"""That every query about batches finds its rows by an index, whatever there is beside them.

In the tables: 400,000 items to be done in 40 batches of 8 organisations, 400,000 results in 2,000 batches that have
ended, 2,000 uploaded files. PostgreSQL is asked how it would read them, for these arguments and for any.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.inference.adapters import postgres_batch_items as items
from services.inference.adapters import postgres_batches as batches
from services.inference.adapters import postgres_files as files
from services.inference.batches.worker import SEIZED_AT_ONCE
from tests.stack import Database, run

_ID = "lpad(to_hex({}), 32, '0')::uuid"
_FILL = f"""
    SET search_path = inference;
    SET session_replication_role = replica;  -- Foreign keys need no check here.
    INSERT INTO batches (batch_id, organization_id, project_id, user_id, roles, display_name, state, item_count,
                         succeeded_count, end_time, due_time, expire_time, create_time)
        SELECT {_ID.format("n")}, 'org-' || n % 8, 'project', 'user-' || n % 80, '{{user}}', '',
            CASE WHEN n <= 40 THEN 'RUNNING' ELSE 'DONE' END,
            CASE WHEN n <= 40 THEN 10000 ELSE 200 END, CASE WHEN n <= 40 THEN 0 ELSE 200 END,
            CASE WHEN n <= 40 THEN NULL ELSE now() END, now() + interval '1 day', now() + interval '7 days',
            now() - n * interval '1 minute'
        FROM generate_series(1, 2040) n;
    INSERT INTO batch_items (batch_id, item_index, request, take_count, attempt_count, due_time)
        SELECT {_ID.format("batch")}, place, 'request', CASE WHEN place < 2 THEN 1 ELSE 0 END,
            CASE WHEN place < 2 THEN 1 ELSE 0 END,
            now() + CASE WHEN place < 2 THEN interval '30 seconds' ELSE interval '0' END
        FROM generate_series(1, 40) batch, generate_series(0, 9999) place;
    INSERT INTO batch_results (batch_id, sequence, item_index, succeeded, payload)
        SELECT {_ID.format("batch")}, place, place - 1, place % 10 > 0, 'payload'
        FROM generate_series(41, 2040) batch, generate_series(1, 200) place;
    INSERT INTO batch_requests
        SELECT 'org-' || n % 8, 'user-' || n % 80, 'request-' || n, 'hash', {_ID.format("n")},
            now() - n * interval '1 second'
        FROM generate_series(1, 20000) n;
    INSERT INTO files (file_id, organization_id, user_id, filename, size_bytes, expire_time)
        SELECT {_ID.format("n")}, 'org-' || n % 8, 'user-' || n % 80, 'name', 100, now() + n * interval '1 minute'
        FROM generate_series(1, 2000) n;
    INSERT INTO file_parts
        SELECT {_ID.format("n")}, place, 'content' FROM generate_series(1, 2000) n, generate_series(0, 3) place;
    ANALYZE;
"""
# What must not be read from end to end.
LARGE = {"batch_items", "batch_results", "batch_requests", "batches", "files", "file_parts"}
OWNER = ("org-7", "user-7")
OPEN_BATCH, DONE_BATCH = UUID(int=7), UUID(int=87)
HELD = ([OPEN_BATCH] * 2, [0, 1], [1, 1])
QUERIES: dict[str, tuple[str, Sequence[object]]] = {
    "open": (items.OPEN, ([],)),
    "take": (items.TAKE, (30.0, OPEN_BATCH, 4)),
    "take suspect": (items.TAKE_SUSPECT, (30.0,)),
    "seize": (items.SEIZE, (30.0, SEIZED_AT_ONCE)),
    "look": (items.LOOK, HELD),
    "renew": (items.RENEW, (*HELD, 30.0)),
    "put back": (items.PUT_BACK, (*HELD, [1.0, 1.0], [True, False])),
    "lock": (items.LOCK, (OPEN_BATCH,)),
    "finish": (items.FINISH, (OPEN_BATCH, 0, [0, 1], [1, 1], [True, False], [b"a", b"b"])),
    **{
        f"sweep {name}": (statement, (items.SWEPT_AT_ONCE,) if "$1" in statement else ())
        for name, statement in items.SWEEPS.items()
    },
    "claim": (batches.CLAIM, (*OWNER, "request-7", b"hash", OPEN_BATCH)),
    "remembered": (batches.REMEMBERED, (*OWNER, "request-7")),
    "count open": (batches.COUNT_OPEN, ("org-7",)),
    "find": (batches.FIND, (DONE_BATCH, *OWNER)),
    "page": (batches.PAGE, (*OWNER, 2**63 - 1, 21, False)),
    "cancel": (batches.CANCEL, (OPEN_BATCH, *OWNER)),
    "results": (batches.RESULTS, (DONE_BATCH, *OWNER, 100, 64, None)),
    "results of one kind": (batches.RESULTS, (DONE_BATCH, *OWNER, 100, 64, False)),
    "find file": (files.FIND, (UUID(int=7), *OWNER)),
    "page of files": (files.PAGE, (*OWNER, 2**63 - 1, 101)),
    "part of a file": (files.PART, (UUID(int=7), 1)),
    "delete file": (files.DELETE, (UUID(int=7), *OWNER)),
}


async def _fill(database: Database) -> None:
    connection = await asyncpg.connect(database.admin_dsn)
    await connection.execute(_FILL, timeout=90)
    await connection.close()


@pytest.fixture(scope="module")
def filled(module_database: Database) -> Database:
    run(_fill(module_database))
    return module_database


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", QUERIES)
async def test_it_is_read_by_an_index(filled: Database, name: str, mode: str) -> None:
    statement, arguments = QUERIES[name]
    connection = await asyncpg.connect(
        filled("inference"), server_settings={"ollamesh.organization": "org-7"}
    )
    try:
        await connection.execute(f"SET plan_cache_mode = {mode}")
        found = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *arguments)
    finally:
        await connection.close()
    (plan,) = json.loads(found)
    read = [node["Relation Name"] for node in nodes(plan["Plan"]) if node["Node Type"] == "Seq Scan"]
    whole = [node["Index Name"] for node in nodes(plan["Plan"]) if is_whole(node)]
    assert not LARGE.intersection(read), json.dumps(plan, indent=1)
    assert not whole, json.dumps(plan, indent=1)


def is_whole(node: dict[str, Any]) -> bool:
    """Whether all of a large index is read."""
    small = {"batch_items_begun"}  # What is at work.
    return (
        node["Node Type"] in {"Index Scan", "Index Only Scan"}
        and node["Relation Name"] in {"batch_items", "batch_results"}
        and "Index Cond" not in node
        and node["Index Name"] not in small
    )
