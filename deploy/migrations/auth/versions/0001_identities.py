"""Who may get a token, and the keys that sign it."""

from alembic import op

revision = "0001"
down_revision = None

_ORGANIZATIONS = """
    CREATE TABLE organizations (
        organization_id text PRIMARY KEY CHECK (organization_id ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
        display_name text NOT NULL CHECK (length(display_name) BETWEEN 1 AND 256),
        create_time timestamptz NOT NULL DEFAULT now()
    )
"""
_PROJECTS = """
    CREATE TABLE projects (
        organization_id text NOT NULL REFERENCES organizations,
        project_id text NOT NULL CHECK (project_id ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
        display_name text NOT NULL CHECK (length(display_name) BETWEEN 1 AND 256),
        create_time timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (organization_id, project_id)
    )
"""
# No person's id can be a service account's: those start with `service`.
_USERS = r"""
    CREATE TABLE users (
        user_id text PRIMARY KEY CHECK (user_id ~ '^user\:[A-Za-z0-9._-]{1,59}$'),
        organization_id text NOT NULL,
        project_id text NOT NULL,
        username text NOT NULL UNIQUE CHECK (username ~ '^[a-z0-9][a-z0-9._@-]{0,127}$'),
        password_hash text NOT NULL CHECK (password_hash LIKE '$argon2id$%'),
        role text NOT NULL CHECK (role IN ('user', 'admin')),
        create_time timestamptz NOT NULL DEFAULT now(),
        disable_time timestamptz,
        FOREIGN KEY (organization_id, project_id) REFERENCES projects
    )
"""
# A secret is random and long, so a keyed digest keeps it; only passwords need a slow hash.
_SERVICE_ACCOUNTS = """
    CREATE TABLE service_accounts (
        client_id text PRIMARY KEY CHECK (client_id ~ '^[a-z0-9][a-z0-9._-]{0,119}$'),
        organization_id text NOT NULL,
        project_id text NOT NULL,
        secret_digest bytea NOT NULL CHECK (length(secret_digest) = 32),
        role text NOT NULL CHECK (role IN ('user', 'admin')),
        scopes text[] NOT NULL DEFAULT '{}'  -- None means all.
            CHECK (scopes <@ '{auth,agent,inference,sandbox}'),
        create_time timestamptz NOT NULL DEFAULT now(),
        disable_time timestamptz,
        FOREIGN KEY (organization_id, project_id) REFERENCES projects
    )
"""
_SIGNING_KEYS = """
    CREATE TABLE signing_keys (
        key_id text PRIMARY KEY CHECK (key_id ~ '^[A-Za-z0-9_-]{43}$'),
        sealed_key bytea NOT NULL,
        create_time timestamptz NOT NULL DEFAULT now(),
        active_from timestamptz NOT NULL,
        retired_from timestamptz CHECK (retired_from > active_from)
    )
"""


def upgrade() -> None:
    for table in (_ORGANIZATIONS, _PROJECTS, _USERS, _SERVICE_ACCOUNTS, _SIGNING_KEYS):
        op.execute(table)
