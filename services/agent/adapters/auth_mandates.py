"""Mandates, as the auth service gives them: implements ports.Mandates."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc.aio
import jwt
from google.protobuf.duration_pb2 import Duration
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub

if TYPE_CHECKING:  # Known to type checkers only.
    from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceAsyncStub

from services.agent.adapters.refusals import refusal_of
from services.agent.errors import AccessEnded
from services.agent.ports import Access
from services.common.errors import AuthUnavailable, TokenExpired, TokenInvalid

SERVICE = "ollamesh.auth.v1.AuthService"
IDEMPOTENT = ("RedeemMandate", "EndMandate")  # A mandate that is created twice is only never used.
DOMAIN = "auth.ollamesh"
CALLED = frozenset({"inference", "sandbox"})
TIMEOUT_S = 5.0
# What does not get better by asking again; anything else is auth being away.
_ENDED = frozenset({"GRANT_INVALID", "EXCHANGE_REFUSED", "SCOPE_DENIED"})
_TOKENS = {error.reason: error for error in (TokenInvalid, TokenExpired)}


class AuthMandates:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._auth: AuthServiceAsyncStub = AuthServiceStub(channel)

    async def create(self, token: str, *, lifetime_s: float) -> str:
        """Raises TokenInvalid, TokenExpired, AccessEnded, AuthUnavailable."""
        scopes = sorted(CALLED & _scopes(token))
        if not scopes:
            raise AccessEnded
        lifetime = Duration()
        lifetime.FromMilliseconds(round(lifetime_s * 1000))
        request = pb.CreateMandateRequest(subject_token=token, scopes=scopes, lifetime=lifetime)
        with _translated():
            return (await self._auth.CreateMandate(request, timeout=TIMEOUT_S)).mandate

    async def redeem(self, mandate: str) -> Access:
        """Raises AccessEnded, AuthUnavailable."""
        with _translated():
            response = await self._auth.RedeemMandate(
                pb.RedeemMandateRequest(mandate=mandate), timeout=TIMEOUT_S
            )
        return Access(token=response.access_token, expire_time_s=response.expire_time.ToNanoseconds() / 1e9)

    async def end(self, mandate: str) -> None:
        """Raises AuthUnavailable."""
        with _translated():
            await self._auth.EndMandate(pb.EndMandateRequest(mandate=mandate), timeout=TIMEOUT_S)


def _scopes(token: str) -> frozenset[str]:
    """What a token says that it is good for. It was verified when its caller came with it."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        raise TokenInvalid from None
    return frozenset(str(claims.get("scope", "")).split())


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        reason = refusal_of(error, domain=DOMAIN).reason
        if reason in _ENDED:
            raise AccessEnded from error
        raise _TOKENS.get(reason, AuthUnavailable) from error
