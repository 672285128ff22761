"""Administration of tenants: organisations, by the founding one's admins; each one's projects and service accounts."""

import datetime as dt
import secrets
import uuid
from dataclasses import dataclass, field

from services.auth.changes import changing
from services.auth.core.client_secret import SecretDigest
from services.auth.core.clients import BUILT_IN
from services.auth.core.identity import SCOPES, Role, service_user_id
from services.auth.core.people import FIRST_PROJECT, Actor, Asked, check_founds, check_grants, new_user_id
from services.auth.errors import NameTaken, NotFound
from services.auth.people import Passwords
from services.auth.people_ports import (
    Account,
    NewAccount,
    NewPerson,
    Organization,
    Page,
    PageRequest,
    Person,
    Project,
    Sessions,
    TenantStore,
)
from services.common.audit import Trail

SECRET_BYTES = 32
NOW = dt.datetime.min.replace(tzinfo=dt.UTC)  # Stands for the time that the store will say.


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationWanted:
    display_name: str
    organization_id: str  # Empty: any.
    admin_username: str
    admin_password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountWanted:
    client_id: str
    role: Role
    scopes: frozenset[str]
    project_id: str  # Empty: the actor's own.


class Tenants:
    def __init__(
        self,
        *,
        store: TenantStore,
        passwords: Passwords,
        digest: SecretDigest,
        sessions: Sessions,
        trail: Trail,
    ) -> None:
        self._store, self._passwords, self._digest = store, passwords, digest
        self._sessions, self._trail = sessions, trail

    async def create_organization(
        self, actor: Actor, wanted: OrganizationWanted, asked: Asked | None
    ) -> tuple[Organization, Person]:
        """Raises RoleRequired, InvalidRequest, NameTaken, RequestIdReused."""
        organization_id = wanted.organization_id or f"org-{uuid.uuid4().hex}"
        with changing(self._trail, actor, "created", f"organization/{organization_id}") as change:
            check_founds(actor)
            self._passwords.check(
                wanted.admin_password, field_name="admin_password", username=wanted.admin_username
            )
            if asked and (known := await self._store.remembered(actor, asked)):
                found = await self._store.organization(known)
                if found is None:
                    raise NotFound(kind="organization")
                return found
            admin = NewPerson(
                user_id=new_user_id(uuid.uuid4().hex),
                username=wanted.admin_username,
                password_hash=await self._passwords.hash(wanted.admin_password),
                role=Role.ADMIN,
                project_id=FIRST_PROJECT,
            )
            new = Organization(
                organization_id=organization_id, display_name=wanted.display_name, create_time=NOW
            )
            await change.assure(admin=admin.user_id)
            return await self._store.create_organization(actor, new, admin, asked)

    async def organizations(self, actor: Actor, request: PageRequest) -> Page[Organization]:
        """Raises RoleRequired."""
        check_founds(actor)
        return await self._store.organizations(request)

    async def create_project(
        self, actor: Actor, display_name: str, project_id: str, asked: Asked | None
    ) -> Project:
        """Raises NameTaken, RequestIdReused."""
        new = Project(
            project_id=project_id or f"project-{uuid.uuid4().hex}",
            organization_id=actor.organization_id,
            display_name=display_name,
            create_time=NOW,
        )
        with changing(self._trail, actor, "created", f"project/{new.project_id}") as change:
            await change.assure()
            return await self._store.create_project(actor, new, asked)

    async def projects(self, actor: Actor, request: PageRequest) -> Page[Project]:
        return await self._store.projects(actor.organization_id, request)

    async def create_account(
        self, actor: Actor, wanted: AccountWanted, asked: Asked | None
    ) -> tuple[Account, str]:
        """The account and its secret, which is empty where the same request has had it already.

        Raises RoleRequired, NameTaken, NotFound, RequestIdReused.
        """
        with changing(self._trail, actor, "created", f"service_account/{wanted.client_id}") as change:
            check_grants(actor, wanted.role)
            if wanted.client_id in BUILT_IN or wanted.client_id in SCOPES:  # `act` of services says so.
                raise NameTaken(name=wanted.client_id)
            secret = secrets.token_urlsafe(SECRET_BYTES)
            new = NewAccount(
                client_id=wanted.client_id,
                secret_digest=self._digest.of(secret),
                role=wanted.role,
                project_id=wanted.project_id or actor.project_id,
                scopes=wanted.scopes,
            )
            await change.assure(role=new.role.value, scopes=" ".join(sorted(new.scopes)))
            account, is_new = await self._store.create_account(actor, new, asked)
        return account, secret if is_new else ""

    async def accounts(self, actor: Actor, request: PageRequest) -> Page[Account]:
        return await self._store.accounts(actor.organization_id, request)

    async def disable_account(self, actor: Actor, client_id: str) -> Account:
        """Raises NotFound."""
        with changing(self._trail, actor, "disabled", f"service_account/{client_id}") as change:
            if await self._store.account(actor.organization_id, client_id) is None:
                raise NotFound(kind="service_account")
            await change.assure()
            changed = await self._store.disable_account(actor.organization_id, client_id)
        await self._sessions.end(actor.organization_id, service_user_id(client_id))
        return changed
