"""API keys: who owns one, what it may do, and a keyed digest in place of the key."""

from alembic import op

from deploy.migrations.roles import tenant_policy

revision = "0004"
down_revision = "0003"

# The owner is a user or a service account, so no foreign key can name it; what the owner may do now is joined in when
# a key is checked. A request_id is the owner's for 24 hours, and then free again.
_API_KEYS = r"""
    CREATE TABLE api_keys (
        api_key_id text PRIMARY KEY CHECK (api_key_id ~ '^[0-9A-Za-z]{12}$'),
        organization_id text NOT NULL,
        project_id text NOT NULL,
        user_id text NOT NULL CHECK (length(user_id) BETWEEN 1 AND 128),
        display_name text NOT NULL CHECK (length(display_name) BETWEEN 1 AND 256),
        prefix text NOT NULL CHECK (prefix ~ '^omk_[a-z][a-z0-9]{0,15}_[0-9A-Za-z]{12}$'),
        digest bytea NOT NULL CHECK (length(digest) = 32),
        role text NOT NULL CHECK (role IN ('user', 'admin')),
        scopes text[] NOT NULL CHECK (scopes <@ '{auth,agent,inference,sandbox}' AND cardinality(scopes) > 0),
        create_time timestamptz NOT NULL DEFAULT now(),
        expire_time timestamptz NOT NULL,
        last_used_time timestamptz,
        revoke_time timestamptz,
        request_id text,
        request_hash bytea,
        CHECK (expire_time > create_time),
        CHECK ((request_id IS NULL) = (request_hash IS NULL)),
        FOREIGN KEY (organization_id, project_id) REFERENCES projects
    )
"""
# Newest first, for an owner and for an organisation; the ids break ties.
_BY_USER = "CREATE INDEX api_keys_by_user ON api_keys (user_id, create_time DESC, api_key_id DESC)"
_BY_ORGANIZATION = """
    CREATE INDEX api_keys_by_organization ON api_keys (organization_id, create_time DESC, api_key_id DESC)
"""
_BY_REQUEST = """
    CREATE UNIQUE INDEX api_keys_by_request ON api_keys (user_id, request_id) WHERE request_id IS NOT NULL
"""


def upgrade() -> None:
    for statement in (_API_KEYS, _BY_USER, _BY_ORGANIZATION, _BY_REQUEST):
        op.execute(statement)
    for statement in tenant_policy("api_keys"):
        op.execute(statement)
