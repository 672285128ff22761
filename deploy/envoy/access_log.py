"""One JSON line for each call, on standard output: what was called and what became of it.

Never a query string, a header of the caller's choosing, or a body: each may hold a secret. Who called is named by what
a token says that was found good, by ids and nothing else.
"""

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.core.v3 import SubstitutionFormatString
from envoy_data_plane.envoy.extensions.access_loggers.stream.v3 import StdoutAccessLog
from envoy_data_plane.google.protobuf import Any, Struct

from deploy.envoy.tokens import CLAIMS, FILTER


def _claim(name: str) -> str:
    return f"%DYNAMIC_METADATA({FILTER}:{CLAIMS}:{name})%"


FIELDS = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "trace_id": "%TRACE_ID%",
    "user": _claim("user_id"),
    "organization": _claim("org"),
    "project": _claim("project"),
    "client": _claim("client_id"),
    "api_key": _claim("api_key"),
    "actor": _claim("act:sub"),
    "certificate": "%DOWNSTREAM_PEER_FINGERPRINT_256%",
    "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
    "path": "%PATH(NQ:ORIG_OR_PATH)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS(SNAKE_STRING)%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration_ms": "%DURATION%",
    "received_bytes": "%BYTES_RECEIVED%",
    "sent_bytes": "%BYTES_SENT%",
    "upstream": "%UPSTREAM_CLUSTER%",
    "replica": "%UPSTREAM_HOST%",
    "tls": "%DOWNSTREAM_TLS_VERSION%",
    "peer": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
}


def stdout() -> AccessLog:
    line = SubstitutionFormatString(json_format=Struct.from_dict(FIELDS), omit_empty_values=True)
    return AccessLog(
        name="envoy.access_loggers.stdout", typed_config=Any.pack(StdoutAccessLog(log_format=line))
    )
