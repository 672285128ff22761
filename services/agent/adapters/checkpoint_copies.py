"""Copying a thread's checkpoints: each payload is opened and sealed anew, for it is bound to its thread."""

from services.agent.adapters.checkpoint_codec import Codec, Sealed
from services.common.postgres import Connection

_CHECKPOINTS = """
    SELECT ns, checkpoint_id, parent_id, body, channels, versions, metadata, create_time
    FROM checkpoints WHERE thread_id = $1
"""
_BLOBS = "SELECT ns, channel, version, kind, blob FROM checkpoint_blobs WHERE thread_id = $1"
_WRITES = """
    SELECT ns, checkpoint_id, task_id, task_path, index, channel, kind, blob
    FROM checkpoint_writes WHERE thread_id = $1
"""
_PUT = """
    INSERT INTO checkpoints (organization_id, thread_id, ns, checkpoint_id, parent_id, body, channels, versions,
                             metadata, create_time)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
_PUT_BLOB = """
    INSERT INTO checkpoint_blobs (organization_id, thread_id, ns, channel, version, kind, blob)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
_PUT_WRITE = """
    INSERT INTO checkpoint_writes
        (organization_id, thread_id, ns, checkpoint_id, task_id, task_path, index, channel, kind, blob)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""


async def copy_thread(
    connection: Connection, codec: Codec, organization_id: str, source: str, target: str
) -> None:
    """In one transaction, row by row: a thread may hold more than memory should."""
    to = organization_id, target
    async for ns, checkpoint_id, parent_id, body, *rest in connection.cursor(_CHECKPOINTS, source):
        place = ns, checkpoint_id, parent_id or ""
        moved = codec.seal_body(codec.open_body(body, source, *place), target, *place)
        await connection.execute(_PUT, *to, ns, checkpoint_id, parent_id, moved, *rest)
    async for ns, channel, version, kind, blob in connection.cursor(_BLOBS, source):
        place = ns, channel, version
        moved = codec.moved(Sealed(kind, blob), ("blob", source, *place), ("blob", target, *place))
        await connection.execute(_PUT_BLOB, *to, *place, kind, moved)
    async for ns, checkpoint_id, task_id, task_path, index, channel, kind, blob in connection.cursor(
        _WRITES, source
    ):
        names = ns, checkpoint_id, task_id, task_path
        written = *names, str(index), channel
        moved = codec.moved(Sealed(kind, blob), ("write", source, *written), ("write", target, *written))
        await connection.execute(_PUT_WRITE, *to, *names, index, channel, kind, moved)
