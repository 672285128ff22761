"""Secrets in PostgreSQL, sealed by whoever brings them."""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import asyncpg

from services.auth.adapters.postgres_requests import claim, remembered
from services.auth.core.people import Actor, Asked
from services.auth.people_ports import Page, PageRequest
from services.common.postgres import Database

_COLUMNS = "organization_id, name, version, readers, sealed_value, create_time, update_time"
_FIND = f"SELECT {_COLUMNS} FROM secrets WHERE organization_id = $1 AND name = $2"  # noqa: S608 - Ours.
_PAGE = f"""
    SELECT {_COLUMNS} FROM secrets WHERE organization_id = $1 AND name > $2 ORDER BY name LIMIT $3
"""  # noqa: S608 - Ours.
# Whoever writes into an organisation does so alone: so the count is one, and a version follows the one before.
_ALONE = "SELECT pg_advisory_xact_lock(hashtextextended('secrets of ' || $1, 0))"
_COUNT = "SELECT count(*) FROM secrets WHERE organization_id = $1 AND name <> $2"
_PUT = f"""
    INSERT INTO secrets (organization_id, name, version, readers, sealed_value) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (organization_id, name) DO UPDATE
    SET version = excluded.version, readers = excluded.readers, sealed_value = excluded.sealed_value, update_time = now()
    RETURNING {_COLUMNS}
"""  # noqa: S608 - Ours.
_DELETE = "DELETE FROM secrets WHERE organization_id = $1 AND name = $2"
_SEALED = """
    SELECT organization_id, name, sealed_value FROM secrets
    WHERE (organization_id, name) > ($1, $2) ORDER BY organization_id, name LIMIT $3
"""
_RESEAL = """
    UPDATE secrets SET sealed_value = $4 WHERE organization_id = $1 AND name = $2 AND sealed_value = $3
"""
_SIGNING_KEYS = "SELECT key_id, sealed_key FROM signing_keys"
_RESEAL_SIGNING_KEY = "UPDATE signing_keys SET sealed_key = $3 WHERE key_id = $1 AND sealed_key = $2"
RESEALED_AT_ONCE = 50

Renew = Callable[[bytes], bytes | None]  # None: it need not be, or cannot.


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSecret:
    organization_id: str
    name: str
    version: int
    readers: Sequence[str]
    sealed_value: bytes = field(repr=False)
    create_time: dt.datetime
    update_time: dt.datetime


class TooMany(Exception):
    """The organisation has as many as it may."""


class PostgresSecrets:
    """Every method raises StoreFailure when the store does not answer in time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def remembered(self, actor: Actor, asked: Asked) -> str | None:
        async with self._database.connection(organization_id=actor.organization_id) as connection:
            return await remembered(connection, actor, asked)

    async def put(
        self,
        actor: Actor,
        name: str,
        readers: Sequence[str],
        sealed_as: Callable[[int], bytes],
        *,
        asked: Asked | None,
        count_max: int,
    ) -> StoredSecret:
        """Replace or make it; `sealed_as` is told the version. Raises TooMany, RequestIdReused."""
        owner = actor.organization_id
        async with self._database.transaction(organization_id=owner) as connection:
            await connection.execute(_ALONE, owner)
            before = await connection.fetchrow(_FIND, owner, name)
            if await claim(connection, actor, asked, name) is not None and before is not None:
                return _secret(before)
            if before is None and await connection.fetchval(_COUNT, owner, name) >= count_max:
                raise TooMany
            version = 1 if before is None else before["version"] + 1
            row = await connection.fetchrow(_PUT, owner, name, version, sorted(readers), sealed_as(version))
        assert row is not None, "the statement returns what it wrote"
        return _secret(row)

    async def find(self, organization_id: str, name: str) -> StoredSecret | None:
        async with self._database.connection(organization_id=organization_id) as connection:
            row = await connection.fetchrow(_FIND, organization_id, name)
        return _secret(row) if row else None

    async def page(self, organization_id: str, request: PageRequest) -> Page[StoredSecret]:
        async with self._database.connection(organization_id=organization_id) as connection:
            rows = await connection.fetch(_PAGE, organization_id, request.after, request.size + 1)
        found = [_secret(row) for row in rows[: request.size]]
        return Page(found, found[-1].name if len(rows) > request.size else "")

    async def delete(self, organization_id: str, name: str) -> None:
        """Do nothing if there is none."""
        async with self._database.connection(organization_id=organization_id) as connection:
            await connection.execute(_DELETE, organization_id, name)

    async def reseal(self, renew: Renew) -> int:
        """Seal anew what `renew` has an answer for, of all organisations and of signing keys; return how many."""
        renewed_count, after = 0, ("", "")
        while True:
            async with self._database.connection(system=True) as connection:
                rows = await connection.fetch(_SEALED, *after, RESEALED_AT_ONCE)
                for organization_id, name, sealed in rows:
                    if (anew := renew(sealed)) is not None:
                        await connection.execute(_RESEAL, organization_id, name, sealed, anew)
                        renewed_count += 1
            if len(rows) < RESEALED_AT_ONCE:
                return renewed_count + await self._reseal_signing_keys(renew)
            after = (rows[-1]["organization_id"], rows[-1]["name"])

    async def _reseal_signing_keys(self, renew: Renew) -> int:
        renewed_count = 0
        async with self._database.connection() as connection:
            for key_id, sealed in await connection.fetch(_SIGNING_KEYS):
                if (anew := renew(sealed)) is not None:
                    await connection.execute(_RESEAL_SIGNING_KEY, key_id, sealed, anew)
                    renewed_count += 1
        return renewed_count


def _secret(row: asyncpg.Record) -> StoredSecret:
    return StoredSecret(**dict(row))
