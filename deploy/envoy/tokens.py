"""Tokens at the edge: what is checked, where the keys come from, and what the refused are told.

The services check every token again, and more strictly; the edge keeps strangers away from them. Its
filter runs after the transcoder, so one requirement for a gRPC path holds for REST and gRPC-Web too. A
route that says nothing about tokens needs one (`rules`), so forgetting to say is safe.

jwt_authn answers in its own words. It leaves its verdict in the call's metadata, and `edge.lua` answers
with the status, reason and details that the service itself would have given, from `refusals`.
"""

import base64
from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import HttpUri, Metadata
from envoy_data_plane.envoy.config.route.v3 import RouteMatch
from envoy_data_plane.envoy.extensions.filters.http.jwt_authn.v3 import (
    JwksAsyncFetch,
    JwtAuthentication,
    JwtCacheConfig,
    JwtClaimToHeader,
    JwtHeader,
    JwtProvider,
    JwtRequirement,
    PerRouteConfig,
    ProviderWithAudiences,
    RemoteJwks,
    RequirementRule,
)
from envoy_data_plane.google.protobuf import Any, Struct

from deploy.envoy.clusters import KEYS_LISTENER
from deploy.envoy.config import SERVICES, Edge
from services.common.errors import AuthUnavailable, MeshError, RequestsLimited, TokenExpired, TokenInvalid
from services.common.grpc.errors import status_of
from services.common.tokens import CLOCK_SKEW_S, LIFETIME_MAX_S, TOKEN_BYTES_MAX

FILTER = "envoy.filters.http.jwt_authn"
PROVIDER = "ollamesh"
VERDICT = "refusal"  # Where the filter leaves it; edge.lua reads it.
CLAIMS = "claims"  # Likewise what a token says that was found good; access_log.py and ratelimits.py read it.
# Who a good token is for, for routes to pick a replica by. Nobody can bring it along (listeners.py), and routes that
# do not pick by it take it away. Services believe the token only.
USER_HEADER = "x-ollamesh-user"
# Envoy does not look for a key it does not know, so this is how late it accepts a new one.
KEYS_EVERY = timedelta(seconds=5)
KEYS_RETRY = timedelta(milliseconds=100)
REFUSALS: tuple[type[MeshError], ...] = (TokenInvalid, TokenExpired, AuthUnavailable, RequestsLimited)


def authentication(edge: Edge) -> JwtAuthentication:
    return JwtAuthentication(
        providers={PROVIDER: _provider(edge.issuer)},
        strip_failure_response=True,  # edge.lua says it better.
        requirement_map={name: _requirement(name) for name in SERVICES},
        rules=[
            RequirementRule(match=RouteMatch(prefix="/"), requires=JwtRequirement(provider_name=PROVIDER))
        ],
    )


def required(service: str) -> Any:
    """For a route: a token for that service."""
    return Any.pack(PerRouteConfig(requirement_name=service))


def none_required() -> Any:
    return Any.pack(PerRouteConfig(disabled=True))


def refusals(service: str) -> Metadata:
    """For a route: the details of each refusal, by reason, ready for `grpc-status-details-bin`."""
    details = {
        error.reason: _encoded(status_of(error(), f"{service}.ollamesh").SerializeToString())
        for error in REFUSALS
    }
    return Metadata(filter_metadata={"envoy.filters.http.lua": Struct.from_dict(details)})


def _encoded(details: bytes) -> str:
    return base64.b64encode(details).decode().rstrip("=")


def _provider(issuer: str) -> JwtProvider:
    return JwtProvider(
        issuer=issuer,
        require_expiration=True,
        max_lifetime=timedelta(seconds=LIFETIME_MAX_S),
        clock_skew_seconds=CLOCK_SKEW_S,
        forward=True,  # The service checks it again.
        # Said, because by default a query parameter would do as well, and end up in logs.
        from_headers=[
            JwtHeader(name="authorization", value_prefix=prefix) for prefix in ("Bearer ", "bearer ")
        ],
        failed_status_in_metadata=VERDICT,
        payload_in_metadata=CLAIMS,
        claim_to_headers=[JwtClaimToHeader(header_name=USER_HEADER, claim_name="sub")],
        jwt_cache_config=JwtCacheConfig(jwt_cache_size=1024, jwt_max_token_size=TOKEN_BYTES_MAX),
        remote_jwks=RemoteJwks(
            http_uri=HttpUri(
                uri="http://auth/.well-known/jwks.json", cluster=KEYS_LISTENER, timeout=timedelta(seconds=1)
            ),
            cache_duration=KEYS_EVERY,
            async_fetch=JwksAsyncFetch(failed_refetch_duration=KEYS_RETRY),
        ),
    )


def _requirement(service: str) -> JwtRequirement:
    return JwtRequirement(
        provider_and_audiences=ProviderWithAudiences(provider_name=PROVIDER, audiences=[service])
    )
