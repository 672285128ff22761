"""OAuth: who may ask for a person's tokens, and what a login has left behind.

No code and no refresh token is kept, only keyed digests. Rows name users and clients without foreign keys: they are
short-lived, are looked up with their user each time, and must not hold up what is done to users.
"""

from alembic import op

from deploy.migrations.roles import tenant_policy

revision = "0002"
down_revision = "0001"

_CLIENTS = """
    CREATE TABLE oauth_clients (
        client_id text PRIMARY KEY CHECK (client_id ~ '^[a-z0-9][a-z0-9._-]{0,119}$'),
        organization_id text NOT NULL REFERENCES organizations,
        display_name text NOT NULL CHECK (length(display_name) BETWEEN 1 AND 256),
        redirect_uris text[] NOT NULL DEFAULT '{}' CHECK (cardinality(redirect_uris) <= 16),
        grants text[] NOT NULL
            CHECK (grants <@ '{authorization_code,device_code,refresh_token,token_exchange}'),
        scopes text[] NOT NULL CHECK (scopes <@ '{auth,agent,inference,sandbox}' AND cardinality(scopes) > 0),
        role_max text NOT NULL DEFAULT 'user' CHECK (role_max IN ('user', 'admin')),
        secret_digest bytea CHECK (length(secret_digest) = 32),  -- None: a public client.
        first_party boolean NOT NULL DEFAULT false,  -- People are not asked whether they trust it.
        in_browser boolean NOT NULL DEFAULT false,  -- Its refresh tokens are cookies.
        resource_server text CHECK (resource_server IN ('auth', 'agent', 'inference', 'sandbox')),
        create_time timestamptz NOT NULL DEFAULT now(),
        disable_time timestamptz,
        CHECK (secret_digest IS NOT NULL OR NOT grants && '{token_exchange}'),
        CHECK (secret_digest IS NOT NULL OR resource_server IS NULL)
    )
"""
_ACTS_FOR = """
    ALTER TABLE service_accounts ADD COLUMN acts_for text NOT NULL DEFAULT 'organization'
        CHECK (acts_for IN ('nobody', 'organization', 'everybody'))
"""
# What the mesh itself uses acts for the users of every tenant.
_FOUNDER_ACTS = "UPDATE service_accounts SET acts_for = 'everybody' WHERE client_id = 'ollamesh'"
_FAMILIES = """
    CREATE TABLE refresh_families (
        session_id text PRIMARY KEY CHECK (length(session_id) BETWEEN 1 AND 64),
        handle_digest bytea NOT NULL UNIQUE CHECK (length(handle_digest) = 32),
        current_digest bytea NOT NULL CHECK (length(current_digest) = 32),
        previous_digest bytea CHECK (length(previous_digest) = 32),
        salt bytea NOT NULL,
        generation bigint NOT NULL CHECK (generation > 0),
        user_id text NOT NULL,
        client_id text NOT NULL,
        role_max text NOT NULL CHECK (role_max IN ('user', 'admin')),
        scopes text[] NOT NULL CHECK (scopes <@ '{auth,agent,inference,sandbox}'),
        create_time timestamptz NOT NULL DEFAULT now(),
        rotate_time timestamptz NOT NULL,
        expire_time timestamptz NOT NULL,
        revoke_time timestamptz
    )
"""
_CODES = """
    CREATE TABLE authorization_codes (
        code_digest bytea PRIMARY KEY CHECK (length(code_digest) = 32),
        client_id text NOT NULL,
        redirect_uri text NOT NULL,
        code_challenge text NOT NULL CHECK (length(code_challenge) = 43),
        user_id text NOT NULL,
        scopes text[] NOT NULL CHECK (scopes <@ '{auth,agent,inference,sandbox}'),
        expire_time timestamptz NOT NULL,
        use_time timestamptz,
        session_id text  -- What it was changed for; a second use ends it.
    )
"""
_DEVICES = """
    CREATE TABLE device_codes (
        device_digest bytea PRIMARY KEY CHECK (length(device_digest) = 32),
        user_code_digest bytea NOT NULL UNIQUE CHECK (length(user_code_digest) = 32),
        client_id text NOT NULL,
        scopes text[] NOT NULL CHECK (scopes <@ '{auth,agent,inference,sandbox}'),
        state text NOT NULL CHECK (state IN ('pending', 'approved', 'denied', 'redeemed')),
        user_id text CHECK (state IN ('pending', 'denied') OR user_id IS NOT NULL),
        interval_s double precision NOT NULL CHECK (interval_s > 0),
        poll_time timestamptz,
        expire_time timestamptz NOT NULL
    )
"""
_INDEXES = (
    "CREATE INDEX refresh_families_user ON refresh_families (user_id, create_time)",
    "CREATE INDEX refresh_families_expire ON refresh_families (expire_time)",
    "CREATE INDEX authorization_codes_expire ON authorization_codes (expire_time)",
    "CREATE INDEX device_codes_expire ON device_codes (expire_time)",
)


def upgrade() -> None:
    for statement in (_CLIENTS, _ACTS_FOR, _FOUNDER_ACTS, _FAMILIES, _CODES, _DEVICES, *_INDEXES):
        op.execute(statement)
    for statement in tenant_policy("oauth_clients"):
        op.execute(statement)
