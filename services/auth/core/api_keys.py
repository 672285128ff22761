"""API keys: what they look like, what is kept of them, and what they may do.

    omk_<environment>_<id>_<secret><checksum>      omk_live_0aB3dE5fG7hI_<30 characters><6 characters>

Each part has its use. `omk` lets scanners find leaked ones (DETECTOR); the environment keeps a test's key from being
tried on what is live; the id finds the row, so that the secret is never searched for; the secret has 178 bits; and the
checksum (CRC-32 of all before it) has typos and made-up keys refused without asking the store.

A secret is random and long, so a keyed digest of the whole key is what is kept; a slow hash would only help against
guessing.

Invariant: what `identity_of` returns has at most the rights of the key, and of its owner as they are now.
"""

import hmac
import re
import string
import zlib
from dataclasses import dataclass, field, replace
from itertools import islice

from services.auth.core.identity import GOES_ON_TO, SCOPES, Identity, Role, lesser, lowered
from services.auth.errors import KeyScopeNotHeld, LoginRequired, NotFound
from services.common.errors import RoleRequired

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
ID_LENGTH, SECRET_LENGTH, CHECKSUM_LENGTH = 12, 30, 6
# No look-around, so that every scanner's dialect knows it. What it finds, `KeyForm.read` judges.
DETECTOR = r"omk_[a-z][a-z0-9]{0,15}_[0-9A-Za-z]{12}_[0-9A-Za-z]{36}"
KEY_LENGTH_MAX = len("omk___") + 16 + ID_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH
ENVIRONMENT = re.compile(r"[a-z][a-z0-9]{0,15}")
LIFETIME_S = 90 * 86_400
KEYS_MAX = 50  # That work, for each user.
CLIENT_ID = "api-key"  # Never a service account's own: a key is not what its services know it by.

_KEY = re.compile(DETECTOR)
_WHOLE = re.compile(rf"(?<![0-9A-Za-z]){DETECTOR}(?![0-9A-Za-z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is known of a key; its secret is not. Times are in seconds since the epoch."""

    key_id: str
    prefix: str  # By which its owner knows it: all but the secret.
    display_name: str
    user_id: str
    organization_id: str
    project_id: str
    role: Role
    scopes: frozenset[str]
    created_at_s: float
    expires_at_s: float
    last_used_at_s: float | None = None
    revoked_at_s: float | None = None

    def works_at(self, now_s: float) -> bool:
        return self.revoked_at_s is None and now_s < self.expires_at_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """What the owner of a key may do now; one who is disabled has none."""

    role: Role
    scopes: frozenset[str] = SCOPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A key as the store has it, and its owner."""

    key: ApiKey
    digest: bytes = field(repr=False)
    owner: Owner | None  # None: disabled, or gone.


@dataclass(frozen=True, slots=True)
class Presented:
    """What can be a key: whether it is one, the store knows."""

    key_id: str
    digest: bytes = field(repr=False)

    def fits(self, kept: Kept) -> bool:
        return hmac.compare_digest(self.digest, kept.digest)


class KeyForm:
    """How keys of one environment are written, read, and digested.

    The digest's key is derived, so that SECRET_KEY itself digests nothing.
    """

    def __init__(self, environment: str, secret_key: str) -> None:
        self._environment = environment
        self._pepper = hmac.digest(secret_key.encode(), b"ollamesh api key 1", "sha256")

    def prefix(self, key_id: str) -> str:
        return f"omk_{self._environment}_{key_id}"

    def written(self, key_id: str, secret: str) -> str:
        """The whole key, from parts that were drawn at random."""
        body = f"{self.prefix(key_id)}_{secret}"
        return body + _checksum(body)

    def read(self, text: str) -> Presented | None:
        """None for what cannot be a key of this environment."""
        if len(text) > KEY_LENGTH_MAX or _KEY.fullmatch(text) is None:
            return None
        body, checksum = text[:-CHECKSUM_LENGTH], text[-CHECKSUM_LENGTH:]
        _, environment, key_id, _ = body.split("_")
        if environment != self._environment or checksum != _checksum(body):
            return None
        return Presented(key_id, hmac.digest(self._pepper, text.encode(), "sha256"))

    def found_in(self, text: str, *, count_max: int) -> list[Presented]:
        """The keys that a text holds whole; the first `count_max` of them."""
        candidates = map(self.read, (match[0] for match in _WHOLE.finditer(text)))
        return list(islice((found for found in candidates if found is not None), count_max))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who asks for something about keys, by the token they came with."""

    identity: Identity
    key_id: str | None = None  # They came with this key.
    acted_for: bool = False  # By a service, which came with their token.

    @property
    def logged_in(self) -> bool:
        return self.key_id is None and not self.acted_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A key that somebody wants. Unset is what its owner has."""

    display_name: str
    scopes: frozenset[str] = frozenset()
    lifetime_s: float | None = None
    project_id: str = ""
    role: Role | None = None


def granted(asker: Asker, wish: Wish) -> Identity:
    """What the key may be. Raises LoginRequired, RoleRequired, KeyScopeNotHeld.

    A key must not make keys: who has stolen one could outlive its end with another.
    """
    if not asker.logged_in:
        raise LoginRequired
    identity = lowered(asker.identity, wish.role)
    if beyond := sorted(wish.scopes - identity.scopes):
        raise KeyScopeNotHeld(scope=beyond[0])
    project_id = wish.project_id or identity.project_id
    if project_id != identity.project_id and asker.identity.role is not Role.ADMIN:
        raise RoleRequired(role=Role.ADMIN.value)  # Somebody else's budget.
    return replace(identity, scopes=wish.scopes or identity.scopes, project_id=project_id)


def check_may_end(asker: Asker, key: ApiKey) -> None:
    """Raise NotFound for a key of no concern to the asker, LoginRequired if they came with another key."""
    identity = asker.identity
    is_own = key.user_id == identity.user_id
    if key.organization_id != identity.organization_id or not (is_own or identity.role is Role.ADMIN):
        raise NotFound(kind="api_key")
    if not asker.logged_in and asker.key_id != key.key_id:
        raise LoginRequired


def identity_of(kept: Kept, now_s: float) -> Identity | None:
    """Who comes with a key; None if the key, or its owner, is not to be let in any more."""
    key, owner = kept.key, kept.owner
    if owner is None or not key.works_at(now_s):
        return None
    return Identity(
        user_id=key.user_id,
        role=lesser(key.role, owner.role),
        organization_id=key.organization_id,
        project_id=key.project_id,
        client_id=CLIENT_ID,
        scopes=key.scopes & owner.scopes,
    )


def for_service(identity: Identity, service: str) -> Identity | None:
    """The identity at that service and nowhere else; None where its scopes do not lead."""
    if service not in identity.scopes:
        return None
    return replace(identity, scopes=identity.scopes & (GOES_ON_TO.get(service, frozenset()) | {service}))


def _checksum(body: str) -> str:
    value, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_LENGTH):
        value, digit = divmod(value, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits
