"""What the auth service needs from the outside world."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.auth.core.claims import Claims
from services.auth.core.identity import Identity
from services.auth.core.keys import Term


@dataclass(frozen=True, slots=True)
class User:
    identity: Identity
    password_hash: str | None = field(repr=False)  # None: an identity provider knows them.


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    identity: Identity
    secret_digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SealedKey:
    """A signing key as it is stored: nobody can read or forge one without the encryption key."""

    term: Term
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Founders:
    """What must exist before anybody can log in."""

    username: str
    admin: User
    service: ServiceAccount
    key: SealedKey


class Store(Protocol):
    """Identities and keys. Every method raises StoreFailure when the store does not answer in time."""

    async def found(self, founders: Founders) -> None:
        """Make those that do not exist, once, however many replicas try. Any key counts as the key."""
        ...

    async def find_user(self, username: str) -> User | None:
        """The user, unless disabled."""
        ...

    async def find_service_account(self, client_id: str) -> ServiceAccount | None:
        """The account, unless disabled."""
        ...

    async def replace_password_hash(self, user_id: str, *, old: str, new: str) -> None:
        """Do nothing if the hash is no longer `old`."""
        ...

    async def signing_keys(self) -> Sequence[SealedKey]: ...

    async def answers(self) -> bool: ...


class Hasher(Protocol):
    """Slow on purpose, so never on the event loop. Raises RateLimited when too many wait."""

    async def hash(self, password: str) -> str: ...

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """Whether the password fits; False for no hash, after the same time."""
        ...

    def outdated(self, password_hash: str) -> bool: ...


class SigningKey(Protocol):
    """A private key in memory."""

    @property
    def key_id(self) -> str: ...

    @property
    def public_jwk(self) -> dict[str, str]: ...

    def sign(self, claims: Claims) -> str: ...


class Locksmith(Protocol):
    def make(self) -> tuple[str, bytes]:
        """A new key's id and the key, sealed."""
        ...

    def open(self, key_id: str, sealed: bytes) -> SigningKey | None:
        """None for what this service did not seal under this id, or cannot open any more."""
        ...

    def resealed(self, sealed: bytes) -> bytes | None:
        """The same key, sealed with the first of the keys that open; None if it is, or cannot be opened."""
        ...


class Clock(Protocol):
    """Python's module `time` is one."""

    def time(self) -> float: ...

    def monotonic(self) -> float: ...
