"""How often callers may ask: two fences in Envoy itself, then the limits of who pays, as auth counts them.

The first fences stop one connection, and the doors that need no token, from keeping anybody busy; they know nobody. Then
auth is asked, with who pays: from the token that jwt_authn has verified, never from a header. Where auth does not answer in
time the request goes on: a limit is no reason to stop serving.

What is refused is worded by edge.lua, with what auth has said of it.
"""

from datetime import timedelta
from pathlib import Path

from envoy_data_plane.envoy.config.core.v3 import (
    ApiVersion,
    DataSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    HeaderValue,
    HeaderValueOption,
    RuntimeFractionalPercent,
)
from envoy_data_plane.envoy.config.ratelimit.v3 import RateLimitServiceConfig
from envoy_data_plane.envoy.config.route.v3 import (
    RateLimit as Descriptor,
)
from envoy_data_plane.envoy.config.route.v3 import (
    RateLimitAction,
    RateLimitActionMetaData,
    RateLimitActionMetaDataSource,
    RateLimitActionRequestHeaders,
)
from envoy_data_plane.envoy.extensions.filters.http.local_ratelimit.v3 import LocalRateLimit
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.http.ratelimit.v3 import RateLimit
from envoy_data_plane.envoy.type.metadata.v3 import MetadataKey, MetadataKeyPathSegment
from envoy_data_plane.envoy.type.v3 import FractionalPercent, FractionalPercentDenominatorType, TokenBucket
from envoy_data_plane.google.protobuf import Any

from deploy.envoy import tokens
from deploy.envoy.config import Edge

CONNECTION_FILTER = "envoy.filters.http.local_ratelimit.connection"
DOOR_FILTER = "envoy.filters.http.local_ratelimit.door"
SCRIPT_FILTER, SCRIPT = "envoy.filters.http.lua.rates", Path(__file__).with_name("rates.lua")
FILTER = "envoy.filters.http.ratelimit"
ASK_NAMESPACE = "ollamesh.rates"
DOMAIN = "ollamesh"
MARK = "x-ollamesh-limited"  # Of what Envoy refuses by itself.
# One connection's: more than any one client needs, and less than keeps this process busy.
CONNECTION_RATE_COUNT, CONNECTION_BURST_COUNT = 2000, 4000
# All callers' of one method that needs no token: auth hashes some forty passwords a second.
DOOR_RATE_COUNT, DOOR_BURST_COUNT = 200, 400
PAYERS = ("org", "project", "api_key")  # Claims. The names are those of services/auth/rpc/rate_limits.py.
OPTIONAL = {"api_key"}


def of_connection() -> LocalRateLimit:
    """The first fence: for each connection by itself."""
    return LocalRateLimit(
        stat_prefix="connection",
        token_bucket=_bucket(CONNECTION_RATE_COUNT, CONNECTION_BURST_COUNT),
        filter_enabled=_always(),
        filter_enforced=_always(),
        local_rate_limit_per_downstream_connection=True,
        rate_limited_as_resource_exhausted=True,
        response_headers_to_add=[_mark()],
    )


def of_doors() -> LocalRateLimit:
    """The second: only where a route says so (`door`)."""
    return LocalRateLimit(stat_prefix="door")


def door() -> Any:
    """For a route that takes no token: a bound for all who come there together."""
    return Any.pack(
        LocalRateLimit(
            stat_prefix="door",
            token_bucket=_bucket(DOOR_RATE_COUNT, DOOR_BURST_COUNT),
            filter_enabled=_always(),
            filter_enforced=_always(),
            rate_limited_as_resource_exhausted=True,
            response_headers_to_add=[_mark()],
        )
    )


def of_payers(edge: Edge) -> RateLimit:
    """The limits of keys, projects and organisations. A request without a verified token is none of theirs."""
    answer_within = timedelta(seconds=edge.rates_timeout_s)
    return RateLimit(
        domain=DOMAIN,
        timeout=answer_within,
        failure_mode_deny=False,
        rate_limited_as_resource_exhausted=True,
        disable_x_envoy_ratelimited_header=True,
        rate_limit_service=RateLimitServiceConfig(
            transport_api_version=ApiVersion.V3,
            grpc_service=GrpcService(
                envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name="auth"), timeout=answer_within
            ),
        ),
        rate_limits=[Descriptor(actions=[_asked(), *(_claim(name) for name in PAYERS), _path()])],
    )


def script() -> Lua:
    """What decides whether auth is asked; before `of_payers`, and after the token was verified."""
    return Lua(default_source_code=DataSource(inline_string=SCRIPT.read_text()))


def _asked() -> RateLimitAction:
    """Nothing is asked about a request that the script has not marked."""
    return RateLimitAction(
        metadata=RateLimitActionMetaData(
            descriptor_key="ask",
            metadata_key=MetadataKey(key=ASK_NAMESPACE, path=[MetadataKeyPathSegment(key="ask")]),
            source=RateLimitActionMetaDataSource.DYNAMIC,
        )
    )


def _claim(name: str) -> RateLimitAction:
    path = [MetadataKeyPathSegment(key=tokens.CLAIMS), MetadataKeyPathSegment(key=name)]
    return RateLimitAction(
        metadata=RateLimitActionMetaData(
            descriptor_key=name,
            metadata_key=MetadataKey(key=tokens.FILTER, path=path),
            source=RateLimitActionMetaDataSource.DYNAMIC,
            skip_if_absent=name in OPTIONAL,
        )
    )


def _path() -> RateLimitAction:
    return RateLimitAction(
        request_headers=RateLimitActionRequestHeaders(header_name=":path", descriptor_key="path")
    )


def _bucket(rate_count: int, burst_count: int) -> TokenBucket:
    return TokenBucket(
        max_tokens=burst_count, tokens_per_fill=rate_count // 10, fill_interval=timedelta(milliseconds=100)
    )


def _mark() -> HeaderValueOption:
    """By which edge.lua knows the refusal, and which it takes out again."""
    return HeaderValueOption(header=HeaderValue(key=MARK, value="true"))


def _always() -> RuntimeFractionalPercent:
    percent = FractionalPercent(numerator=100, denominator=FractionalPercentDenominatorType.HUNDRED)
    return RuntimeFractionalPercent(default_value=percent)
