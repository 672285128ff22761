"""What rules ask Envoy for, Envoy has. Our own metrics are compared by way of docs/metrics.md, exporters' in the tests of boards."""

import re

from deploy.grafana.promql import selectors
from deploy.local.settings import Settings
from deploy.prometheus.rule_files import read_rules
from tests.mesh.observed import targets_of

# gRPC's statuses appear when the first call ends with one.
LATER = re.compile(r"envoy_cluster_(grpc_\d+|ratelimit_failure_mode_allowed)")


def test_rules_ask_for_what_envoy_counts(mesh: Settings) -> None:
    asked = {found.name for expression in read_rules().expressions for found in selectors(expression)}
    told = set(re.findall(r"^# TYPE (\w+)", targets_of(mesh.home)["edge"].text(), re.MULTILINE))
    of_envoy = {name for name in asked if name.startswith("envoy_") and not LATER.fullmatch(name)}
    assert len(of_envoy) > 15
    assert of_envoy - told == set()
