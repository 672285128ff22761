"""The whole configuration of the edge, from typed Python to the JSON that Envoy reads."""

import json

from betterproto2 import Casing
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap, BootstrapStaticResources
from envoy_data_plane.envoy.config.core.v3 import Locality, Node

from deploy.envoy import metrics, overload, statistics
from deploy.envoy.admin import admin
from deploy.envoy.clusters import clusters
from deploy.envoy.config import Edge
from deploy.envoy.listeners import PLAIN, TLS, listeners


def bootstrap(edge: Edge) -> Bootstrap:
    strangers = [PLAIN, *([TLS] if edge.tls is not None else [])]
    return Bootstrap(
        # Watched files are asked for by somebody; and a zone of its own has it count by the zones that it calls.
        node=Node(id="edge", cluster="ollamesh", locality=Locality(zone=statistics.ZONE)),
        admin=admin(edge),
        stats_config=statistics.labels(),
        overload_manager=overload.manager(edge.limits),
        layered_runtime=overload.runtime(edge.limits, strangers),
        static_resources=BootstrapStaticResources(
            listeners=[*listeners(edge), *metrics.listeners(edge)],
            clusters=[*clusters(edge), *metrics.clusters(edge)],
        ),
    )


def render(edge: Edge) -> str:
    """JSON with the names of Envoy's own documentation."""
    text = json.dumps(bootstrap(edge).to_dict(casing=Casing.SNAKE), indent=1) + "\n"
    return text.replace('consecutive_5_xx"', 'consecutive_5xx"')  # betterproto2 splits that name in two.
