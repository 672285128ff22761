"""What was revoked before its time, for as long as a token that is meant could still be valid."""

from alembic import op

revision = "0008"
down_revision = "0007"

# `changed_by` is the transaction that wrote the row: a reader that asks for all that were not finished when it last
# looked misses none, in whatever order they commit. Sequences and clocks promise no such thing.
_REVOCATIONS = """
    CREATE TABLE revocations (
        kind text NOT NULL CHECK (kind IN ('token', 'session', 'api_key', 'user', 'client', 'signing_key')),
        id text NOT NULL CHECK (length(id) BETWEEN 1 AND 128),
        issue_time_max timestamptz,
        forget_time timestamptz NOT NULL,
        changed_by xid8 NOT NULL DEFAULT pg_current_xact_id(),
        PRIMARY KEY (kind, id)
    )
"""
_CHANGES = "CREATE INDEX revocations_changed_by ON revocations (changed_by)"
_FORGETTING = "CREATE INDEX revocations_forget_time ON revocations (forget_time)"

# A signing key that was taken away at once. Its row stays for a while, so that nobody can put it back.
_REMOVED = "ALTER TABLE signing_keys ADD COLUMN remove_time timestamptz"
_ROTATIONS = """
    CREATE TABLE key_rotations (
        request_id text PRIMARY KEY CHECK (length(request_id) BETWEEN 1 AND 64),
        is_emergency boolean NOT NULL,
        key_id text NOT NULL,
        active_from timestamptz NOT NULL,
        create_time timestamptz NOT NULL DEFAULT now()
    )
"""


def upgrade() -> None:
    for statement in (_REVOCATIONS, _CHANGES, _FORGETTING, _REMOVED, _ROTATIONS):
        op.execute(statement)
