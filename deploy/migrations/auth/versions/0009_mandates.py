"""Mandates: for whom a service may act when the token that they called it with has expired."""

from alembic import op

revision = "0009"
down_revision = "0008"

# Found by the digest of a secret, like refresh tokens, before a tenant is known. `ended_by` names the revocations that
# end it, as `kind:id`: what makes the token useless of which it came makes it useless too.
_MANDATES = """
    CREATE TABLE mandates (
        digest bytea PRIMARY KEY CHECK (length(digest) = 32),
        holder text NOT NULL CHECK (length(holder) BETWEEN 1 AND 32),
        user_id text NOT NULL CHECK (length(user_id) BETWEEN 1 AND 128),
        client_id text NOT NULL CHECK (length(client_id) BETWEEN 1 AND 128),
        role_max text NOT NULL CHECK (role_max IN ('user', 'admin')),
        scopes text[] NOT NULL CHECK (scopes <@ '{auth,agent,inference,sandbox}' AND cardinality(scopes) > 0),
        session_id text REFERENCES refresh_families ON DELETE CASCADE,
        api_key_id text REFERENCES api_keys ON DELETE CASCADE,
        ended_by text[] NOT NULL CHECK (cardinality(ended_by) > 0),
        create_time timestamptz NOT NULL DEFAULT now(),
        expire_time timestamptz NOT NULL,
        CHECK (expire_time <= create_time + interval '24 hours')
    )
"""
_INDEXES = (
    "CREATE INDEX mandates_user ON mandates (user_id, expire_time)",
    "CREATE INDEX mandates_session ON mandates (session_id) WHERE session_id IS NOT NULL",
    "CREATE INDEX mandates_api_key ON mandates (api_key_id) WHERE api_key_id IS NOT NULL",
    "CREATE INDEX mandates_ended_by ON mandates USING gin (ended_by) WITH (fastupdate = off)",
    "CREATE INDEX mandates_expire ON mandates (expire_time)",
)


def upgrade() -> None:
    for statement in (_MANDATES, *_INDEXES):
        op.execute(statement)
