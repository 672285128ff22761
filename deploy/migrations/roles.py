"""Who may do what in the database, as SQL that can be run again.

`ollamesh_owner` (cannot log in) owns the schemas and everything the migrations make. A service's role
may read and write the rows of its own schema and nothing else: no DDL, no temporary tables, no look at
another schema. Least privilege is stated once, as default privileges, so a new table needs no grants.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable

OWNER, MONITOR = "ollamesh_owner", "ollamesh_monitor"
SCRAM_ITERATIONS = 4096  # PostgreSQL's default; the passwords are random, not chosen by people.


def service_role(service: str) -> str:
    return f"ollamesh_{service}"


def database() -> str:
    """What all services share: the owner, the extensions, and a schema `public` closed to them."""
    return f"""
        {_role(OWNER)}
        CREATE EXTENSION IF NOT EXISTS pg_stat_statements SCHEMA public;
        REVOKE ALL ON SCHEMA public FROM PUBLIC;
    """


def connections(services: Iterable[str]) -> str:
    """Only the services may connect, and make nothing. A copy of the database does not inherit this."""
    granted = ", ".join(service_role(name) for name in services)
    return f"""
        DO $$ BEGIN
            EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
            EXECUTE format('GRANT CONNECT ON DATABASE %I TO {granted}', current_database());
        END $$;
    """


def service(name: str, *, password: str) -> str:
    """The schema of a service and its role. `name` is one of ours, so it needs no quoting."""
    role, by_owner = service_role(name), f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} IN SCHEMA {name}"
    return f"""
        {_role(role)}
        ALTER ROLE {role} LOGIN NOINHERIT PASSWORD '{scram_verifier(password)}';
        ALTER ROLE {role} SET search_path = {name};
        CREATE SCHEMA IF NOT EXISTS {name} AUTHORIZATION {OWNER};
        GRANT USAGE ON SCHEMA {name} TO {role};
        {by_owner} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
        {by_owner} GRANT SELECT, USAGE ON SEQUENCES TO {role};
    """


def monitor(*, password: str) -> str:
    """The role of PostgreSQL's exporter: it sees statistics and settings, and no row of anybody."""
    return f"""
        {_role(MONITOR)}
        ALTER ROLE {MONITOR} LOGIN CONNECTION LIMIT 4 PASSWORD '{scram_verifier(password)}';
        GRANT pg_monitor TO {MONITOR};
        DO $$ BEGIN
            EXECUTE format('GRANT CONNECT ON DATABASE %I TO {MONITOR}', current_database());
        END $$;
    """


def protect_version(name: str) -> str:
    """A service may see which version its schema has, but not change it."""
    return f"""
        DO $$ BEGIN
            REVOKE INSERT, UPDATE, DELETE ON {name}.alembic_version FROM {service_role(name)};
        EXCEPTION WHEN undefined_table THEN NULL;  -- No version file yet.
        END $$;
    """


def scram_verifier(password: str) -> str:
    """What PostgreSQL would store for an ASCII password (RFC 5803).

    Sent instead of the password, which the server's log and pg_stat_statements would keep in clear.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt_64, stored_64, server_64 = (
        base64.b64encode(part).decode() for part in (salt, stored_key, server_key)
    )
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{salt_64}${stored_64}:{server_64}"


def _role(name: str) -> str:
    # Roles belong to the whole server: a runner on another of its databases may be making it too.
    return f"""
        DO $$ BEGIN CREATE ROLE {name}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
    """


def tenant_policy(table: str, *, parent: str = "", key: str = "") -> tuple[str, str, str]:
    """Statements by which a service sees and writes the rows of one organisation only, whatever its SQL forgets to ask.

    Which one, it says by `ollamesh.organization`; it says `ollamesh.system` for work that belongs to no tenant. Both are
    said by `services.common.postgres.Database` alone. Rows belong to who is in their `organization_id`, or to whom the
    row of `parent` belongs that has the same `key`. Version files use this: what it returns must not change. The names
    matter: policies are tried in their order, and for the system none but the first is.
    """
    # Not EXISTS, for which PostgreSQL may read the parent whole and hash it.
    own = (
        f"(SELECT true FROM {parent} WHERE {parent}.{key} = {table}.{key})"  # noqa: S608 - Names of ours.
        if parent
        else "organization_id = current_setting('ollamesh.organization', true)"
    )
    return (
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY tenant ON {table} USING ({own})",
        f"CREATE POLICY system ON {table} USING (current_setting('ollamesh.system', true) = 'on')",
    )
