"""Who is calling: from the token, by the policy table, and nowhere else."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import assert_never

import jwt

from services.common.dpop import Used
from services.common.errors import (
    AuthUnavailable,
    DeadlineRequired,
    RoleRequired,
    ScopeRequired,
    TokenInvalid,
)
from services.common.grpc.around import Check, Context
from services.common.grpc.dpop import check_bound
from services.common.grpc.peer import peer_service
from services.common.policy import FOUNDING_ORGANIZATION, POLICY, Access, Row
from services.common.revoked import DenyList
from services.common.tokens import Caller, Role, key_id_of, verify

CACHE_SIZE_MAX = 4096
REFETCH_AFTER_S = 5.0  # An unknown key is worth a question so often, and no oftener.

Keys = Mapping[str, jwt.PyJWK]

# Set once per call and never reset: each call has its own context.
_caller: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """Return the verified caller. Only for methods that are not PUBLIC."""
    return _caller.get()


def known_caller() -> Caller | None:
    """The verified caller, where there is one: also of a call that was refused."""
    return _caller.get(None)


class Verifier:
    """Checks tokens for one audience with keys that it fetches itself.

    `fetch_keys` raises AuthUnavailable when it cannot. Keys once fetched stay good while the auth service is away. A
    verified token is remembered by its hash until it expires, so that a busy caller costs one signature check. Whether
    it was revoked is looked up each time.
    """

    def __init__(
        self,
        fetch_keys: Callable[[], Awaitable[Keys]],
        *,
        issuer: str,
        audience: str,
        denied: DenyList | None = None,
        refetch_after_s: float | None = None,
    ) -> None:
        """`refetch_after_s` 0: the keys are at hand, so an unknown one may be looked for each time."""
        self._fetch_keys = fetch_keys
        self._issuer, self._audience = issuer, audience
        self._denied = DenyList() if denied is None else denied
        self._refetch_after_s = REFETCH_AFTER_S if refetch_after_s is None else refetch_after_s
        self._keys: Keys = {}
        self._fetched_at_s = self._failed_at_s = float("-inf")
        self._refreshing = asyncio.Lock()
        self._verified: dict[bytes, Caller] = {}

    async def verify(self, token: str) -> Caller:
        now_s = time.time()
        digest = hashlib.sha256(token.encode()).digest()
        if (known := self._verified.get(digest)) is not None:
            if known.expires_at_s > now_s:
                return self._unless_revoked(known)
            del self._verified[digest]
        if (key_id := key_id_of(token)) not in self._keys:
            await self._refresh(key_id)
        found = verify(token, self._keys, issuer=self._issuer, audience=self._audience, now_s=now_s)
        if len(self._verified) >= CACHE_SIZE_MAX:
            self._verified.pop(next(iter(self._verified)))
        self._verified[digest] = found
        return self._unless_revoked(found)

    async def verify_any(self, token: str) -> Caller:
        """Likewise, for whatever service the token is: to be told of it, not to let it in."""
        if (key_id := key_id_of(token)) not in self._keys:
            await self._refresh(key_id)
        found = verify(token, self._keys, issuer=self._issuer, audience=None, now_s=time.time())
        return self._unless_revoked(found)

    async def refresh(self) -> None:
        """Have the keys that are published now, and no other. Raises AuthUnavailable, and keeps those it has."""
        async with self._refreshing:
            self._took(await self._fetch_keys())

    def _took(self, keys: Keys) -> None:
        if self._keys.keys() - keys.keys():
            self._verified = {
                digest: known for digest, known in self._verified.items() if known.key_id in keys
            }
        self._keys, self._fetched_at_s = keys, asyncio.get_running_loop().time()

    def _unless_revoked(self, found: Caller) -> Caller:
        if self._denied.denies(found):
            raise TokenInvalid
        return found

    async def _refresh(self, key_id: str | None) -> None:
        """Ask for the keys, once for all callers that wait, and not again too soon."""
        now_s = asyncio.get_running_loop().time
        arrived_s = now_s()
        async with self._refreshing:
            if key_id in self._keys or (self._keys and now_s() - self._fetched_at_s < self._refetch_after_s):
                return
            # Others asked in vain: while this one waited, or just now for another unknown key.
            if self._failed_at_s > arrived_s or (
                self._keys and now_s() - self._failed_at_s < self._refetch_after_s
            ):
                raise AuthUnavailable
            try:
                self._took(await self._fetch_keys())
            except AuthUnavailable:
                self._failed_at_s = now_s()
                raise


def authentication(verifier: Verifier, *, insecure_inside: bool = False) -> Check:
    """Let a call through if its row in the policy table allows it, and remember who is calling.

    `insecure_inside`: services are not told apart, for development over plain text. Then only the edge, which has no
    routes to their methods, keeps strangers from those.
    """
    used = Used()

    async def check(method: str, context: Context) -> None:
        row = POLICY.get(method)
        if row is None:
            raise RoleRequired(role="none")
        match row.access:
            case Access.PUBLIC:
                return
            case Access.USER | Access.ADMIN | Access.OPERATOR:
                found = await verifier.verify(_bearer(context))
                _caller.set(found)  # First: whom a refusal was for is to be known.
                check_bound(found, used, method, context)
                permit(row, found)
            case Access.SERVICE:
                peer = peer_service(context)
                if peer not in row.callers and not (peer is None and insecure_inside):
                    raise RoleRequired(role="service")
            case _:
                assert_never(row.access)

    return check


def permit(row: Row, found: Caller) -> None:
    """Raise RoleRequired or ScopeRequired unless a row for tokens allows what this one says."""
    if row.access in {Access.ADMIN, Access.OPERATOR} and found.role is not Role.ADMIN:
        raise RoleRequired(role=Role.ADMIN.value)
    if row.access is Access.OPERATOR and found.organization_id != FOUNDING_ORGANIZATION:
        raise RoleRequired(role=Role.ADMIN.value, organization=FOUNDING_ORGANIZATION)
    if row.scope not in found.scopes:
        raise ScopeRequired(scope=row.scope)


def deadline() -> Check:
    """Refuse calls that would wait for ever. Health checks and reflection may."""

    async def check(method: str, context: Context) -> None:
        if context.time_remaining() is None and not method.startswith("/grpc."):
            raise DeadlineRequired

    return check


def _bearer(context: Context) -> str:
    values = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if len(values) != 1:
        raise TokenInvalid
    scheme, _, token = str(values[0]).partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise TokenInvalid
    return token
