"""Who is calling: from the token, by the policy table, and nowhere else."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import assert_never

import jwt

from services.common.errors import AuthUnavailable, DeadlineRequired, RoleRequired, TokenInvalid
from services.common.grpc.around import Check, Context
from services.common.policy import POLICY, Access
from services.common.tokens import Caller, Role, verify

CACHE_SIZE_MAX = 4096
REFETCH_AFTER_S = 5.0  # An unknown key is worth a question so often, and no oftener.

Keys = Mapping[str, jwt.PyJWK]

# Set once per call and never reset: each call has its own context.
_caller: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """Return the verified caller. Only for methods that are not PUBLIC."""
    return _caller.get()


class Verifier:
    """Checks tokens for one audience with keys that it fetches itself.

    `fetch_keys` raises AuthUnavailable when it cannot. Keys once fetched stay good while the auth service is away. A
    verified token is remembered by its hash until it expires, so that a busy caller costs one signature check.
    """

    def __init__(self, fetch_keys: Callable[[], Awaitable[Keys]], *, issuer: str, audience: str) -> None:
        self._fetch_keys = fetch_keys
        self._issuer, self._audience = issuer, audience
        self._keys: Keys = {}
        self._fetched_at_s = self._failed_at_s = float("-inf")
        self._refreshing = asyncio.Lock()
        self._verified: dict[bytes, Caller] = {}

    async def verify(self, token: str) -> Caller:
        now_s = time.time()
        digest = hashlib.sha256(token.encode()).digest()
        if (known := self._verified.get(digest)) is not None:
            if known.expires_at_s > now_s:
                return known
            del self._verified[digest]
        if (key_id := _key_id(token)) not in self._keys:
            await self._refresh(key_id)
        found = verify(token, self._keys, issuer=self._issuer, audience=self._audience, now_s=now_s)
        if len(self._verified) >= CACHE_SIZE_MAX:
            self._verified.pop(next(iter(self._verified)))
        self._verified[digest] = found
        return found

    async def _refresh(self, key_id: str | None) -> None:
        """Ask for the keys, once for all callers that wait, and not again too soon."""
        now_s = asyncio.get_running_loop().time
        arrived_s = now_s()
        async with self._refreshing:
            if key_id in self._keys or (self._keys and now_s() - self._fetched_at_s < REFETCH_AFTER_S):
                return
            # Others asked in vain: while this one waited, or just now for another unknown key.
            if self._failed_at_s > arrived_s or (
                self._keys and now_s() - self._failed_at_s < REFETCH_AFTER_S
            ):
                raise AuthUnavailable
            try:
                self._keys = await self._fetch_keys()
            except AuthUnavailable:
                self._failed_at_s = now_s()
                raise
            self._fetched_at_s = now_s()


def authentication(verifier: Verifier) -> Check:
    """Let a call through if its row in the policy table allows it, and remember who is calling."""

    async def check(method: str, context: Context) -> None:
        access = POLICY.get(method)
        if access is None:
            raise RoleRequired(role="none")
        # Services know each other by their certificates (and the edge routes nobody there).
        if access not in {Access.PUBLIC, Access.SERVICE}:
            found = await verifier.verify(_bearer(context))
            _check_role(access, found)
            _caller.set(found)

    return check


def deadline() -> Check:
    """Refuse calls that would wait for ever. Health checks and reflection may."""

    async def check(method: str, context: Context) -> None:
        if context.time_remaining() is None and not method.startswith("/grpc."):
            raise DeadlineRequired

    return check


def _check_role(access: Access, found: Caller) -> None:
    match access:
        case Access.PUBLIC | Access.SERVICE | Access.USER:
            return
        case Access.ADMIN:
            if found.role is not Role.ADMIN:
                raise RoleRequired(role=Role.ADMIN.value)
        case _:
            assert_never(access)


def _bearer(context: Context) -> str:
    values = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if len(values) != 1:
        raise TokenInvalid
    scheme, _, token = str(values[0]).partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise TokenInvalid
    return token


def _key_id(token: str) -> str | None:
    try:
        return jwt.get_unverified_header(token).get("kid")
    except jwt.PyJWTError:
        raise TokenInvalid from None
