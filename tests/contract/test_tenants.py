"""The second wall: SQL that forgets to ask whose rows it reads still sees and writes one organisation's only.

Every table of every service is looked at: it is either walled, or listed here with the reason why it need not be.
"""

import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest

from services.common.postgres import Database as Pool
from tests.stack import Database, run

# Tables without a tenant. The audit trail is one chain, whoever's events are in it, and is appended to by COPY, which
# knows no row-level security. Codes, mandates and refresh tokens are found by the digest of a secret, before a tenant is known.
OPEN = {
    "auth": {
        *("signing_keys", "key_rotations", "revocations"),
        *("audit_events", "audit_heads", "audit_keys"),
        *("refresh_families", "authorization_codes", "device_codes", "mandates"),
    },
    "agent": set[str](),
    "inference": set[str](),
}
MINE, THEIRS = "mine", "theirs"
_ID = {
    MINE: "'00000000-0000-0000-0000-00000000000a'::uuid",
    THEIRS: "'00000000-0000-0000-0000-00000000000b'::uuid",
}
_HASH = "decode(repeat('00', 32), 'hex')"
# A row of each table, for the organisation {o}, whose id of anything is {id} or '{o}'.
ROWS = {
    "auth": {
        "organizations": "VALUES ('{o}', 'name')",
        "projects": "VALUES ('{o}', 'default', 'name')",
        "users": "VALUES ('user\\:{o}', '{o}', 'default', '{o}', '$argon2id$', 'user')",
        "service_accounts": f"VALUES ('{{o}}', '{{o}}', 'default', {_HASH}, 'user')",
        "oauth_clients": "(client_id, organization_id, display_name, grants, scopes)"
        " VALUES ('{o}', '{o}', 'name', '{{device_code}}', '{{auth}}')",
        "requests": "VALUES ('{o}', 'user', 'request', 'digest', 'object')",
        "api_keys": f"(api_key_id, organization_id, project_id, user_id, display_name, prefix, digest, role, scopes,"
        f" expire_time) VALUES (rpad('{{o}}', 12, 'x'), '{{o}}', 'default', 'user', 'name',"
        f" 'omk_live_' || rpad('{{o}}', 12, 'x'), {_HASH}, 'user', '{{{{auth}}}}', now() + interval '1 day')",
        "secrets": "VALUES ('{o}', 'name', 1, '{{agent}}', '\\x00')",
        "quotas": "(organization_id, kind, subject_id) VALUES ('{o}', 'project', 'default')",
        "quota_usage": "VALUES ('{o}', 'project', 'default', now(), 1, 1, 1)",
        "quota_reservations": "VALUES ('{o}', '{o}', 'default', '', now(), 1, 1, 1, 0, 0, 0, now())",
    },
    "agent": {
        "threads": "(thread_id, organization_id, user_id, payload) VALUES ({id}, '{o}', 'user', '')",
        "messages": "(thread_id, position, run_id, payload) VALUES ({id}, 1, {id}, '')",
        "runs": "(run_id, thread_id, input, config, holder, lease_until) VALUES ({id}, {id}, '', '', {id}, now())",
        "run_events": "VALUES ({id}, 1, '')",
        "requests": "VALUES ('{o}', 'user', 'request', '', {id})",
        "assistants": "(assistant_id, organization_id, user_id, display_name) VALUES ({id}, '{o}', 'user', '')",
        "assistant_versions": "VALUES ({id}, 1, {id}, '')",
        "approvals": "VALUES ({id}, {id}, 'c', 'APPROVED', 'user', '', '')",
        "tool_claims": "VALUES ({id}, 'c')",
        "checkpoints": "VALUES ('{o}', '{o}', '', 'c', NULL, '{{}}', '{{}}', '', '{{}}')",
        "checkpoint_blobs": "VALUES ('{o}', '{o}', '', 'c', '1', 'msgpack', '')",
        "checkpoint_writes": "VALUES ('{o}', '{o}', '', 'c', 't', 0, '', 'c', 'msgpack', '')",
        "thread_sessions": "VALUES ({id}, 'target', 's')",
        "thread_summaries": "VALUES ({id}, 1, '')",
    },
    "inference": {
        "usage_entries": "VALUES ({id}, now(), '', '{o}', 'default', 'user', 'm', 'chat', 1, 1, 1, 1, false, false,"
        " false)",
        "batches": "(batch_id, organization_id, project_id, user_id, roles, display_name, item_count, due_time,"
        " expire_time) VALUES ({id}, '{o}', 'default', 'user', '{{}}', '', 1, now(), now())",
        "batch_items": "(batch_id, item_index, request) VALUES ({id}, 0, '')",
        "batch_results": "VALUES ({id}, 1, 0, true, '')",
        "batch_requests": "VALUES ('{o}', 'user', 'request', '', {id})",
        "files": "(file_id, organization_id, user_id, filename, size_bytes, expire_time) VALUES ({id}, '{o}', 'user',"
        " '', 1, now())",
        "file_parts": "VALUES ({id}, 0, '')",
    },
}
WALLED = [(service, table) for service, tables in ROWS.items() for table in tables]
APPEND_ONLY = {"usage_entries"}


def row(service: str, table: str, organization: str) -> str:
    values = ROWS[service][table].format(o=organization, id=_ID[organization])
    return f"INSERT INTO {table} {values}".replace("\\:", ":")


async def _fill(database: Database) -> None:
    for service, tables in ROWS.items():
        connection = await asyncpg.connect(database.system(service))
        for organization in (MINE, THEIRS):
            for table in tables:
                await connection.execute(row(service, table, organization))
        await connection.close()


@pytest.fixture(scope="module")
def filled(module_database: Database) -> Database:
    """A row of each organisation in each table."""
    run(_fill(module_database))
    return module_database


@contextlib.asynccontextmanager
async def pool(database: Database, service: str) -> AsyncIterator[Pool]:
    async with Pool.connect(database(service), connections_max=1) as connected:
        yield connected


class _Undone(Exception):
    """Ends a transaction whose work must not stay."""


async def test_every_table_is_walled_or_need_not_be(filled: Database) -> None:
    for service, tables in ROWS.items():
        connection = await asyncpg.connect(filled.system(service))
        found = await connection.fetch(
            "SELECT relname, relrowsecurity FROM pg_class WHERE relnamespace = $1::regnamespace"
            " AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'alembic_version'",
            service,
        )
        await connection.close()
        walled = {one["relname"] for one in found if one["relrowsecurity"]}
        assert walled == set(tables)
        assert {one["relname"] for one in found} - walled == OPEN[service]


@pytest.mark.parametrize(("service", "table"), WALLED)
async def test_a_query_that_forgets_whose_rows_it_wants_sees_ones_own(
    filled: Database, service: str, table: str
) -> None:
    async with pool(filled, service) as store:
        for organization in (MINE, THEIRS):
            async with store.connection(organization_id=organization) as connection:
                (seen,) = await connection.fetch(f"SELECT {table}::text AS row FROM {table}")
                assert organization in seen["row"] or _ID[organization].split("'")[1] in seen["row"]
        async with store.connection(system=True) as connection:
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 2


@pytest.mark.parametrize(("service", "table"), WALLED)
async def test_who_does_not_say_whose_rows_sees_none(filled: Database, service: str, table: str) -> None:
    async with pool(filled, service) as store:
        async with store.connection(system=True) as connection:
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 2
        async with store.connection() as connection:  # The same one: what was said has ended.
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
        async with store.connection(organization_id="") as connection:
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0


@pytest.mark.parametrize(("service", "table"), [each for each in WALLED if each[1] not in APPEND_ONLY])
async def test_what_belongs_to_another_cannot_be_deleted(filled: Database, service: str, table: str) -> None:
    name = _ID[THEIRS].split("'")[1]
    theirs = f"{table}::text LIKE '%{THEIRS}%' OR {table}::text LIKE '%{name}%'"
    async with pool(filled, service) as store:
        async with store.connection(organization_id=MINE) as connection:
            assert await connection.execute(f"DELETE FROM {table} WHERE {theirs}") == "DELETE 0"
        async with store.connection(system=True) as connection:
            assert await connection.fetchval(f"SELECT count(*) FROM {table} WHERE {theirs}") == 1


@pytest.mark.parametrize(("service", "table"), WALLED)
async def test_nothing_can_be_made_that_belongs_to_another(
    filled: Database, service: str, table: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with pool(filled, service) as store, store.connection(organization_id=MINE) as connection:
            await connection.execute(row(service, table, THEIRS))


@pytest.mark.parametrize("organization", ["' OR true --", "mine' OR '1'='1", "\\", "mine\0"])
async def test_an_organisations_name_is_a_value_and_nothing_else(filled: Database, organization: str) -> None:
    async with pool(filled, "auth") as store:
        try:
            async with store.connection(organization_id=organization) as connection:
                assert await connection.fetchval("SELECT count(*) FROM users") == 0
        except asyncpg.CharacterNotInRepertoireError:
            assert "\0" in organization


async def test_the_wall_stays_when_work_fails(filled: Database) -> None:
    async with pool(filled, "auth") as store:
        with contextlib.suppress(_Undone):
            async with store.transaction(system=True):
                raise _Undone
        async with store.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM users") == 0
