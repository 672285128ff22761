"""The ways to a token. Each proves who asks, then signs what the asker may be told to be."""

import asyncio
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from services.auth.core.claims import access_claims, period
from services.auth.core.client_secret import SecretDigest
from services.auth.core.identity import Identity, Role, is_client_id, is_username, lowered, narrowed
from services.auth.core.throttle import Throttle
from services.auth.errors import CredentialsInvalid
from services.auth.keyring import Keyring
from services.auth.ports import Hasher, Store, User
from services.auth.revocations import Revocations
from services.auth.telemetry import AuthMetrics
from services.common.errors import MeshError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A token that was signed just now."""

    access_token: str = field(repr=False)
    identity: Identity
    lifetime_s: int
    expires_at_s: int


class Grants:
    """The event loop is the lock: the throttle is asked and told without awaiting in between."""

    def __init__(  # noqa: PLR0913 - Called by the composition root alone.
        self,
        *,
        store: Store,
        hasher: Hasher,
        digest: SecretDigest,
        keyring: Keyring,
        issuer: str,
        metrics: AuthMetrics,
        revocations: Revocations,
    ) -> None:
        self._store, self._hasher, self._digest, self._keyring = store, hasher, digest, keyring
        self._issuer, self._metrics = issuer, metrics
        self._revocations = revocations
        self._throttle = Throttle()

    async def login(
        self, username: str, password: str, *, role: Role | None = None, lifetime_s: float | None = None
    ) -> Issued:
        """A person's token, with the lesser `role` and the shorter life they may ask for.

        Raises CredentialsInvalid, RateLimited, RoleRequired, StoreFailure.
        """
        with self._metrics.grant("password"):
            user = await self._authenticated(username, password)
            return await self._issue(lowered(user.identity, role), lifetime_s)

    async def client_credentials(
        self,
        client_id: str,
        client_secret: str,
        *,
        scopes: frozenset[str] = frozenset(),
        lifetime_s: float | None = None,
    ) -> Issued:
        """A service account's token, for all its scopes or for some.

        Raises CredentialsInvalid, ScopeNotHeld, StoreFailure. Not throttled: nobody guesses a secret
        of 32 random bytes, and a throttle would let anybody stop the account.
        """
        with self._metrics.grant("client_credentials"):
            account = await self._store.find_service_account(client_id) if is_client_id(client_id) else None
            if (
                not self._digest.fits(account.secret_digest if account else None, client_secret)
                or account is None
            ):
                raise CredentialsInvalid
            return await self._issue(narrowed(account.identity, scopes), lifetime_s)

    async def _authenticated(self, username: str, password: str) -> User:
        # Nothing here may take longer, or read otherwise, for a name that exists than for one that does
        # not; and a throttled guess costs neither the store nor a core anything.
        now_s = asyncio.get_running_loop().time
        self._throttle.check(username, now_s=now_s())
        user = await self._store.find_user(username) if is_username(username) else None
        self._throttle.attempt(username, now_s=now_s())
        if not await self._hasher.matches(user.password_hash if user else None, password) or user is None:
            raise CredentialsInvalid
        self._throttle.succeeded(username)
        if user.password_hash is not None and self._hasher.outdated(user.password_hash):
            with suppress(MeshError):  # The next login will do.
                await self._rehash(user.identity.user_id, user.password_hash, password)
        return user

    async def _rehash(self, user_id: str, old: str, password: str) -> None:
        new = await self._hasher.hash(password)
        await self._store.replace_password_hash(user_id, old=old, new=new)

    async def _issue(self, identity: Identity, lifetime_s: float | None) -> Issued:
        await self._revocations.settled(identity.user_id, identity.client_id)
        valid = period(time.time(), lifetime_s)
        token_id = uuid.uuid4().hex
        claims = access_claims(identity, valid, issuer=self._issuer, token_id=token_id)
        token = self._keyring.sign(claims)
        log.info("token_issued", user_id=identity.user_id, role=identity.role.value, token_id=token_id)
        return Issued(
            access_token=token,
            identity=identity,
            lifetime_s=valid.expires_at_s - valid.issued_at_s,
            expires_at_s=valid.expires_at_s,
        )
