"""The whole configuration of the edge, from typed Python to the JSON that Envoy reads."""

import json

from betterproto2 import Casing
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap, BootstrapStaticResources

from deploy.envoy.admin import admin
from deploy.envoy.clusters import clusters
from deploy.envoy.config import Edge
from deploy.envoy.listeners import listeners
from deploy.envoy.overload import manager


def bootstrap(edge: Edge) -> Bootstrap:
    return Bootstrap(
        admin=admin(edge),
        overload_manager=manager(),
        static_resources=BootstrapStaticResources(listeners=listeners(edge), clusters=clusters(edge)),
    )


def render(edge: Edge) -> str:
    """JSON with the names of Envoy's own documentation."""
    text = json.dumps(bootstrap(edge).to_dict(casing=Casing.SNAKE), indent=1) + "\n"
    return text.replace('consecutive_5_xx"', 'consecutive_5xx"')  # betterproto2 splits that name in two.
