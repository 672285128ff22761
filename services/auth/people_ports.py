"""What the administration of people and tenants needs from the outside world."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from services.auth.core.identity import Role
from services.auth.core.people import Actor, Asked, UserId

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A user, as those may see them who administer them."""

    user_id: UserId
    username: str
    role: Role
    organization_id: str
    project_id: str
    disabled: bool
    create_time: dt.datetime
    display_name: str = ""
    issuer: str = ""  # Of a user whom an identity provider knows; empty for a local one.


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPerson:
    user_id: UserId
    username: str
    password_hash: str = field(repr=False)
    role: Role
    project_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A service account, without its secret."""

    client_id: str
    role: Role
    organization_id: str
    project_id: str
    scopes: frozenset[str]  # None means all.
    disabled: bool
    create_time: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAccount:
    client_id: str
    secret_digest: bytes = field(repr=False)
    role: Role
    project_id: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    organization_id: str
    display_name: str
    create_time: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    project_id: str
    organization_id: str
    display_name: str
    create_time: dt.datetime


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A part of a list: what comes `after` that key, from the start if it is empty."""

    after: str
    size: int


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: Sequence[T]
    next_after: str  # Empty on the last page.


class Remembered(Protocol):
    """What requests made that named themselves. Raises RequestIdReused where the body was another."""

    async def remembered(self, actor: Actor, asked: Asked) -> str | None:
        """The id of what the same request made before, within a day."""
        ...


class PeopleStore(Remembered, Protocol):
    """Users of one organisation at a time: the others' do not exist. All raise StoreFailure."""

    async def create(self, actor: Actor, new: NewPerson, asked: Asked | None) -> Person:
        """Make a user, or find whom the same request made. Raises NameTaken, NotFound, RequestIdReused."""
        ...

    async def find(self, organization_id: str, user_id: str) -> Person | None: ...

    async def password_hash(self, organization_id: str, user_id: str) -> str | None: ...

    async def page(self, organization_id: str, request: PageRequest) -> Page[Person]: ...

    async def set_role(self, organization_id: str, user_id: str, role: Role) -> Person:
        """Raises NotFound, LastAdmin."""
        ...

    async def set_project(self, organization_id: str, user_id: str, project_id: str) -> Person:
        """Raises NotFound."""
        ...

    async def set_password_hash(self, organization_id: str, user_id: str, new: str) -> Person:
        """Raises NotFound."""
        ...

    async def set_disabled(self, organization_id: str, user_id: str, *, disabled: bool) -> Person:
        """Raises NotFound, LastAdmin. Changes nothing where it is so already."""
        ...


class TenantStore(Remembered, Protocol):
    """Organisations, their projects and their service accounts. All raise StoreFailure."""

    async def create_organization(
        self, actor: Actor, new: Organization, admin: NewPerson, asked: Asked | None
    ) -> tuple[Organization, Person]:
        """Make one with its first project and its first admin. Raises NameTaken, RequestIdReused."""
        ...

    async def organization(self, organization_id: str) -> tuple[Organization, Person] | None:
        """The organisation and its first admin."""
        ...

    async def organizations(self, request: PageRequest) -> Page[Organization]: ...

    async def create_project(self, actor: Actor, new: Project, asked: Asked | None) -> Project:
        """Raises NameTaken, RequestIdReused."""
        ...

    async def project(self, organization_id: str, project_id: str) -> Project | None: ...

    async def projects(self, organization_id: str, request: PageRequest) -> Page[Project]: ...

    async def create_account(
        self, actor: Actor, new: NewAccount, asked: Asked | None
    ) -> tuple[Account, bool]:
        """The account, and whether it is new. Raises NameTaken, NotFound, RequestIdReused."""
        ...

    async def account(self, organization_id: str, client_id: str) -> Account | None: ...

    async def accounts(self, organization_id: str, request: PageRequest) -> Page[Account]: ...

    async def disable_account(self, organization_id: str, client_id: str) -> Account:
        """Raises NotFound."""
        ...


class Sessions(Protocol):
    """What a person or a service account is logged in with."""

    async def end(self, organization_id: str, user_id: str) -> None:
        """Make every token useless that was issued to them until now, on every replica within a second."""
        ...
