"""Authorization codes and waiting devices in PostgreSQL."""

import datetime as dt
from collections.abc import Callable
from typing import TypeAlias

import asyncpg

from services.auth.adapters.postgres_families import INSERT_FAMILY, NOW, family_values, prune_families
from services.auth.core.codes import AuthorizationCode
from services.auth.core.device import Device, Reply, State
from services.auth.core.refresh import Family
from services.auth.ports_oauth import Redeemed, UsedBefore
from services.common.postgres import Database

# A code that is used again must still be known as used.
_ADD_CODE = """
    WITH old AS (
        DELETE FROM authorization_codes WHERE code_digest IN (
            SELECT code_digest FROM authorization_codes WHERE expire_time < now() - interval '1 day'
            ORDER BY expire_time LIMIT 50 FOR UPDATE SKIP LOCKED
        )
    )
    INSERT INTO authorization_codes (code_digest, client_id, redirect_uri, code_challenge, user_id, scopes, expire_time)
    VALUES ($1, $2, $3, $4, $5, $6, now() + $7 * interval '1 second')
"""
_USE_CODE = """
    UPDATE authorization_codes SET use_time = clock_timestamp() WHERE code_digest = $1 AND use_time IS NULL
    RETURNING *, expire_time <= clock_timestamp() AS is_late
"""
_USED_CODE = "SELECT session_id FROM authorization_codes WHERE code_digest = $1"
_CHANGED_FOR = "UPDATE authorization_codes SET session_id = $2 WHERE code_digest = $1"
_END = "UPDATE refresh_families SET revoke_time = now() WHERE session_id = $1 AND revoke_time IS NULL"

_SWEEP_DEVICES = """
    DELETE FROM device_codes WHERE device_digest IN (
        SELECT device_digest FROM device_codes WHERE expire_time < now() - interval '1 hour'
        ORDER BY expire_time LIMIT 50 FOR UPDATE SKIP LOCKED
    )
"""
_ADD_DEVICE = """
    INSERT INTO device_codes (device_digest, user_code_digest, client_id, scopes, state, interval_s, expire_time)
    SELECT $1, $2, $3, $4, 'pending', $5, $6
    WHERE (SELECT count(*) FROM device_codes WHERE client_id = $3 AND expire_time > now()) < $7
    ON CONFLICT DO NOTHING RETURNING device_digest
"""
_DEVICE = "SELECT * FROM device_codes WHERE device_digest = $1 FOR UPDATE"
_DEVICE_BY_CODE = """
    SELECT * FROM device_codes WHERE user_code_digest = $1 AND state = 'pending' AND expire_time > now()
"""
_UPDATE_DEVICE = """
    UPDATE device_codes SET state = $2, user_id = $3, interval_s = $4, poll_time = $5 WHERE device_digest = $1
"""
Poll: TypeAlias = Callable[[Device, float], tuple[Reply, Device, Family | None]]


class PostgresCodes:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_code(self, code: AuthorizationCode, *, lifetime_s: float) -> None:
        async with self._database.connection() as connection:
            await connection.execute(
                _ADD_CODE,
                code.digest,
                code.client_id,
                code.redirect_uri,
                code.code_challenge,
                code.user_id,
                sorted(code.scopes),
                lifetime_s,
            )

    async def redeem(
        self, digest: bytes, accept: Callable[[AuthorizationCode, float], Family | None]
    ) -> Redeemed | UsedBefore | None:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_USE_CODE, digest)
            if row is None:
                used = await connection.fetchrow(_USED_CODE, digest)
                if used is None:
                    return None
                await connection.execute(_END, used["session_id"])
                return UsedBefore(used["session_id"])
            code = _code(row)
            family = None if row["is_late"] else accept(code, await connection.fetchval(NOW))
            if family is None:
                return None
            await prune_families(connection, family.user_id)
            await connection.execute(INSERT_FAMILY, *family_values(family))
            await connection.execute(_CHANGED_FOR, digest, family.session_id)
        return Redeemed(code)


class PostgresDevices:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_device(self, make: Callable[[float], Device], *, waiting_max: int) -> bool:
        async with self._database.transaction() as connection:
            device = make(await connection.fetchval(NOW))
            await connection.execute(_SWEEP_DEVICES)
            added = await connection.fetchval(
                _ADD_DEVICE,
                device.digest,
                device.user_code_digest,
                device.client_id,
                sorted(device.scopes),
                device.interval_s,
                _time(device.expires_at_s),
                waiting_max,
            )
        return added is not None

    async def poll(self, digest: bytes, decide: Poll) -> tuple[Reply, Device] | None:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(_DEVICE, digest)
            if row is None:
                return None
            known = _device(row)
            reply, device, family = decide(known, await connection.fetchval(NOW))
            if device != known:
                await connection.execute(_UPDATE_DEVICE, *_changes(device))
            if family is not None:
                await prune_families(connection, family.user_id)
                await connection.execute(INSERT_FAMILY, *family_values(family))
        return reply, device

    async def find_device(self, user_code_digest: bytes) -> Device | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_DEVICE_BY_CODE, user_code_digest)
        return None if row is None else _device(row)

    async def decide_device(
        self, user_code_digest: bytes, decide: Callable[[Device, float], Device | None]
    ) -> Device | None:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(f"{_DEVICE_BY_CODE} FOR UPDATE", user_code_digest)
            if row is None:
                return None
            device = decide(_device(row), await connection.fetchval(NOW))
            if device is not None:
                await connection.execute(_UPDATE_DEVICE, *_changes(device))
        return device


def _code(row: asyncpg.Record) -> AuthorizationCode:
    return AuthorizationCode(
        digest=row["code_digest"],
        client_id=row["client_id"],
        redirect_uri=row["redirect_uri"],
        code_challenge=row["code_challenge"],
        user_id=row["user_id"],
        scopes=frozenset(row["scopes"]),
    )


def _device(row: asyncpg.Record) -> Device:
    polled = row["poll_time"]
    return Device(
        digest=row["device_digest"],
        user_code_digest=row["user_code_digest"],
        client_id=row["client_id"],
        scopes=frozenset(row["scopes"]),
        state=State(row["state"]),
        user_id=row["user_id"],
        interval_s=row["interval_s"],
        polled_at_s=None if polled is None else polled.timestamp(),
        expires_at_s=row["expire_time"].timestamp(),
    )


def _changes(device: Device) -> tuple[object, ...]:
    polled = None if device.polled_at_s is None else _time(device.polled_at_s)
    return device.digest, device.state.value, device.user_id, device.interval_s, polled


def _time(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
