"""Envoy's own answers where they would mislead.

A call that Envoy ends at its deadline is an HTTP 504, which gRPC-Web reads as UNAVAILABLE: try again. It is
turned into what a service would have said. Native gRPC callers get the right status by themselves.

REST callers get each failure in the shape that their vendor's client reads, whoever it is that fails. What Envoy
says of a token is then said more exactly by edge.lua.
"""

import json
from collections.abc import Mapping

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    HeaderFilter,
    OrFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    RuntimeUInt32,
    SubstitutionFormatString,
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


# What Envoy may say to REST, and OpenAI's code for it.
SAID: Mapping[int, tuple[str, str | None]] = {
    400: ("the request is not one that this server takes", None),
    401: ("the access token is missing or not valid here", "invalid_api_key"),
    403: ("the access token is missing or not valid here", "invalid_api_key"),
    404: ("there is nothing at this path", "unknown_url"),
    405: ("there is nothing at this path for this method", "unknown_url"),
    408: ("the request did not arrive in time", None),
    413: ("the request is larger than this server takes", "request_too_large"),
    429: ("too many requests: try again later", "rate_limit_exceeded"),
    431: ("the headers are larger than this server takes", None),
    503: ("the server cannot answer just now: try again later", "overloaded"),
    504: ("the answer took too long", "timeout"),
}
OTHERWISE = "the server failed"
RETRY_LATER = {"retry-after": "1"}  # With what says to try again.
OLLAMA, OPENAI = "/api/", "/v1/"


def config() -> LocalReplyConfig:
    return LocalReplyConfig(mappers=[*_rest(OLLAMA), *_rest(OPENAI), _grpc_deadline()])


def _grpc_deadline() -> ResponseMapper:
    return ResponseMapper(
        filter=_both(_status(GATEWAY_TIMEOUT), _asked_in_grpc()),
        status_code=200,
        body=DataSource(inline_string=""),
        headers_to_add=[_header(name, value) for name, value in DEADLINE_EXCEEDED.items()],
    )


def _rest(path: str) -> list[ResponseMapper]:
    """A vendor's answers, by status, and one for all others."""
    mappers = [
        ResponseMapper(
            filter=_both(_status(status), _asked_at(path)),
            body_format_override=_json(path, status, message, code),
            headers_to_add=[
                _header(name, value) for name, value in RETRY_LATER.items() if status in {429, 503}
            ],
        )
        for status, (message, code) in SAID.items()
    ]
    failed = _status(400, ComparisonFilterOp.GE)
    otherwise = ResponseMapper(
        filter=_both(failed, _asked_at(path)), body_format_override=_json(path, 500, OTHERWISE, None)
    )
    return [*mappers, otherwise]


def _json(path: str, status: int, message: str, code: str | None) -> SubstitutionFormatString:
    body: dict[str, object] = {"error": message}
    if path == OPENAI:
        kind = "requests" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
        body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return SubstitutionFormatString(
        text_format_source=DataSource(inline_string=json.dumps(body)),
        content_type="application/json; charset=utf-8",
    )


def _asked_at(path: str) -> AccessLogFilter:
    """Where the caller asked: the transcoder keeps it in a header, which callers cannot set (listeners.py)."""
    names = (":path", "x-envoy-original-path")
    headers = [HeaderMatcher(name=name, string_match=StringMatcher(prefix=path)) for name in names]
    return AccessLogFilter(
        or_filter=OrFilter(
            filters=[AccessLogFilter(header_filter=HeaderFilter(header=header)) for header in headers]
        )
    )


def _both(*filters: AccessLogFilter) -> AccessLogFilter:
    return AccessLogFilter(and_filter=AndFilter(filters=list(filters)))


def _status(code: int, op: ComparisonFilterOp = ComparisonFilterOp.EQ) -> AccessLogFilter:
    value = RuntimeUInt32(default_value=code, runtime_key="ollamesh.unused")
    comparison = ComparisonFilter(op=op, value=value)
    return AccessLogFilter(status_code_filter=StatusCodeFilter(comparison=comparison))


def _asked_in_grpc() -> AccessLogFilter:
    kind = HeaderMatcher(name="content-type", string_match=StringMatcher(prefix="application/grpc"))
    return AccessLogFilter(header_filter=HeaderFilter(header=kind))


def _header(name: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(
        header=HeaderValue(key=name, value=value),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
