"""Whom a service trusts: the auth service's public keys, fetched when a token needs them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import grpc.aio
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from ollamesh.auth.v1.oauth_service_pb2 import GetJwksRequest
from ollamesh.auth.v1.oauth_service_pb2_grpc import OAuthServiceStub
from prometheus_client import CollectorRegistry

from services.common.beside import beside
from services.common.config import Environment
from services.common.errors import AuthUnavailable
from services.common.grpc.caller import Keys, Verifier
from services.common.grpc.client import channel
from services.common.grpc.revocations import Follower
from services.common.grpc.trust_metrics import TrustMetrics
from services.common.inside import Inside
from services.common.jwk import key_set
from services.common.jws import Malformed
from services.common.revoked import DenyList

FETCH_TIMEOUT_S = 2.0
REFRESH_EVERY_S, RETRY_AFTER_S = 20.0, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustConfig:
    issuer: str
    auth_target: str

    @classmethod
    def read(cls, env: Environment) -> "TrustConfig":
        return cls(
            issuer=env.text("OLLAMESH_ISSUER", "http://ollamesh"),
            auth_target=env.text("OLLAMESH_AUTH_TARGET", "127.0.0.1:50051"),
        )


@asynccontextmanager
async def trust(
    config: TrustConfig, *, inside: Inside, audience: str, registry: CollectorRegistry | None = None
) -> AsyncIterator[Verifier]:
    """A verifier of tokens for `audience`, for as long as the service runs.

    It has no keys before it knows what was revoked: a service that has just started lets nobody in by mistake.
    """
    async with channel(config.auth_target, inside=inside, to="auth") as auth:
        stub, denied = OAuthServiceStub(auth), DenyList()
        metrics = TrustMetrics(registry or CollectorRegistry())
        follower = Follower(AuthServiceStub(auth), denied, heard=metrics.heard)

        async def fetch() -> Keys:
            try:
                async with asyncio.timeout(FETCH_TIMEOUT_S):
                    await follower.known()
                    body = await stub.GetJwks(GetJwksRequest(), timeout=FETCH_TIMEOUT_S)
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                raise AuthUnavailable from error
            return parse_keys(body.data)

        verifier = Verifier(fetch, issuer=config.issuer, audience=audience, denied=denied)
        async with (
            beside(follower.run(), name="revocations"),
            beside(_keep_fresh(verifier, follower.keys_changed, metrics), name="published keys"),
        ):
            yield verifier


async def _keep_fresh(verifier: Verifier, changed: asyncio.Event, metrics: TrustMetrics) -> None:
    """Know each key before the first token that it signs, and forget those that are published no more."""
    while True:
        changed.clear()
        try:
            await verifier.refresh()
        except AuthUnavailable:
            metrics.not_refreshed()
            pause_s = RETRY_AFTER_S
        else:
            metrics.refreshed()
            pause_s = REFRESH_EVERY_S
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await changed.wait()


def parse_keys(document: bytes) -> Keys:
    """Keys of a JWK set, by `kid`. Raises AuthUnavailable: who publishes nonsense publishes nothing."""
    try:
        return key_set(document)
    except Malformed:
        raise AuthUnavailable from None
