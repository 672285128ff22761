"""How a stranger's connection is read: what is refused, what is bounded, how long each thing may take.

After Envoy's "edge best practices", with limits that its defaults leave open. What is measured against them is in
overload.py; what a call may do once it is read, in routes.py.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import (
    CidrRange,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
    KeepaliveSettings,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerCodecType,
    HttpConnectionManagerInternalAddressConfig,
    HttpConnectionManagerPathWithEscapedSlashesAction,
    HttpFilter,
)
from envoy_data_plane.envoy.type.v3 import Percent

from deploy.envoy import access_log, local_replies, routes, tracing
from deploy.envoy.config import Edge

STREAMS_MAX = 100  # For each connection; a client that needs more opens another.
STREAM_WINDOW_BYTES, CONNECTION_WINDOW_BYTES = 64 * 1024, 1024 * 1024
# Twice what gRPC's servers read, and four times the largest token.
HEADERS_KIB_MAX, HEADERS_COUNT_MAX = 32, 100
# A client may take back a stream that it opened: rarely this many, unless it wants to make work (CVE-2023-44487).
RESETS_BURST, RESETS_PER_S = 1000, 100
# How long an answer that is complete may wait for a reader who takes nothing.
FLUSH_WITHIN = timedelta(seconds=60)
# Connections come anew now and then, so that they spread over edges that were added, and see new certificates.
CONNECTION_LIFETIME = timedelta(hours=1)
NOBODY = CidrRange(address_prefix="255.255.255.255", prefix_len=32)  # No range would mean private networks.


def manager(
    edge: Edge, name: str, *, filters: list[HttpFilter], early: list[TypedExtensionConfig]
) -> HttpConnectionManager:
    """`early` sees the headers before anything else does."""
    return HttpConnectionManager(
        stat_prefix=name,
        codec_type=HttpConnectionManagerCodecType.AUTO,
        route_config=routes.public(edge, name),
        http_filters=filters,
        access_log=[access_log.stdout()],
        local_reply_config=local_replies.config(),
        tracing=tracing.tracing(edge),
        server_name="ollamesh",
        # Every caller is a stranger, also one from a private network.
        use_remote_address=True,
        xff_num_trusted_hops=edge.proxies_before,
        internal_address_config=HttpConnectionManagerInternalAddressConfig(cidr_ranges=[NOBODY]),
        early_header_mutation_extensions=early,
        always_set_request_id_in_response=True,  # What a caller can name, and a log can be searched for.
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST,
        max_request_headers_kb=HEADERS_KIB_MAX,
        common_http_protocol_options=_common(),
        http_protocol_options=_http1(),
        http1_safe_max_connection_duration=True,
        http2_protocol_options=_http2(),
        request_headers_timeout=timedelta(seconds=10),
        stream_idle_timeout=timedelta(seconds=routes.DEADLINE_S),
        stream_flush_timeout=FLUSH_WITHIN,
        # No `request_timeout`: a body may be a stream. Routes bound each call.
        # And no `max_requests_per_connection`: a connection's age and its resets are bounded instead.
    )


def _common() -> HttpProtocolOptions:
    return HttpProtocolOptions(
        idle_timeout=timedelta(minutes=15),
        max_connection_duration=CONNECTION_LIFETIME,
        max_connection_duration_jitter=Percent(value=20),
        max_headers_count=HEADERS_COUNT_MAX,
        # `x_role` and `x-role` are one header to some programs: nobody is to be told two things.
        headers_with_underscores_action=HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST,
    )


def _http1() -> Http1ProtocolOptions:
    """Said, because a default that changes would change who reads what (request smuggling)."""
    return Http1ProtocolOptions(
        accept_http_10=False,
        allow_chunked_length=False,
        enable_trailers=False,
        allow_custom_methods=False,
        # A connection that sent what cannot be parsed is closed.
        override_stream_error_on_invalid_http_message=False,
    )


def _http2() -> Http2ProtocolOptions:
    return Http2ProtocolOptions(
        max_concurrent_streams=STREAMS_MAX,
        initial_stream_window_size=STREAM_WINDOW_BYTES,
        initial_connection_window_size=CONNECTION_WINDOW_BYTES,
        connection_keepalive=KeepaliveSettings(interval=timedelta(seconds=30), timeout=timedelta(seconds=10)),
        allow_connect=False,
        override_stream_error_on_invalid_http_message=True,  # One bad stream is not the others' fault.
        stream_reset_burst=RESETS_BURST,
        stream_reset_rate=RESETS_PER_S,
    )
