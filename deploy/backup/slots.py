"""The replication slot that keeps on the server what `follow` has not got yet."""

import asyncio

import asyncpg

from deploy.backup.errors import BackupError

WITHIN_S = 10.0
# The server gave up on it, for it kept more than `max_slot_wal_keep_size`: nobody gets anything from it any more.
_DROP_LOST = """
    SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
    WHERE slot_name = $1 AND wal_status = 'lost' AND NOT active
"""


def drop_lost(dsn: str, slot: str) -> bool:
    """Whether it was lost: then it is gone, and one of its name can be made anew. Raises BackupError."""
    return asyncio.run(_drop_lost(dsn, slot))


async def _drop_lost(dsn: str, slot: str) -> bool:
    try:
        connection = await asyncpg.connect(dsn, timeout=WITHIN_S)
        try:
            return bool(await connection.fetch(_DROP_LOST, slot))
        finally:
            await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise BackupError("PostgreSQL does not say whether the replication slot is good") from error
