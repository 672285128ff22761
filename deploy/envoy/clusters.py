"""Where calls go: the replicas of each service, which of them are fit, and how many calls at once."""

from datetime import timedelta

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    CircuitBreakersThresholdsRetryBudget,
    Cluster,
    ClusterCommonLbConfig,
    ClusterCommonLbConfigLocalityWeightedLbConfig,
    ClusterDiscoveryType,
    ClusterDnsLookupFamily,
    ClusterEdsClusterConfig,
    ClusterLbPolicy,
    OutlierDetection,
    TrackClusterStats,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    HealthCheck,
    HealthCheckGrpcHealthCheck,
    Http2ProtocolOptions,
    KeepaliveSettings,
    Pipe,
    SocketAddress,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any

from deploy.envoy import config, files, sets, watched
from deploy.envoy.config import Edge
from deploy.envoy.inside import upstream_tls
from deploy.envoy.tracing import COLLECTOR

CONNECT_TIMEOUT = timedelta(seconds=1)
CHECK_EVERY = timedelta(seconds=1)
CALLS_MAX = 4096
# With no replica ready, ask them all: only the service can say why it is not (its ErrorInfo), and one that
# is gone refuses at once. With some ready, only those get calls.
PANIC_BELOW_PERCENT = 1
RETRIES_AT_ONCE = 50  # Enough for what a replica had not begun when it died; beyond, a fifth of the calls.
# What a slow reader may let pile up here, and what all of one replica's may before others must wait for them.
STREAM_WINDOW_BYTES, CONNECTION_WINDOW_BYTES = 64 * 1024, 64 * 1024 * 1024
KEYS, KEYS_LISTENER = "auth_keys", "jwks"
# Their replicas keep what a user has begun, so all calls of a user go to one of them: routes.py says who that is.
# With Maglev a replica that goes moves its own users and, of 3 to 16 replicas, fewer than one in 250 of the others;
# Envoy's ring, which grows anew for those that are left, moves one in 16 to one in 8.
KEEPING = {"sandbox"}


def clusters(edge: Edge) -> list[Cluster]:
    return [
        *(service(edge, name, name) for name in edge.upstreams),
        # The keys are published from memory: they need a live auth service, not a ready one.
        service(edge, KEYS, "auth", health="liveness"),
        Cluster(
            name=KEYS_LISTENER,
            type=ClusterDiscoveryType.STATIC,
            connect_timeout=CONNECT_TIMEOUT,
            load_assignment=_assignment(KEYS_LISTENER, keys_address(edge)),
        ),
        *([_collector(edge.otlp)] if edge.otlp is not None else []),
    ]


def service(edge: Edge, name: str, of: str, *, health: str = "") -> Cluster:
    """The replicas of a service. `health` names what its health check must say SERVING of."""
    cluster = Cluster(
        name=name,
        connect_timeout=CONNECT_TIMEOUT,
        lb_policy=ClusterLbPolicy.MAGLEV if of in KEEPING else ClusterLbPolicy.LEAST_REQUEST,
        common_lb_config=ClusterCommonLbConfig(
            healthy_panic_threshold=Percent(value=PANIC_BELOW_PERCENT),
            locality_weighted_lb_config=ClusterCommonLbConfigLocalityWeightedLbConfig(),
        ),
        # What each replica answered: deploy/rollout compares versions by it.
        track_cluster_stats=TrackClusterStats(per_endpoint_stats=True),
        typed_extension_protocol_options=_http2(),
        health_checks=[_health_check(health)],
        # Who is taken off the list gets nothing new, however well it is.
        ignore_health_on_host_removal=True,
        outlier_detection=_outlier_detection(),
        circuit_breakers=_circuit_breakers(),
        transport_socket=upstream_tls(edge, of),
    )
    if edge.watches_endpoints and edge.folder is not None:
        cluster.type = ClusterDiscoveryType.EDS
        cluster.eds_cluster_config = ClusterEdsClusterConfig(
            eds_config=files.source(watched.endpoints_path(edge.folder, of)), service_name=of
        )
    else:
        cluster.type = ClusterDiscoveryType.STRICT_DNS  # Numbers resolve to themselves.
        cluster.dns_lookup_family = ClusterDnsLookupFamily.V4_PREFERRED
        cluster.load_assignment = ClusterLoadAssignment.from_dict(
            sets.assignment(name, sets.of_edge(edge, of))
        )
    return cluster


def _collector(endpoint: config.Endpoint) -> Cluster:
    return Cluster(
        name=COLLECTOR,
        type=ClusterDiscoveryType.STRICT_DNS,
        connect_timeout=CONNECT_TIMEOUT,
        typed_extension_protocol_options=_http2(),
        load_assignment=_assignment(COLLECTOR, socket_address(endpoint)),
    )


def socket_address(endpoint: config.Endpoint) -> Address:
    return Address(socket_address=SocketAddress(address=endpoint.host, port_value=endpoint.port))


def keys_address(edge: Edge) -> Address:
    """A socket without a port or a file, for Envoy's talk with itself; the name keeps stacks apart."""
    return Address(pipe=Pipe(path=f"@ollamesh-jwks-{edge.listen.host}-{edge.listen.port}"))


def _assignment(name: str, *addresses: Address) -> ClusterLoadAssignment:
    endpoints = [LbEndpoint(endpoint=Endpoint(address=address)) for address in addresses]
    return ClusterLoadAssignment(cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=endpoints)])


def _http2() -> dict[str, Any]:
    keepalive = KeepaliveSettings(interval=timedelta(seconds=30), timeout=timedelta(seconds=10))
    options = Http2ProtocolOptions(
        connection_keepalive=keepalive,
        # All callers share a connection to a replica, and gRPC's server remembers in the connection's header
        # table that it could not read a header: one caller's malformed `grpc-timeout` would then fail the
        # calls of all others. Without a table nothing is remembered.
        hpack_table_size=0,
        initial_stream_window_size=STREAM_WINDOW_BYTES,
        initial_connection_window_size=CONNECTION_WINDOW_BYTES,
    )
    http2 = HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=options)
    return {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": Any.pack(
            HttpProtocolOptions(explicit_http_config=http2)
        )
    }


def _health_check(service_name: str) -> HealthCheck:
    return HealthCheck(
        timeout=timedelta(seconds=1),
        interval=CHECK_EVERY,
        no_traffic_interval=CHECK_EVERY,  # Its default of a minute would make a new stack wait for it.
        unhealthy_threshold=2,
        healthy_threshold=1,
        grpc_health_check=HealthCheckGrpcHealthCheck(service_name=service_name),
    )


def _outlier_detection() -> OutlierDetection:
    """Put a replica aside that cannot be reached, and for no other reason.

    What a replica answers is no measure: anybody can make it answer DEADLINE_EXCEEDED by asking for
    one, and five such calls would take it away from everybody.
    """
    return OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=2,
        enforcing_consecutive_local_origin_failure=100,
        enforcing_local_origin_success_rate=0,
        enforcing_consecutive_5xx=0,
        enforcing_consecutive_gateway_failure=0,
        enforcing_success_rate=0,
        interval=timedelta(seconds=1),
        base_ejection_time=timedelta(seconds=5),
        max_ejection_percent=50,  # Never the only one.
    )


def _circuit_breakers() -> CircuitBreakers:
    return CircuitBreakers(
        thresholds=[
            CircuitBreakersThresholds(
                max_connections=CALLS_MAX,
                max_pending_requests=CALLS_MAX,
                max_requests=CALLS_MAX,
                retry_budget=CircuitBreakersThresholdsRetryBudget(
                    budget_percent=Percent(value=20), min_retry_concurrency=RETRIES_AT_ONCE
                ),
            )
        ]
    )
