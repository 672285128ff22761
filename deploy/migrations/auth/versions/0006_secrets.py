"""Secrets of organisations, sealed."""

from alembic import op

from deploy.migrations.roles import tenant_policy

revision = "0006"
down_revision = "0005"

# Whose it is, its name, version and readers are inside of the sealed value too: a row that was moved or changed opens as
# nothing (services/auth/core/secrets.py).
_SECRETS = """
    CREATE TABLE secrets (
        organization_id text NOT NULL REFERENCES organizations,
        name text NOT NULL CHECK (name ~ '^[A-Za-z0-9_.-]{1,128}$'),
        version bigint NOT NULL CHECK (version > 0),
        readers text[] NOT NULL CHECK (cardinality(readers) > 0),
        sealed_value bytea NOT NULL CHECK (length(sealed_value) BETWEEN 1 AND 131072),
        create_time timestamptz NOT NULL DEFAULT now(),
        update_time timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (organization_id, name)
    )
"""


def upgrade() -> None:
    op.execute(_SECRETS)
    for statement in tenant_policy("secrets"):
        op.execute(statement)
