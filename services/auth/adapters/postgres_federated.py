"""Users whom an identity provider knows, in PostgreSQL."""

import asyncpg

from services.auth.core.federation import Known, Provider
from services.auth.core.identity import Identity, Role, outranks
from services.auth.core.people import new_user_id
from services.auth.errors import FederationRefused
from services.auth.federation import Joined
from services.common.postgres import Database

CLIENT_ID = "login"  # As for those who log in with a password.

FIND = "SELECT role FROM users WHERE issuer = $1 AND subject = $2 AND organization_id = $3 FOR UPDATE"
# The provider's word is what holds: of the role each time, of everything else once. Who is disabled stays it.
JOIN = """
    INSERT INTO users AS known (user_id, organization_id, project_id, username, role, display_name, issuer, subject)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (issuer, subject) DO UPDATE SET role = excluded.role, display_name = excluded.display_name
    WHERE known.disable_time IS NULL
    RETURNING user_id, project_id
"""


class PostgresFederatedUsers:
    """Implements federation.FederatedUsers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def join(self, person: Known, provider: Provider, *, new_name: str) -> Joined | None:
        """The user who is that person, made if they are new; None if they are disabled. Raises FederationRefused."""
        organization_id = provider.organization_id
        try:
            async with self._database.transaction(organization_id=organization_id) as connection:
                before = await connection.fetchval(FIND, person.issuer, person.subject, organization_id)
                row = await connection.fetchrow(
                    JOIN,
                    new_user_id(new_name),
                    organization_id,
                    provider.project_id,
                    new_name,
                    person.role.value,
                    person.display_name,
                    person.issuer,
                    person.subject,
                )
        except (asyncpg.InsufficientPrivilegeError, asyncpg.ForeignKeyViolationError) as error:
            # They belong to another organisation already, or the configured one does not exist.
            raise FederationRefused from error
        if row is None:
            return None
        identity = Identity(
            user_id=row["user_id"],
            role=person.role,
            organization_id=organization_id,
            project_id=row["project_id"],
            client_id=CLIENT_ID,
        )
        return Joined(identity, before is not None and outranks(Role(before), person.role))
