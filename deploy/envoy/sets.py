"""The replicas of a service, in two sets that share its calls by weight: `blue` and `green`.

One set serves while the other one is empty, or holds the next version. Both are one cluster to Envoy, a locality each:
so what one set failed can be tried again at the other, a user's replica stays the user's while weights do not change,
and a set that is not healthy loses its share by itself. Which of the two is the old version changes with each rollout.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deploy.envoy.config import BLUE, GREEN, SETS, Edge, Endpoint

WEIGHT_MAX = 100


class WeightError(ValueError):
    """One sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSet:
    replicas: tuple[Endpoint, ...] = ()
    weight: int = 0  # Percent of the calls, if the weights of both make 100.


Sets = Mapping[str, ReplicaSet]


def of_edge(edge: Edge, service: str) -> Sets:
    """As the settings say."""
    green = edge.greens.get(service)
    if green is None:
        return shared(edge.upstreams[service], (), green_percent=0)
    return shared(edge.upstreams[service], green.replicas, green_percent=green.percent)


def shared(blue: Iterable[Endpoint], green: Iterable[Endpoint], *, green_percent: int) -> Sets:
    return {
        BLUE: ReplicaSet(replicas=tuple(blue), weight=WEIGHT_MAX - green_percent),
        GREEN: ReplicaSet(replicas=tuple(green), weight=green_percent),
    }


def weighed(sets: Sets, green_percent: int) -> Sets:
    """Raises WeightError rather than send calls to nobody."""
    if not 0 <= green_percent <= WEIGHT_MAX:
        raise WeightError(f"a weight is a percentage, 0 to {WEIGHT_MAX}")
    for name, weight in ((BLUE, WEIGHT_MAX - green_percent), (GREEN, green_percent)):
        if weight and not sets[name].replicas:
            raise WeightError(f"{name} has no replica to call")
    return shared(sets[BLUE].replicas, sets[GREEN].replicas, green_percent=green_percent)


def assignment(name: str, sets: Sets) -> dict[str, Any]:
    """A ClusterLoadAssignment. A locality without weight gets no calls, but is asked for its health."""
    return {
        "cluster_name": name,
        "endpoints": [
            _locality(color, sets[color]) for color in SETS if sets[color].replicas or sets[color].weight
        ],
    }


def read(assignment: Mapping[str, Any]) -> Sets:
    found = {color: ReplicaSet() for color in SETS}
    for locality in assignment["endpoints"]:
        addresses = [one["endpoint"]["address"]["socket_address"] for one in locality["lb_endpoints"]]
        found[locality["locality"]["zone"]] = ReplicaSet(
            replicas=tuple(Endpoint(one["address"], one["port_value"]) for one in addresses),
            weight=locality.get("load_balancing_weight", 0),
        )
    return found


def _locality(color: str, found: ReplicaSet) -> dict[str, Any]:
    addresses = ({"address": one.host, "port_value": one.port} for one in found.replicas)
    return {
        "locality": {"zone": color},
        "lb_endpoints": [{"endpoint": {"address": {"socket_address": one}}} for one in addresses],
        **({"load_balancing_weight": found.weight} if found.weight else {}),
    }
