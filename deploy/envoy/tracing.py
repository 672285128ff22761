"""Traces, if somebody collects them: a span for each call, and the caller's own trace goes on in ours.

The context travels as W3C's `traceparent`, which the services read. What a span says is what the access log says: no
query string, no header, no body.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import GrpcService, GrpcServiceEnvoyGrpc
from envoy_data_plane.envoy.config.trace.v3 import OpenTelemetryConfig, TracingHttp
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManagerTracing,
)
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any

from deploy.envoy.config import Edge

COLLECTOR = "otlp"  # The cluster.
SERVICE = "ollamesh-edge"
TIMEOUT = timedelta(seconds=1)
URL_CHARS_MAX = 0  # Of the path and the query string of `http.url`: there are codes and tokens in it.
CALLED = "%PATH(NQ:ORIG_OR_PATH)%"  # Else all spans would have one name. Without the query string.


def tracing(edge: Edge) -> HttpConnectionManagerTracing | None:
    if edge.otlp is None:
        return None
    collector = GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=COLLECTOR), timeout=TIMEOUT)
    return HttpConnectionManagerTracing(
        random_sampling=Percent(value=edge.trace_percent),
        # Nobody makes us trace more than that by asking for it.
        overall_sampling=Percent(value=edge.trace_percent),
        client_sampling=Percent(value=0),
        spawn_upstream_span=True,
        max_path_tag_length=URL_CHARS_MAX,
        operation=CALLED,
        upstream_operation="to %UPSTREAM_CLUSTER%",
        provider=TracingHttp(
            name="envoy.tracers.opentelemetry",
            typed_config=Any.pack(OpenTelemetryConfig(grpc_service=collector, service_name=SERVICE)),
        ),
    )
