"""Logins that last: a family of refresh tokens for each, renewed one at a time, ended whole."""

import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from services.auth.core.claims import Descent
from services.auth.core.clients import BUILT_IN, LOGIN, Client, Grant
from services.auth.core.identity import Identity, Role, ScopeNotHeld, lesser, narrowed
from services.auth.core.refresh import (
    HANDLE_BYTES,
    LIFETIME_S,
    SALT_BYTES,
    SECRET_BYTES,
    Family,
    RefreshDigest,
    RefreshToken,
    Verdict,
    ended,
    judged,
    rotated,
)
from services.auth.ending import Revoker
from services.auth.errors import GrantInvalid
from services.auth.issuer import Issued, TokenIssuer
from services.auth.ports_oauth import ClientStore, SessionStore
from services.common.audit import Action, Happened, Outcome, Trail
from services.common.revoked import Kind

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Begun:
    """A family that is about to be kept, and its first token."""

    family: Family
    token: RefreshToken = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Presented:
    verdict: Verdict
    family: Family
    successor: RefreshToken | None = field(repr=False, default=None)


class Logins:
    def __init__(
        self,
        *,
        store: SessionStore,
        people: ClientStore,
        issuer: TokenIssuer,
        digest: RefreshDigest,
        revoker: Revoker,
        trail: Trail,
    ) -> None:
        self._store, self._people, self._issuer = store, people, issuer
        self._digest, self._revoker, self._trail = digest, revoker, trail

    def make(
        self, user_id: str, client: Client, scopes: frozenset[str], role_max: Role, now_s: float
    ) -> Begun:
        """A new family. Nothing is kept yet."""
        token = RefreshToken(secrets.token_bytes(HANDLE_BYTES), secrets.token_bytes(SECRET_BYTES))
        family = Family(
            session_id=uuid.uuid4().hex,
            handle=self._digest.of(token.handle),
            current=self._digest.of(token.secret),
            user_id=user_id,
            client_id=client.client_id,
            role_max=role_max,
            scopes=scopes,
            rotated_at_s=now_s,
            expires_at_s=now_s + LIFETIME_S,
        )
        return Begun(family, token)

    async def login(self, identity: Identity, lifetime_s: float | None, *, known_at_s: float) -> Issued:
        """Tokens for a person who has just proved who they are, to this service itself. Raises GrantInvalid."""
        begun: list[Begun] = []

        def make(now_s: float) -> Family:
            begun[:] = [self.make(identity.user_id, LOGIN, identity.scopes, identity.role, now_s)]
            return begun[0].family

        await self._store.begin(make)
        return await self.issue(
            begun[0], identity, lifetime_s, client=LOGIN, grant="password", known_at_s=known_at_s
        )

    async def issue(
        self,
        begun: Begun,
        identity: Identity,
        lifetime_s: float | None,
        *,
        client: Client,
        grant: str,
        known_at_s: float,
    ) -> Issued:
        """The first tokens of a family that is kept. Raises GrantInvalid."""
        issued = await self._issuer.issue(
            identity,
            lifetime_s,
            grant=grant,
            known_at_s=known_at_s,
            descent=Descent(session_id=begun.family.session_id),
        )
        if Grant.REFRESH_TOKEN not in client.grants:
            return issued
        return issued.renewable(str(begun.token), lifetime_s=LIFETIME_S)

    async def refreshed(
        self,
        token: str,
        *,
        client: Client | None = None,
        scopes: frozenset[str] = frozenset(),
        lifetime_s: float | None = None,
    ) -> Issued:
        """New tokens for an old one. `client` is who presents it; None: whoever has one that needs no secret.

        Raises GrantInvalid, ScopeNotHeld, StoreFailure.
        """
        known_at_s = time.time()
        presented = await self._presented(token, client, scopes)
        family = presented.family
        if presented.successor is None:
            if family.revoked:
                await self._told_reused(presented)
            raise GrantInvalid
        identity = await self._people.find_identity(family.user_id)
        if identity is None:
            await self.end(family.session_id, user_id=family.user_id, reason="USER_DISABLED")
            raise GrantInvalid
        held = replace(
            identity,
            role=lesser(identity.role, family.role_max),
            client_id=family.client_id,
            scopes=family.scopes,
        )
        issued = await self._issuer.issue(
            narrowed(held, scopes),
            lifetime_s,
            grant=Grant.REFRESH_TOKEN.value,
            known_at_s=known_at_s,
            descent=Descent(session_id=family.session_id),
        )
        return issued.renewable(
            str(presented.successor), lifetime_s=family.expires_at_s - presented.family.rotated_at_s
        )

    async def owner(self, token: str) -> Family | None:
        """The family that a refresh token belongs to, if the token itself may still be used."""
        read = RefreshToken.read(token)
        family = await self._store.find_family(self._digest.of(read.handle)) if read else None
        if read is None or family is None or family.revoked or time.time() >= family.expires_at_s:
            return None
        return family if family.current == self._digest.of(read.secret) else None

    async def belongs(self, token: str) -> Family | None:
        """The family that a refresh token belongs to, or belonged to."""
        read = RefreshToken.read(token)
        return await self._store.find_family(self._digest.of(read.handle)) if read else None

    async def end(self, session_id: str, *, user_id: str = "", reason: str = "") -> None:
        """Nothing that descends from this login is good for anything any more. Idempotent."""
        await self._store.end(session_id)
        await self._revoker.revoke(Kind.SESSION, session_id, owner=user_id)
        self._note(session_id, user_id, reason)

    async def _presented(self, token: str, client: Client | None, scopes: frozenset[str]) -> _Presented:
        read = RefreshToken.read(token)
        if read is None:
            raise GrantInvalid
        is_theirs = _is_of(client)
        secret = self._digest.of(read.secret)

        def decide(family: Family, now_s: float) -> tuple[_Presented | None, Family]:
            if not is_theirs(family.client_id):
                return None, family  # Says nothing about the token: its own client may use it.
            verdict = judged(family, secret, now_s)
            if verdict in {Verdict.ROTATE, Verdict.REPEAT} and not scopes <= family.scopes:
                raise ScopeNotHeld  # Before it is rotated: a request that is refused must not use up the token.
            match verdict:
                case Verdict.ROTATE:
                    salt = secrets.token_bytes(SALT_BYTES)
                    successor = self._digest.successor(read, salt)
                    family = rotated(family, self._digest.of(successor.secret), salt, now_s)
                    return _Presented(verdict, family, successor), family
                case Verdict.REPEAT:
                    return _Presented(verdict, family, self._digest.successor(read, family.salt)), family
                case Verdict.REUSED:
                    family = ended(family)
            return _Presented(verdict, family), family

        presented = await self._store.rotate(self._digest.of(read.handle), decide)
        if presented is None:
            raise GrantInvalid
        return presented

    async def _told_reused(self, presented: _Presented) -> None:
        """Also for a family that had ended before: whoever ended it may not have come to tell the others."""
        family = presented.family
        await self._revoker.revoke(Kind.SESSION, family.session_id, owner=family.user_id)
        if presented.verdict is Verdict.REUSED:
            log.warning("refresh_token_reused", session_id=family.session_id, user_id=family.user_id)
            self._note(family.session_id, family.user_id, "REFRESH_TOKEN_REUSED")

    def _note(self, session_id: str, user_id: str, reason: str) -> None:
        self._trail.note(
            Happened(
                action=Action.TOKEN_REVOKED,
                outcome=Outcome.ALLOWED,
                user_id=user_id,
                object=f"session/{session_id}",
                reason=reason,
            )
        )


def _is_of(client: Client | None) -> Callable[[str], bool]:
    """Whether a client, by its name, is the one that presents a token."""
    if client is not None:
        return lambda client_id: client_id == client.client_id
    return lambda client_id: client_id in BUILT_IN
