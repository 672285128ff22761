"""Rotations of signing keys in PostgreSQL: one at a time, however many replicas try."""

import datetime as dt
from dataclasses import dataclass

import asyncpg

from services.auth.adapters.postgres import term
from services.auth.adapters.postgres_revocations import write
from services.auth.core.keys import KEPT_S
from services.auth.core.rotation import Plan
from services.auth.errors import RequestIdReused
from services.auth.rotation import Decision, Named, Rotated
from services.common.postgres import Connection, Database
from services.common.revoked import Kind, Revocation

CHANNEL = "signing_keys"  # Rings when any of them changed.
ROTATION_LOCK = 0x726F74617465  # "rotate"
REMEMBERED_FOR = "24 hours"  # Requests.
# A removed key could sign for ever: whoever was cut off from the service is to hear of it when he is back.
REMOVED_FOR_S = 30 * 86_400.0

_REQUESTED = "SELECT is_emergency, key_id, active_from FROM key_rotations WHERE request_id = $1"
_REQUEST = """
    INSERT INTO key_rotations (request_id, is_emergency, key_id, active_from) VALUES ($1, $2, $3, $4)
"""
_TERMS = """
    SELECT key_id, create_time, active_from, retired_from FROM signing_keys WHERE remove_time IS NULL
"""
_MAKE = """
    INSERT INTO signing_keys (key_id, sealed_key, create_time, active_from) VALUES ($1, $2, $3, $4)
"""
_RETIRE = "UPDATE signing_keys SET retired_from = $2 WHERE key_id = $1 AND retired_from IS NULL"
_REMOVE = "UPDATE signing_keys SET remove_time = now() WHERE key_id = $1"
_RESEAL = "UPDATE signing_keys SET sealed_key = $3 WHERE key_id = $1 AND sealed_key = $2"
_FORGET_KEYS = """
    DELETE FROM signing_keys WHERE retired_from < $1 OR remove_time < now() - make_interval(secs => $2)
"""
_FORGET_REQUESTS = f"DELETE FROM key_rotations WHERE create_time < now() - interval '{REMEMBERED_FOR}'"  # noqa: S608


@dataclass(frozen=True, slots=True)
class PostgresSigningKeys:
    database: Database

    async def rotate(self, decide: Decision, *, named: Named | None) -> Rotated | None:
        async with self.database.transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock($1)", ROTATION_LOCK)
            if named is not None and (known := await connection.fetchrow(_REQUESTED, named.request_id)):
                return _again(known, named)
            rows = await connection.fetch(_TERMS)
            decided = decide([term(row) for row in rows])
            if decided is None:
                return None
            plan, sealed = decided
            await _carry_out(connection, plan, sealed)
            if named is not None:
                active_from = _time(plan.new.active_from_s)
                await connection.execute(
                    _REQUEST, named.request_id, named.emergency, plan.new.key_id, active_from
                )
        return Rotated(key_id=plan.new.key_id, active_from_s=plan.new.active_from_s, is_new=not plan.exists)

    async def reseal(self, key_id: str, *, old: bytes, new: bytes) -> None:
        async with self.database.connection() as connection:
            await connection.execute(_RESEAL, key_id, old, new)

    async def forget(self, now_s: float) -> None:
        async with self.database.transaction() as connection:
            await connection.execute(_FORGET_KEYS, _time(now_s - KEPT_S), REMOVED_FOR_S)
            await connection.execute(_FORGET_REQUESTS)


async def _carry_out(connection: Connection, plan: Plan, sealed: bytes) -> None:
    if plan.exists:
        return
    new = plan.new
    await connection.execute(_MAKE, new.key_id, sealed, _time(new.made_at_s), _time(new.active_from_s))
    for changed in plan.changed:
        assert changed.retired_from_s is not None
        await connection.execute(_RETIRE, changed.key_id, _time(changed.retired_from_s))
    for key_id in plan.removed:
        await connection.execute(_REMOVE, key_id)
        gone = Revocation(kind=Kind.SIGNING_KEY, id=key_id, forget_at_s=new.made_at_s + REMOVED_FOR_S)
        await write(connection, gone)
    await connection.execute("SELECT pg_notify($1, '')", CHANNEL)


def _again(known: asyncpg.Record, named: Named) -> Rotated:
    if known["is_emergency"] != named.emergency:
        raise RequestIdReused
    return Rotated(key_id=known["key_id"], active_from_s=known["active_from"].timestamp(), is_new=False)


def _time(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
