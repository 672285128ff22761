"""What a scraper and a probe on the network may read of Envoy: its figures and `/ready`, and nothing else.

Envoy's own interface stays on loopback. Where the scraper is elsewhere (a container, a pod), a listener of its own passes
two paths on, for GET only. There is none unless OLLAMESH_EDGE_METRICS_PORT says so.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any

from deploy.envoy import config
from deploy.envoy.admin import LOOPBACK
from deploy.envoy.clusters import socket_address
from deploy.envoy.config import Edge

NAME = "metrics"  # Of the listener, and of the cluster that is Envoy itself.
PATHS = ("/stats/prometheus", "/ready")
WITHIN = timedelta(seconds=10)  # As long as Prometheus waits, by default.


def listeners(edge: Edge) -> list[Listener]:
    if edge.metrics is None:
        return []
    manager = HttpConnectionManager(
        stat_prefix=NAME,
        route_config=RouteConfiguration(
            name=NAME, virtual_hosts=[VirtualHost(name=NAME, domains=["*"], routes=[*map(_route, PATHS)])]
        ),
        http_filters=[
            HttpFilter(
                name="envoy.filters.http.router", typed_config=Any.pack(Router(suppress_envoy_headers=True))
            )
        ],
        request_headers_timeout=WITHIN,
        stream_idle_timeout=WITHIN,
    )
    chain = Filter(name="envoy.filters.network.http_connection_manager", typed_config=Any.pack(manager))
    return [
        Listener(
            name=NAME,
            stat_prefix=NAME,
            address=socket_address(edge.metrics),
            filter_chains=[FilterChain(filters=[chain])],
            enable_reuse_port=False,
        )
    ]


def clusters(edge: Edge) -> list[Cluster]:
    if edge.metrics is None:
        return []
    itself = LbEndpoint(endpoint=Endpoint(address=socket_address(config.Endpoint(LOOPBACK, edge.admin_port))))
    return [
        Cluster(
            name=NAME,
            type=ClusterDiscoveryType.STATIC,
            connect_timeout=timedelta(seconds=1),
            load_assignment=ClusterLoadAssignment(
                cluster_name=NAME, endpoints=[LocalityLbEndpoints(lb_endpoints=[itself])]
            ),
        )
    ]


def _route(path: str) -> Route:
    """A query goes along: it only chooses among the figures, as `usedonly` does, and Envoy allows no other path."""
    reads = HeaderMatcher(name=":method", string_match=StringMatcher(exact="GET"))
    action = RouteAction(cluster=NAME, timeout=WITHIN)
    return Route(match=RouteMatch(path=path, headers=[reads]), route=action)
