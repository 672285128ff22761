"""Administration of an organisation's users.

Another organisation's user is not found, by the query that finds one's own: nobody can tell the two apart, also not by
time. Whatever takes rights away ends the user's sessions afterwards; should that fail, the caller is told to try again,
and the change is done again without harm.
"""

import uuid
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from services.auth.attempts import Attempts
from services.auth.changes import changing
from services.auth.core.identity import Role
from services.auth.core.passwords import weakness
from services.auth.core.people import Actor, Asked, check_grants, check_resets, new_user_id
from services.auth.errors import CredentialsInvalid, NoPassword, NotFound
from services.auth.people_ports import NewPerson, Page, PageRequest, PeopleStore, Person, Sessions
from services.auth.ports import Hasher
from services.common.audit import Trail
from services.common.errors import InvalidRequest, Violation


@dataclass(frozen=True, slots=True, kw_only=True)
class UserWanted:
    username: str
    password: str = field(repr=False)
    role: Role
    project_id: str  # Empty: the actor's own.


class Passwords:
    """Hashes of passwords that are good enough."""

    def __init__(self, hasher: Hasher, common: AbstractSet[str]) -> None:
        self._hasher, self._common = hasher, common

    def check(self, password: str, *, field_name: str, username: str = "") -> None:
        """Raises InvalidRequest."""
        if why := weakness(password, common=self._common, username=username):
            raise InvalidRequest([Violation(field_name, f"the password {why}", "password")])

    async def hash(self, password: str) -> str:
        return await self._hasher.hash(password)

    async def matches(self, password_hash: str | None, password: str) -> bool:
        return await self._hasher.matches(password_hash, password)


class People:
    def __init__(
        self,
        *,
        store: PeopleStore,
        passwords: Passwords,
        attempts: Attempts,
        sessions: Sessions,
        trail: Trail,
    ) -> None:
        self._store, self._passwords, self._attempts = store, passwords, attempts
        self._sessions, self._trail = sessions, trail

    async def create(self, actor: Actor, wanted: UserWanted, asked: Asked | None) -> Person:
        """Raises RoleRequired, InvalidRequest, NameTaken, NotFound, RequestIdReused."""
        with changing(self._trail, actor, "created", f"user/{wanted.username}") as change:
            check_grants(actor, wanted.role)
            self._passwords.check(wanted.password, field_name="password", username=wanted.username)
            if asked and (known := await self._store.remembered(actor, asked)):
                return await self._found(actor, known)
            new = NewPerson(
                user_id=new_user_id(uuid.uuid4().hex),
                username=wanted.username,
                password_hash=await self._passwords.hash(wanted.password),
                role=wanted.role,
                project_id=wanted.project_id or actor.project_id,
            )
            await change.assure(user_id=new.user_id, role=new.role.value, project=new.project_id)
            return await self._store.create(actor, new, asked)

    async def page(self, actor: Actor, request: PageRequest) -> Page[Person]:
        return await self._store.page(actor.organization_id, request)

    async def set_role(self, actor: Actor, user_id: str, role: Role) -> Person:
        """Raises RoleRequired, NotFound, LastAdmin."""
        with changing(self._trail, actor, "role set", f"user/{user_id}") as change:
            check_grants(actor, role)
            await self._found(actor, user_id)
            await change.assure(role=role.value)
            changed = await self._store.set_role(actor.organization_id, user_id, role)
        await self._sessions.end(actor.organization_id, user_id)
        return changed

    async def set_project(self, actor: Actor, user_id: str, project_id: str) -> Person:
        """Raises NotFound."""
        with changing(self._trail, actor, "project set", f"user/{user_id}") as change:
            await self._found(actor, user_id)
            await change.assure(project=project_id)
            changed = await self._store.set_project(actor.organization_id, user_id, project_id)
        await self._sessions.end(actor.organization_id, user_id)
        return changed

    async def disable(self, actor: Actor, user_id: str) -> Person:
        """Raises NotFound, LastAdmin."""
        with changing(self._trail, actor, "disabled", f"user/{user_id}") as change:
            await self._found(actor, user_id)
            await change.assure()
            changed = await self._store.set_disabled(actor.organization_id, user_id, disabled=True)
        await self._sessions.end(actor.organization_id, user_id)
        return changed

    async def enable(self, actor: Actor, user_id: str) -> Person:
        """Raises NotFound."""
        with changing(self._trail, actor, "enabled", f"user/{user_id}") as change:
            await self._found(actor, user_id)
            await change.assure()
            return await self._store.set_disabled(actor.organization_id, user_id, disabled=False)

    async def set_password(self, actor: Actor, user_id: str, *, old: str, new: str) -> None:
        """The actor's own, with the old one, or an admin sets another's.

        Raises CredentialsInvalid, RoleRequired, NotFound, NoPassword, InvalidRequest, RateLimited.
        """
        user_id = user_id or actor.user_id
        with changing(self._trail, actor, "password set", f"user/{user_id}") as change:
            if user_id != actor.user_id:
                check_resets(actor)
            person = await self._found(actor, user_id)
            if person.issuer:
                raise NoPassword
            self._passwords.check(new, field_name="new_password", username=person.username)
            if user_id == actor.user_id:
                await self._check_own(person, old)
            new_hash = await self._passwords.hash(new)
            await change.assure()
            await self._store.set_password_hash(actor.organization_id, user_id, new_hash)
        await self._sessions.end(actor.organization_id, user_id)

    async def _check_own(self, person: Person, old: str) -> None:
        """A stolen token must not help to guess the password: it counts like a login."""
        self._attempts.check(person.username)
        known = await self._store.password_hash(person.organization_id, person.user_id)
        was_counted = self._attempts.begin(person.username)
        if not await self._passwords.matches(known, old):
            raise CredentialsInvalid
        self._attempts.succeeded(person.username, was_counted=was_counted)

    async def _found(self, actor: Actor, user_id: str) -> Person:
        found = await self._store.find(actor.organization_id, user_id)
        if found is None:
            raise NotFound(kind="user")
        return found
