"""What containers are told, allowed and given time for: one wrong thing, and it is said."""

import pytest

from deploy.check import drains, restrictions, settings
from tests.deploy.planted import Chart, Spoil

SETS = ("default", "dev", "production", "airgapped", "istio", "linkerd")


def _unknown(chart: Chart) -> None:
    chart.settings("agent")["OLLAMESH_AGENT_WORKER_MAX"] = "3"


def _wrong(chart: Chart) -> None:
    chart.settings("inference")["OLLAMESH_INSTANCE_SLOTS"] = "none"


def _nowhere(chart: Chart) -> None:
    chart.settings("auth")["SECRET_KEY_FILE"] = "/run/secrets/secret_key"


def _other_name(chart: Chart) -> None:
    chart["Certificate/sandbox-inside"]["spec"]["uris"] = ["spiffe://ollamesh/ns/default/sa/sandbox"]


def _no_instances(chart: Chart) -> None:
    chart.container("StatefulSet/inference")["env"][1]["value"] = "http://ollama:x"


def _unsafe_edge(chart: Chart) -> None:
    del chart.settings("edge")["OLLAMESH_EDGE_KEY_FILE"]


SETTINGS: list[tuple[Spoil, str]] = [
    (_unknown, "Deployment/agent: agent is told OLLAMESH_AGENT_WORKER_MAX, which nobody reads."),
    (_wrong, "StatefulSet/inference: inference: OLLAMESH_INSTANCE_SLOTS is not a whole number."),
    (_nowhere, "Deployment/auth: auth: SECRET_KEY is not set."),
    (
        _other_name,
        "StatefulSet/sandbox: sandbox: OLLAMESH_TLS_CERT is not of spiffe://ollamesh/ns/ollamesh/sa/sandbox.",
    ),
    (
        _no_instances,
        "StatefulSet/inference: inference: OLLAMA_HOSTS has an entry that is not http[s]://host[:port]: number 1.",
    ),
    (_unsafe_edge, "Deployment/edge: edge: OLLAMESH_EDGE_KEY_FILE is not set."),
]


@pytest.mark.parametrize(("spoil", "told"), SETTINGS, ids=[spoil.__name__ for spoil, _ in SETTINGS])
def test_services_read_their_own_settings(spoil: Spoil, told: str) -> None:
    chart = Chart()
    assert told not in settings.problems(chart.documents)
    spoil(chart)
    assert told in settings.problems(chart.documents)


def _root(chart: Chart) -> None:
    chart.pod("Deployment/auth")["securityContext"]["runAsNonRoot"] = False


def _token(chart: Chart) -> None:
    chart.pod("Deployment/auth")["automountServiceAccountToken"] = True


def _links(chart: Chart) -> None:
    del chart.pod("StatefulSet/ollama-0")["enableServiceLinks"]


def _host_path(chart: Chart) -> None:
    chart.pod("StatefulSet/ollama-0")["volumes"].append({"name": "host", "hostPath": {"path": "/"}})


def _writable(chart: Chart) -> None:
    del chart.container("Deployment/edge")["securityContext"]["readOnlyRootFilesystem"]


def _capable(chart: Chart) -> None:
    chart.container("Deployment/edge")["securityContext"]["capabilities"]["add"] = ["NET_BIND_SERVICE"]


def _latest(chart: Chart) -> None:
    chart.container("StatefulSet/ollama-0")["image"] = "registry.example.com:5000/ollama/ollama"


def _unconfined(chart: Chart) -> None:
    chart.pod("Deployment/agent")["securityContext"]["seccompProfile"] = {"type": "Unconfined"}


RESTRICTIONS: list[tuple[Spoil, str]] = [
    (_root, "Deployment/auth may run as root."),
    (_token, "Deployment/auth gets a token for Kubernetes, which it has no use for."),
    (_links, "StatefulSet/ollama-0 gets variables of other services, whose names may be its own."),
    (_host_path, "StatefulSet/ollama-0 has a volume of hostPath."),
    (_writable, "Deployment/edge: edge may write to its root."),
    (_capable, "Deployment/edge: edge keeps capabilities."),
    (
        _latest,
        "StatefulSet/ollama-0: ollama runs registry.example.com:5000/ollama/ollama, which may be another one tomorrow.",
    ),
    (_unconfined, "Deployment/agent has the seccomp profile Unconfined."),
]


@pytest.mark.parametrize(("spoil", "told"), RESTRICTIONS, ids=[spoil.__name__ for spoil, _ in RESTRICTIONS])
def test_pods_are_restricted(spoil: Spoil, told: str) -> None:
    chart = Chart()
    assert told not in [*restrictions.problems(chart.documents)]
    spoil(chart)
    assert told in [*restrictions.problems(chart.documents)]


def test_jails_on_the_nodes_kernel_are_not_for_a_restricted_namespace() -> None:
    chart = Chart("dev")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    chart.documents.append({"kind": "Namespace", "metadata": {"name": "ollamesh", "labels": labels}})
    told = [*restrictions.problems(chart.documents)]
    assert told == ["StatefulSet/sandbox is refused by its namespace, which is restricted."]


def _killed(chart: Chart) -> None:
    chart.pod("StatefulSet/sandbox")["terminationGracePeriodSeconds"] = 30


def _cut(chart: Chart) -> None:
    chart.settings("inference")["OLLAMESH_TIMEOUT_MAX_S"] = "600"


def _sudden(chart: Chart) -> None:
    del chart.container("Deployment/edge")["lifecycle"]


def _impatient(chart: Chart) -> None:
    chart.settings("edge")["OLLAMESH_EDGE_STOP_DRAIN_S"] = "3600"


DRAINS: list[tuple[Spoil, str]] = [
    (_killed, "StatefulSet/sandbox is killed after 30 s, and may need 84 s to end."),
    (_cut, "StatefulSet/inference cuts answers that may take 600 s."),
    (_sudden, "Deployment/edge ends before balancers have looked away: it has no preStop."),
    (_impatient, "Deployment/edge is killed after 330 s, and may need 3615 s to end."),
]


@pytest.mark.parametrize(("spoil", "told"), DRAINS, ids=[spoil.__name__ for spoil, _ in DRAINS])
def test_there_is_time_to_end_in_good_order(spoil: Spoil, told: str) -> None:
    chart = Chart()
    assert told not in [*drains.problems(chart.documents)]
    spoil(chart)
    assert told in [*drains.problems(chart.documents)]


@pytest.mark.parametrize("name", SETS)
def test_nothing_else_is_told_of_what_is_shipped(name: str) -> None:
    documents = Chart(name).documents
    assert settings.problems(documents) == []
    assert [*restrictions.problems(documents)] == []
    assert [*drains.problems(documents)] == []
