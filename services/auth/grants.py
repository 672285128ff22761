"""The ways to a token. Each proves who asks, then signs what the asker may be told to be."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from services.auth.attempts import Attempts
from services.auth.core.client_secret import SecretDigest
from services.auth.core.identity import Identity, Role, is_client_id, is_username, lowered, narrowed
from services.auth.errors import CredentialsInvalid, GrantInvalid
from services.auth.issuer import Issued, TokenIssuer
from services.auth.logins import Logins
from services.auth.ports import Hasher, Store, User
from services.auth.telemetry import AuthMetrics
from services.common.audit import Action, Happened, Outcome, Trail
from services.common.errors import MeshError


class Grants:
    def __init__(  # noqa: PLR0913 - Called by the composition root alone.
        self,
        *,
        store: Store,
        hasher: Hasher,
        digest: SecretDigest,
        issuer: TokenIssuer,
        logins: Logins,
        trail: Trail,
        metrics: AuthMetrics,
        attempts: Attempts,
    ) -> None:
        self._store, self._hasher, self._digest = store, hasher, digest
        self._issuer, self._logins = issuer, logins
        self._trail, self._metrics, self._attempts = trail, metrics, attempts

    async def login(
        self, username: str, password: str, *, role: Role | None = None, lifetime_s: float | None = None
    ) -> Issued:
        """A person's tokens, with the lesser `role` and the shorter life they may ask for.

        Raises CredentialsInvalid, RateLimited, RoleRequired, StoreFailure.
        """
        with self._metrics.grant("password"):
            known_at_s = time.time()  # A password takes long to check.
            identity = await self.authenticated(username, password)
            with _still_theirs():
                return await self._logins.login(lowered(identity, role), lifetime_s, known_at_s=known_at_s)

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
            known_at_s = time.time()
            account = await self._store.find_service_account(client_id) if is_client_id(client_id) else None
            if (
                not self._digest.fits(account.secret_digest if account else None, client_secret)
                or account is None
            ):
                raise CredentialsInvalid
            identity = narrowed(account.identity, scopes)
            with _still_theirs():
                return await self._issuer.issue(
                    identity, lifetime_s, grant="client_credentials", known_at_s=known_at_s
                )

    async def authenticated(self, username: str, password: str) -> Identity:
        """Who proved to be whom. Raises CredentialsInvalid, RateLimited, StoreFailure."""
        try:
            user = await self._known(username, password)
        except MeshError as error:
            # Not whom they claimed to be: what was typed as a name may be a password.
            self._trail.note(Happened(action=Action.LOGIN, outcome=Outcome.DENIED, reason=error.reason))
            raise
        identity = user.identity
        self._trail.note(
            Happened(
                action=Action.LOGIN,
                outcome=Outcome.ALLOWED,
                user_id=identity.user_id,
                organization_id=identity.organization_id,
            )
        )
        return identity

    async def _known(self, username: str, password: str) -> User:
        # Nothing here may take longer, or read otherwise, for a name that exists than for one that does
        # not; and a throttled guess costs neither the store nor a core anything.
        self._attempts.check(username)
        user = await self._store.find_user(username) if is_username(username) else None
        was_counted = self._attempts.begin(username)
        if not await self._hasher.matches(user.password_hash if user else None, password) or user is None:
            raise CredentialsInvalid
        self._attempts.succeeded(username, was_counted=was_counted)
        if user.password_hash is not None and self._hasher.outdated(user.password_hash):
            with suppress(MeshError):  # The next login will do.
                await self._rehash(user.identity.user_id, user.password_hash, password)
        return user

    async def _rehash(self, user_id: str, old: str, password: str) -> None:
        new = await self._hasher.hash(password)
        await self._store.replace_password_hash(user_id, old=old, new=new)


@contextmanager
def _still_theirs() -> Iterator[None]:
    """Credentials that were good when they came, and are not any more, are none."""
    try:
        yield
    except GrantInvalid:
        raise CredentialsInvalid from None
