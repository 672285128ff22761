"""What Envoy counts of each gRPC method: only of ours, since strangers may make up names."""

from collections import defaultdict

from envoy_data_plane.envoy.config.core.v3 import GrpcMethodList, GrpcMethodListService
from envoy_data_plane.envoy.config.metrics.v3 import StatsConfig, TagSpecifier
from envoy_data_plane.envoy.extensions.filters.http.grpc_stats.v3 import FilterConfig

from services.common.policy import POLICY

FILTER = "envoy.filters.http.grpc_stats"

# What is taken out of a counter's name, and what of that is the label's value. Envoy's own labels expect names without
# dots, and make `envoy_grpc_bridge_method="inference"` of ours.
SERVICE = r"^cluster\.[^.]+\.grpc\.(((?:\w+\.)*\w+Service)\.)"
METHOD = r"^cluster\.[^.]+\.grpc\.(?:\w+\.)*\w+Service\.((\w+)\.)"

# Where Envoy itself is; the sets of replicas that it calls (sets.py) are zones, too, whose durations it tells apart.
ZONE = "edge"
ZONE_SET = rf"^cluster\.[^.]+\.zone\.{ZONE}\.((\w+)\.)"


def labels() -> StatsConfig:
    return StatsConfig(
        stats_tags=[
            TagSpecifier(tag_name="grpc_service", regex=SERVICE),
            TagSpecifier(tag_name="grpc_method", regex=METHOD),
            TagSpecifier(tag_name="replica_set", regex=ZONE_SET),
        ]
    )


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
    )
