"""People whom an identity provider knows, requests that come twice, and row-level security of what there is."""

from alembic import op

from deploy.migrations.roles import tenant_policy

revision = "0003"
down_revision = "0002"

# A person is who their provider says by `iss` and `sub`; names and addresses change hands. Such a person has no local
# password, and nobody else goes without one.
_FEDERATED = """
    ALTER TABLE users
        ALTER COLUMN password_hash DROP NOT NULL,
        ADD COLUMN display_name text NOT NULL DEFAULT '' CHECK (length(display_name) <= 256),
        ADD COLUMN issuer text CHECK (length(issuer) BETWEEN 1 AND 512),
        ADD COLUMN subject text CHECK (length(subject) BETWEEN 1 AND 255),
        ADD CHECK ((issuer IS NULL) = (subject IS NULL)),
        ADD CHECK ((issuer IS NULL) = (password_hash IS NOT NULL)),
        ADD UNIQUE (issuer, subject)
"""
_REQUESTS = """
    CREATE TABLE requests (
        organization_id text NOT NULL,
        user_id         text NOT NULL,
        request_id      text NOT NULL,
        body_digest     bytea NOT NULL,                       -- Keyed: a body may hold a password.
        object_id       text NOT NULL,                        -- What the request made.
        create_time     timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (organization_id, user_id, request_id)
    )
"""


def upgrade() -> None:
    op.execute(_FEDERATED)
    op.execute("CREATE INDEX users_of_organization ON users (organization_id, username)")
    op.execute(
        "CREATE INDEX service_accounts_of_organization ON service_accounts (organization_id, client_id)"
    )
    op.execute(_REQUESTS)
    op.execute("CREATE INDEX requests_by_age ON requests (organization_id, create_time)")
    for table in ("organizations", "projects", "users", "service_accounts", "requests"):
        for statement in tenant_policy(table):
            op.execute(statement)
