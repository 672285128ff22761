"""The statements of checkpoints.py. Each is one round trip."""

# Nothing is written for a run that somebody else goes on with, however late it arrives: its row is locked meanwhile.
_HELD = """
    held AS MATERIALIZED (
        SELECT 1 FROM runs WHERE run_id = $1 AND holder = $2 AND fence = $3 AND end_time IS NULL FOR SHARE
    )
"""
_FREE = "held AS MATERIALIZED (SELECT 1 WHERE $1::uuid IS NULL AND $2::uuid IS NULL AND $3::bigint IS NULL)"

_PUT = """
    WITH {held}, kept AS (
        INSERT INTO checkpoint_blobs (organization_id, thread_id, ns, channel, version, kind, blob)
        SELECT $4, $5, $6, b.channel, b.version, b.kind, b.blob
        FROM held, unnest($13::text[], $14::text[], $15::text[], $16::bytea[]) AS b (channel, version, kind, blob)
        ON CONFLICT DO NOTHING
    )
    INSERT INTO checkpoints
        (organization_id, thread_id, ns, checkpoint_id, parent_id, channels, versions, body, metadata)
    SELECT $4, $5, $6, $7, $8, $9, $10, $11, $12 FROM held
    ON CONFLICT (thread_id, ns, checkpoint_id) DO UPDATE
    SET parent_id = excluded.parent_id, channels = excluded.channels, versions = excluded.versions,
        body = excluded.body, metadata = excluded.metadata
    RETURNING 1
"""
PUT, PUT_FREELY = _PUT.format(held=_HELD), _PUT.format(held=_FREE)

_WRITE = """
    WITH {held}, kept AS (
        INSERT INTO checkpoint_writes
            (organization_id, thread_id, ns, checkpoint_id, task_id, task_path, index, channel, kind, blob)
        SELECT $4, $5, $6, $7, $8, $9, w.index, w.channel, w.kind, w.blob
        FROM held, unnest($10::int[], $11::text[], $12::text[], $13::bytea[]) AS w (index, channel, kind, blob)
        ON CONFLICT (thread_id, ns, checkpoint_id, task_id, index) {conflict}
    )
    SELECT 1 FROM held
"""
# What a task wrote stays; but an error or an interrupt of a task takes the place of the one before.
_REPLACE = "DO UPDATE SET task_path = excluded.task_path, channel = excluded.channel, kind = excluded.kind, blob = excluded.blob"
WRITE = {
    (is_held, replaces): _WRITE.format(
        held=_HELD if is_held else _FREE, conflict=_REPLACE if replaces else "DO NOTHING"
    )
    for is_held in (True, False)
    for replaces in (True, False)
}

_WHOLE = """
    SELECT c.thread_id, c.ns, c.checkpoint_id, c.parent_id, c.body,
        (SELECT array_agg(ROW(b.channel, b.kind, b.blob))
         FROM unnest(c.channels, c.versions) AS v (channel, version)
         JOIN checkpoint_blobs b
         ON b.thread_id = c.thread_id AND b.ns = c.ns AND b.channel = v.channel AND b.version = v.version) AS blobs,
        (SELECT array_agg(ROW(w.task_id, w.task_path, w.index, w.channel, w.kind, w.blob)
                          ORDER BY w.task_path COLLATE "C", w.task_id COLLATE "C", w.index)
         FROM checkpoint_writes w
         WHERE w.thread_id = c.thread_id AND w.ns = c.ns AND w.checkpoint_id = c.checkpoint_id) AS writes
    FROM checkpoints c
"""
GET = f"{_WHOLE} WHERE c.thread_id = $1 AND c.ns = $2 AND c.checkpoint_id = $3"
GET_LATEST = f"{_WHOLE} WHERE c.thread_id = $1 AND c.ns = $2 ORDER BY c.checkpoint_id DESC LIMIT 1"
# A NULL asks for nothing. $5 and $6: only what is before; $7 to $9: only what follows the last one that was read.
LIST = f"""
    {_WHOLE}
    WHERE ($1::text IS NULL OR c.thread_id = $1) AND ($2::text IS NULL OR c.ns = $2)
    AND ($3::text IS NULL OR c.checkpoint_id = $3) AND c.metadata @> $4::jsonb
    AND ($5::text IS NULL OR c.checkpoint_id < $5)
    AND ($6::text IS NULL OR (c.checkpoint_id, c.thread_id, c.ns) < ($6, $7::text, $8::text))
    ORDER BY c.checkpoint_id DESC, c.thread_id DESC, c.ns DESC LIMIT $9
"""
PAGE = """
    SELECT c.checkpoint_id, runs.run_id, c.metadata, c.create_time
    FROM threads JOIN runs USING (thread_id) JOIN checkpoints c ON c.thread_id = runs.run_id::text
    WHERE threads.organization_id = $1 AND threads.user_id = $2 AND threads.thread_id = $3
    AND c.ns = '' AND ($4::text IS NULL OR c.checkpoint_id < $4)
    ORDER BY c.checkpoint_id DESC LIMIT $5
"""

FORGET = tuple(
    f"DELETE FROM {table} WHERE thread_id = ANY($1)"  # noqa: S608 - Names of ours.
    for table in ("checkpoints", "checkpoint_writes", "checkpoint_blobs")
)
# Returns the threads of which something went.
FORGET_RUNS = """
    WITH gone AS (
        DELETE FROM checkpoints WHERE metadata->>'run_id' = ANY($1) RETURNING thread_id, ns, checkpoint_id
    ), written AS (
        DELETE FROM checkpoint_writes w USING gone
        WHERE w.thread_id = gone.thread_id AND w.ns = gone.ns AND w.checkpoint_id = gone.checkpoint_id
    )
    SELECT DISTINCT thread_id FROM gone
"""
KEEP_LATEST = """
    WITH gone AS (
        DELETE FROM checkpoints c USING checkpoints later
        WHERE c.thread_id = ANY($1) AND later.thread_id = c.thread_id AND later.ns = c.ns
        AND later.checkpoint_id > c.checkpoint_id
        RETURNING c.thread_id, c.ns, c.checkpoint_id
    )
    DELETE FROM checkpoint_writes w USING gone
    WHERE w.thread_id = gone.thread_id AND w.ns = gone.ns AND w.checkpoint_id = gone.checkpoint_id
"""
# Values of which no checkpoint is left.
SWEEP = """
    DELETE FROM checkpoint_blobs b WHERE b.thread_id = ANY($1) AND NOT EXISTS (
        SELECT FROM checkpoints c, unnest(c.channels, c.versions) AS v (channel, version)
        WHERE c.thread_id = b.thread_id AND c.ns = b.ns AND v.channel = b.channel AND v.version = b.version
    )
"""
