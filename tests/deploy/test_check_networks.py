"""Who reaches whom is computed as Kubernetes means it, and a connection that the documentation does not have is told."""

from collections.abc import Sequence
from typing import Any

import pytest

from deploy.check import networks, references, stores
from deploy.check.charts import of_kind, render
from deploy.check.network_model import Place, reachable
from deploy.check.networks import PAGE, matrix, table
from tests.deploy.planted import Chart

WEB = Place("web", "a", {"app": "web"}, {"http": 8080, "metrics": 9000})
STORE = Place("store", "b", {"app": "store", "tier": "gold"}, {"sql": 5432})
OUTSIDE = Place("outside", address="203.0.113.7", ports={"https": 443, "ssh": 22})


def _policy(namespace: str, app: str, **spec: Any) -> dict[str, Any]:
    types = [name.capitalize() for name in ("ingress", "egress") if name in spec]
    selector = {"matchLabels": {"app": app}} if app else {}
    metadata = {"name": "x", "namespace": namespace}
    return {
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {"podSelector": selector, "policyTypes": types, **spec},
    }


IN_A = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "a"}}}
CASES: list[tuple[str, list[dict[str, Any]], Place, Place, set[int]]] = [
    ("no policy, no limit", [], WEB, STORE, {5432}),
    ("a policy of another namespace says nothing", [_policy("b", "web", egress=[])], WEB, STORE, {5432}),
    ("an empty list allows nothing", [_policy("a", "", egress=[])], WEB, STORE, set()),
    ("an empty rule allows everything", [_policy("a", "", egress=[{}])], WEB, STORE, {5432}),
    (
        "both sides have to allow it",
        [_policy("a", "", egress=[{}]), _policy("b", "", ingress=[])],
        WEB,
        STORE,
        set(),
    ),
    (
        "policies add up",
        [_policy("b", "", ingress=[]), _policy("b", "store", ingress=[{"from": [IN_A]}])],
        WEB,
        STORE,
        {5432},
    ),
    (
        "a pod selector alone means its own namespace",
        [_policy("b", "", ingress=[{"from": [{"podSelector": {}}]}])],
        WEB,
        STORE,
        set(),
    ),
    (
        "namespace and pod have to fit",
        [_policy("b", "", ingress=[{"from": [{**IN_A, "podSelector": {"matchLabels": {"app": "api"}}}]}])],
        WEB,
        STORE,
        set(),
    ),
    (
        "ports by name are the target's",
        [_policy("b", "", ingress=[{"ports": [{"port": "sql"}]}])],
        WEB,
        STORE,
        {5432},
    ),
    (
        "other ports are not meant",
        [_policy("b", "", ingress=[{"ports": [{"port": 5433}]}])],
        WEB,
        STORE,
        set(),
    ),
    (
        "ranges of ports",
        [_policy("b", "", ingress=[{"ports": [{"port": 5000, "endPort": 6000}]}])],
        WEB,
        STORE,
        {5432},
    ),
    (
        "expressions select",
        [
            _policy(
                "b",
                "",
                ingress=[
                    {
                        "from": [
                            {
                                **IN_A,
                                "podSelector": {
                                    "matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]
                                },
                            }
                        ]
                    }
                ],
            )
        ],
        WEB,
        STORE,
        {5432},
    ),
    (
        "addresses are no pods",
        [_policy("a", "", egress=[{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}])],
        WEB,
        STORE,
        set(),
    ),
    (
        "addresses",
        [
            _policy(
                "a", "", egress=[{"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "ports": [{"port": 443}]}]
            )
        ],
        WEB,
        OUTSIDE,
        {443},
    ),
    (
        "but for some",
        [
            _policy(
                "a", "", egress=[{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["203.0.113.0/24"]}}]}]
            )
        ],
        WEB,
        OUTSIDE,
        set(),
    ),
    ("from outside", [_policy("a", "", ingress=[{"ports": [{"port": "http"}]}])], OUTSIDE, WEB, {8080}),
]


@pytest.mark.parametrize(
    ("policies", "source", "target", "ports"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_policies_mean_what_kubernetes_says(
    policies: Sequence[dict[str, Any]], source: Place, target: Place, ports: set[int]
) -> None:
    assert reachable(source, target, policies) == ports


def _told(chart: Chart) -> list[str]:
    found = matrix([*chart.documents, *stores.examples()])
    return [*networks.problems(found, table(PAGE.read_text()), "x", whole=True)]


def test_what_is_shipped_is_what_the_page_says() -> None:
    assert _told(Chart("production")) == []


def test_what_no_policy_denies_is_open() -> None:
    chart = Chart("production")
    for name in ("default-deny", "dns"):  # Either of them selects all pods.
        chart.without(f"NetworkPolicy/{name}")
    assert "x: other pods here reaches edge at 8443, which kubernetes.md does not say." in _told(chart)


def test_one_caller_too_many_is_told() -> None:
    chart = Chart("production")
    sandbox = chart["NetworkPolicy/sandbox"]["spec"]["podSelector"]
    chart["NetworkPolicy/ollama"]["spec"]["ingress"][0]["from"].append({"podSelector": sandbox})
    chart["NetworkPolicy/sandbox"]["spec"]["egress"].append({"to": [{"podSelector": {}}]})
    assert "x: sandbox reaches ollama at 11434, which kubernetes.md does not say." in _told(chart)


def test_a_way_to_the_internet_is_told() -> None:
    chart = Chart("production")
    chart["NetworkPolicy/sandbox"]["spec"]["egress"].append({"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]})
    told = _told(chart)
    assert "x: sandbox reaches internet at 22, 80, 443, which kubernetes.md does not say." in told
    assert "x: sandbox reaches metadata of the cloud at 80, 443, which kubernetes.md does not say." in told


def test_a_connection_that_is_missing_is_told() -> None:
    chart = Chart("production")
    del chart["NetworkPolicy/auth"]["spec"]["egress"]
    assert "x: auth does not reach redis at 6379, as kubernetes.md says." in _told(chart)


def test_backups_are_followed_by_one_writer_and_scraped() -> None:
    """What alerts ask for has to be scraped, or BackupMissing fires for ever: no set of values that is shipped has both."""
    Chart()  # Skips without Helm.
    (documents,) = render([{"backup": {"enabled": True}, "monitoring": {"enabled": True, "rules": False}}])
    found = matrix([*documents, *stores.examples()])
    assert found["monitoring"]["backup"] == {9466}
    assert 5432 in found["backup"]["postgres"]
    (monitor,) = [each for each in of_kind(documents, "PodMonitor") if each["metadata"]["name"] == "backup"]
    assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/component"
    (deployment,) = [
        each for each in of_kind(documents, "Deployment") if each["metadata"]["name"] == "backup"
    ]
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert deployment["spec"]["template"]["spec"]["containers"][0]["command"][-1] == "follow"
    assert references.problems(documents) == []
