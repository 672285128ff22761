"""What Envoy listens on: the one public port, and a socket on which it reads the keys from itself."""

from datetime import timedelta
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
    CidrRange,
    DataSource,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
    KeepaliveSettings,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import Cors
from envoy_data_plane.envoy.extensions.filters.http.grpc_web.v3 import GrpcWeb
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerCodecType,
    HttpConnectionManagerInternalAddressConfig,
    HttpConnectionManagerPathWithEscapedSlashesAction,
    HttpFilter,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any

from deploy.envoy import access_log, api_keys, clusters, cors, local_replies, routes, tokens, transcoding
from deploy.envoy.config import Edge

LUA = Path(__file__).with_name("edge.lua")
BUFFER_BYTES = 32 * 1024
STREAMS_MAX = 100  # For each connection; a client that needs more opens another.
STREAM_WINDOW_BYTES, CONNECTION_WINDOW_BYTES = 64 * 1024, 1024 * 1024
NOBODY = CidrRange(address_prefix="255.255.255.255", prefix_len=32)  # No range would mean private networks.
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
    return [_public(edge), _keys(edge)]


def _public(edge: Edge) -> Listener:
    return _listener("public", clusters.socket_address(edge.listen), _connection(edge))


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


def _listener(name: str, address: Address, manager: HttpConnectionManager) -> Listener:
    chain = Filter(name="envoy.filters.network.http_connection_manager", typed_config=Any.pack(manager))
    return Listener(
        name=name,
        address=address,
        filter_chains=[FilterChain(filters=[chain])],
        per_connection_buffer_limit_bytes=BUFFER_BYTES,
        enable_reuse_port=False,  # A port in use must be an error, not a lottery.
    )


def _connection(edge: Edge) -> HttpConnectionManager:
    return HttpConnectionManager(
        stat_prefix="public",
        codec_type=HttpConnectionManagerCodecType.AUTO,
        route_config=routes.public(edge),
        http_filters=_filters(edge),
        access_log=[access_log.stdout()],
        local_reply_config=local_replies.config(),
        server_name="ollamesh",
        # Every caller is a stranger, also one from a private network.
        use_remote_address=True,
        internal_address_config=HttpConnectionManagerInternalAddressConfig(cidr_ranges=[NOBODY]),
        early_header_mutation_extensions=[_strip()],
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST,
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=timedelta(minutes=15),
            headers_with_underscores_action=HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST,
        ),
        http2_protocol_options=Http2ProtocolOptions(
            max_concurrent_streams=STREAMS_MAX,
            initial_stream_window_size=STREAM_WINDOW_BYTES,
            initial_connection_window_size=CONNECTION_WINDOW_BYTES,
            connection_keepalive=KeepaliveSettings(
                interval=timedelta(seconds=30), timeout=timedelta(seconds=10)
            ),
        ),
        request_headers_timeout=timedelta(seconds=10),
        stream_idle_timeout=timedelta(seconds=routes.DEADLINE_S),
    )


def _filters(edge: Edge) -> list[HttpFilter]:
    """In the order in which a request meets them. Tokens come after the transcoder: see tokens.py."""
    script = Lua(default_source_code=DataSource(inline_string=LUA.read_text()))
    return [
        _filter("envoy.filters.http.grpc_web", GrpcWeb()),
        _filter(cors.FILTER, Cors()),
        _filter("envoy.filters.http.lua", script),
        _filter("envoy.filters.http.grpc_json_transcoder", transcoding.oauth()),
        _filter("envoy.filters.http.grpc_json_transcoder.models", transcoding.models()),
        _filter(api_keys.FILTER, api_keys.exchange()),
        _filter(tokens.FILTER, tokens.authentication(edge)),
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
