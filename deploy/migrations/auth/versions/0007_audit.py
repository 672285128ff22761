"""The audit trail: a chain that only grows, its signed heads, and the keys that sign them."""

from alembic import op

revision = "0007"
down_revision = "0006"

# `hash` binds every other column and the hash before (services/auth/core/audit_chain.py).
_EVENTS = """
    CREATE TABLE audit_events (
        sequence bigint PRIMARY KEY CHECK (sequence > 0),
        event_id uuid NOT NULL UNIQUE,
        event_time timestamptz NOT NULL,
        record_time timestamptz NOT NULL,
        service text NOT NULL CHECK (length(service) <= 32),
        action text NOT NULL CHECK (length(action) BETWEEN 1 AND 64),
        outcome text NOT NULL CHECK (length(outcome) BETWEEN 1 AND 64),
        user_id text NOT NULL CHECK (length(user_id) <= 128),
        organization_id text NOT NULL CHECK (length(organization_id) <= 128),
        object text NOT NULL CHECK (length(object) <= 256),
        reason text NOT NULL CHECK (length(reason) <= 64),
        details jsonb NOT NULL CHECK (jsonb_typeof(details) = 'object'),
        hash bytea NOT NULL CHECK (length(hash) = 32)
    )
"""
_BY_ORGANIZATION = "CREATE INDEX audit_events_by_organization ON audit_events (organization_id, sequence)"
_HEADS = """
    CREATE TABLE audit_heads (
        number bigint PRIMARY KEY CHECK (number > 0),
        sequence bigint NOT NULL UNIQUE CHECK (sequence > 0),
        signed text NOT NULL CHECK (length(signed) <= 4096)
    )
"""
# Sealed anew under another encryption key, a key has a row more.
_KEYS = """
    CREATE TABLE audit_keys (
        key_id text NOT NULL CHECK (length(key_id) = 43),
        create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
        sealed_key bytea NOT NULL CHECK (length(sealed_key) BETWEEN 1 AND 4096),
        PRIMARY KEY (key_id, create_time)
    )
"""
# Grants keep the service from it; these keep the owner from a slip. Nothing here stops a superuser: the chain tells.
_REFUSE = """
    CREATE FUNCTION audit_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '% only grows', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
    END $$
"""
_TABLES = ("audit_events", "audit_heads", "audit_keys")


def upgrade() -> None:
    for statement in (_EVENTS, _BY_ORGANIZATION, _HEADS, _KEYS, _REFUSE):
        op.execute(statement)
    for table in _TABLES:
        op.execute(f"REVOKE UPDATE, DELETE, TRUNCATE ON {table} FROM ollamesh_auth")
        op.execute(
            f"CREATE TRIGGER {table}_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_only_grows()"
        )
