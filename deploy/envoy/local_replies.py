"""Envoy's own answers where they would mislead.

A call that Envoy ends at its deadline is an HTTP 504, which gRPC-Web reads as UNAVAILABLE: try again. It is
turned into what a service would have said. Native gRPC callers get the right status by themselves.
"""

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    HeaderFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    RuntimeUInt32,
)
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

GATEWAY_TIMEOUT = 504
DEADLINE_EXCEEDED = {
    "content-type": "application/grpc",
    "grpc-status": "4",
    "grpc-message": "the deadline has passed",
}


def config() -> LocalReplyConfig:
    return LocalReplyConfig(
        mappers=[
            ResponseMapper(
                filter=_both(_status(GATEWAY_TIMEOUT), _asked_in_grpc()),
                status_code=200,
                body=DataSource(inline_string=""),
                headers_to_add=[_header(name, value) for name, value in DEADLINE_EXCEEDED.items()],
            )
        ]
    )


def _both(*filters: AccessLogFilter) -> AccessLogFilter:
    return AccessLogFilter(and_filter=AndFilter(filters=list(filters)))


def _status(code: int) -> AccessLogFilter:
    value = RuntimeUInt32(default_value=code, runtime_key="ollamesh.unused")
    comparison = ComparisonFilter(op=ComparisonFilterOp.EQ, value=value)
    return AccessLogFilter(status_code_filter=StatusCodeFilter(comparison=comparison))


def _asked_in_grpc() -> AccessLogFilter:
    kind = HeaderMatcher(name="content-type", string_match=StringMatcher(prefix="application/grpc"))
    return AccessLogFilter(header_filter=HeaderFilter(header=kind))


def _header(name: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
