"""What Envoy counts of each gRPC method: only of ours, since strangers may make up names."""

from collections import defaultdict

from envoy_data_plane.envoy.config.core.v3 import GrpcMethodList, GrpcMethodListService
from envoy_data_plane.envoy.extensions.filters.http.grpc_stats.v3 import FilterConfig

from services.common.policy import POLICY

FILTER = "envoy.filters.http.grpc_stats"


def methods() -> FilterConfig:
    by_service: dict[str, list[str]] = defaultdict(list)
    for path in POLICY:
        service, _, method = path.removeprefix("/").partition("/")
        if service.startswith("ollamesh."):
            by_service[service].append(method)
    return FilterConfig(
        individual_method_stats_allowlist=GrpcMethodList(
            services=[
                GrpcMethodListService(name=service, method_names=sorted(names))
                for service, names in sorted(by_service.items())
            ]
        ),
        replace_dots_in_grpc_service_name=True,  # Else Prometheus could not tell service from method.
    )
