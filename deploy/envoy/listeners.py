"""What Envoy listens on: plain text for this machine, TLS for others, and a socket on which it reads the keys from itself."""

from pathlib import Path

import betterproto2
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import (
    HeaderMutation as Mutation,
)
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import (
    HeaderMutationRemoveOnMatch,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    DataSource,
    TransportSocket,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import Cors
from envoy_data_plane.envoy.extensions.filters.http.grpc_web.v3 import GrpcWeb
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any

from deploy.envoy import (
    api_keys,
    clusters,
    compression,
    connection,
    cors,
    ratelimits,
    routes,
    statistics,
    tls,
    tokens,
    transcoding,
)
from deploy.envoy.config import Edge

LUA = Path(__file__).with_name("edge.lua")
BUFFER_BYTES = 32 * 1024
PLAIN, TLS = "public", routes.TLS
# Nobody may bring these along: they look like an identity, or give orders to Envoy.
STRIPPED_PREFIXES = (
    "x-auth-",
    "x-authenticated-",
    "x-envoy-",
    "x-forwarded-user",
    "x-ollamesh-",
    "x-org",
    "x-project",
    "x-remote-",
    "x-role",
    "x-scope",
    "x-tenant",
)
STRIPPED = (
    "api-key",  # Keys come in `authorization`; in another header they would reach a service.
    "remote-user",
    "x-api-key",
    "x-client-id",
    "x-email",
    "x-user",
    "x-user-email",
    "x-user-id",
    "x-user-role",
    "x-username",
)


def listeners(edge: Edge) -> list[Listener]:
    found = [_listener(PLAIN, clusters.socket_address(edge.listen), _strangers(edge, PLAIN))]
    if edge.tls is not None and edge.folder is not None:
        address = clusters.socket_address(edge.tls.listen)
        secure = tls.downstream(edge.tls, edge.folder)
        found.append(_listener(TLS, address, _strangers(edge, TLS), secure))
    return [*found, _keys(edge)]


def _strangers(edge: Edge, name: str) -> HttpConnectionManager:
    return connection.manager(edge, name, filters=_filters(edge), early=[_strip()])


def _keys(edge: Edge) -> Listener:
    manager = HttpConnectionManager(
        stat_prefix="keys",
        route_config=routes.keys(),
        http_filters=[
            _filter("envoy.filters.http.grpc_json_transcoder", transcoding.oauth()),
            _filter("envoy.filters.http.router", Router(suppress_envoy_headers=True)),
        ],
    )
    return _listener("keys", clusters.keys_address(edge), manager)


def _listener(
    name: str,
    address: Address,
    manager: HttpConnectionManager,
    secure: TransportSocket | None = None,
) -> Listener:
    chain = Filter(name="envoy.filters.network.http_connection_manager", typed_config=Any.pack(manager))
    return Listener(
        name=name,
        stat_prefix=name,
        address=address,
        filter_chains=[FilterChain(filters=[chain], transport_socket=secure)],
        per_connection_buffer_limit_bytes=BUFFER_BYTES,
        enable_reuse_port=False,  # A port in use must be an error, not a lottery.
    )


def _filters(edge: Edge) -> list[HttpFilter]:
    """In the order in which a request meets them. Tokens come after the transcoder: see tokens.py."""
    script = Lua(default_source_code=DataSource(inline_string=LUA.read_text()))
    return [
        *(_filter(name, compression.compressor(library)) for name, library in compression.FILTERS.items()),
        _filter("envoy.filters.http.grpc_web", GrpcWeb()),
        _filter(cors.FILTER, Cors()),
        _filter("envoy.filters.http.lua", script),
        _filter(ratelimits.CONNECTION_FILTER, ratelimits.of_connection()),
        _filter("envoy.filters.http.grpc_json_transcoder", transcoding.oauth()),
        _filter("envoy.filters.http.grpc_json_transcoder.models", transcoding.models()),
        _filter(ratelimits.DOOR_FILTER, ratelimits.of_doors()),
        _filter(api_keys.FILTER, api_keys.exchange(edge)),
        _filter(tokens.FILTER, tokens.authentication(edge)),
        _filter(ratelimits.SCRIPT_FILTER, ratelimits.script()),
        _filter(ratelimits.FILTER, ratelimits.of_payers(edge)),
        _filter(statistics.FILTER, statistics.methods()),
        _filter("envoy.filters.http.router", Router(suppress_envoy_headers=True)),
    ]


def _filter(name: str, config: betterproto2.Message) -> HttpFilter:
    return HttpFilter(name=name, typed_config=Any.pack(config))


def _strip() -> TypedExtensionConfig:
    matchers = [
        *(StringMatcher(prefix=prefix, ignore_case=True) for prefix in STRIPPED_PREFIXES),
        *(StringMatcher(exact=name, ignore_case=True) for name in STRIPPED),
    ]
    mutations = [
        Mutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=matcher)) for matcher in matchers
    ]
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=Any.pack(HeaderMutation(mutations=mutations)),
    )
