"""What Envoy counted of a service's two sets of replicas, read from its own interface.

Calls and errors are counted for each replica: every try, also one whose failure a retry hid from the caller; an error
is what gRPC's status says, read from the trailers. Durations are counted for each set.
"""

import re
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from deploy.envoy.config import SETS, Endpoint
from deploy.envoy.sets import Sets
from deploy.rollout.core import Measured

TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 4 * 1024 * 1024
LINE = re.compile(r"^(\w+)\{([^}]*)\} (\S+)$")
LABEL = re.compile(r'(\w+)="([^"]*)"')
CALLS, ERRORS, HEALTHY = (f"envoy_cluster_endpoint_{name}" for name in ("rq_total", "rq_error", "healthy"))
DURATIONS = "envoy_cluster_zone_edge_upstream_rq_time_bucket"


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    labels: Mapping[str, str]
    value: float


def fetch(admin: str, service: str) -> str:
    """Prometheus' text of the service's cluster. Raises OSError."""
    wanted = quote(rf"^cluster\.{service}\.(endpoint|zone)\.")
    with urllib.request.urlopen(f"{admin}/stats/prometheus?filter={wanted}", timeout=TIMEOUT_S) as answer:  # noqa: S310 - Loopback, of ours.
        text: bytes = answer.read(ANSWER_BYTES_MAX)
    return text.decode()


def measured(text: str, sets: Sets) -> Mapping[str, Measured]:
    """By set. A replica belongs to the set that it is in now."""
    by_address: dict[str, dict[str, int]] = defaultdict(dict)
    buckets: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for row in _rows(text):
        if row.name == DURATIONS:
            buckets[row.labels["replica_set"]].append((float(row.labels["le"]), int(row.value)))
        elif row.name in {CALLS, ERRORS, HEALTHY}:
            by_address[row.labels["envoy_endpoint_address"]][row.name] = int(row.value)
    return {
        color: _sum(
            [by_address.get(_address(one), {}) for one in sets[color].replicas], sorted(buckets[color])
        )
        for color in SETS
    }


def _rows(text: str) -> Iterator[Row]:
    for line in text.splitlines():
        if (found := LINE.match(line)) is not None:
            yield Row(found[1], dict(LABEL.findall(found[2])), float(found[3]))


def _address(one: Endpoint) -> str:
    return f"[{one.host}]:{one.port}" if ":" in one.host else f"{one.host}:{one.port}"


def _sum(replicas: list[dict[str, int]], buckets: list[tuple[float, int]]) -> Measured:
    return Measured(
        call_count=sum(one.get(CALLS, 0) for one in replicas),
        error_count=sum(one.get(ERRORS, 0) for one in replicas),
        healthy_count=sum(one.get(HEALTHY, 0) for one in replicas),
        buckets=tuple(buckets),
    )
