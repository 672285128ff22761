"""Envoy's own interface: loopback only, and only what is asked; what changes anything is draining, where its keeper does that at the end."""

from envoy_data_plane.envoy.config.bootstrap.v3 import Admin
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from deploy.envoy import leaving
from deploy.envoy.clusters import socket_address
from deploy.envoy.config import Edge, Endpoint

LOOPBACK = "127.0.0.1"


def admin(edge: Edge) -> Admin:
    return Admin(
        address=socket_address(Endpoint(LOOPBACK, edge.admin_port)),
        allow_paths=[
            StringMatcher(exact="/ready"),
            StringMatcher(exact="/stats"),
            StringMatcher(prefix="/stats?"),
            StringMatcher(prefix="/stats/prometheus"),
            *([StringMatcher(exact=f"{leaving.PATH}?graceful")] if edge.drains_at_stop else []),
        ],
    )
