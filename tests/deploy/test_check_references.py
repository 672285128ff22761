"""Each reference between documents is followed: one that leads nowhere is told."""

from collections.abc import Callable

import pytest

from deploy.check import references
from tests.deploy.planted import Chart, Spoil


def _relabel(chart: Chart) -> None:
    chart["Deployment/auth"]["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] = (
        "other"
    )


def _target_port(chart: Chart) -> None:
    chart["Service/agent"]["spec"]["ports"][0]["targetPort"] = "http"


def _service(chart: Chart) -> None:
    chart["Service/edge"]["spec"]["selector"]["app.kubernetes.io/component"] = "egde"


def _budget(chart: Chart) -> None:
    chart["PodDisruptionBudget/ollama"]["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] = (
        "olama"
    )


def _probe(chart: Chart) -> None:
    chart.container("Deployment/edge")["readinessProbe"]["httpGet"]["port"] = "admin"


def _no_probe(chart: Chart) -> None:
    del chart.container("Deployment/auth")["livenessProbe"]


def _secret_key(chart: Chart) -> None:
    (secrets,) = [each for each in chart.pod("Deployment/auth")["volumes"] if each["name"] == "secrets"]
    secrets["secret"]["items"][0]["key"] = "database_uri"


def _secret(chart: Chart) -> None:
    chart.without("Certificate/agent-inside")


def _map(chart: Chart) -> None:
    chart.without("ConfigMap/agent-settings")


def _account(chart: Chart) -> None:
    chart.without("ServiceAccount/ollama")


def _mount(chart: Chart) -> None:
    chart.container("StatefulSet/inference")["volumeMounts"][0]["name"] = "tmpp"


def _scaled(chart: Chart) -> None:
    chart["HorizontalPodAutoscaler/agent"]["spec"]["scaleTargetRef"]["name"] = "agents"


def _counted(chart: Chart) -> None:
    chart["Deployment/agent"]["spec"]["replicas"] = 3


def _headless(chart: Chart) -> None:
    chart["StatefulSet/ollama-0"]["spec"]["serviceName"] = "ollama-0"


def _issuer(chart: Chart) -> None:
    chart.without("Issuer/inside")


def _authority(chart: Chart) -> None:
    del chart["Certificate/inside-ca"]["spec"]["privateKey"]["rotationPolicy"]


def _quantity(chart: Chart) -> None:
    chart.container("Deployment/auth")["resources"]["limits"]["cpu"] = "100mm"


def _too_little(chart: Chart) -> None:
    chart.container("Deployment/auth")["resources"]["limits"]["memory"] = "255Mi"


def _unlimited(chart: Chart) -> None:
    del chart.container("Deployment/auth")["resources"]["limits"]["memory"]


def _module(chart: Chart) -> None:
    chart.container("StatefulSet/sandbox")["command"] = ["python", "-m", "services.sandboxx"]


FAULTS: list[tuple[Spoil, str]] = [
    (_relabel, "Deployment/auth does not select its own pods."),
    (_target_port, "Service/agent: Deployment/agent has no port http."),
    (_service, "Service/edge selects no pods."),
    (_budget, "PodDisruptionBudget/ollama selects no pods."),
    (_probe, "Deployment/edge: readinessProbe asks port admin, which is not declared."),
    (_no_probe, "Deployment/auth: auth has no livenessProbe."),
    (_secret_key, "Deployment/auth: the Secret ollamesh-auth has no key database_uri."),
    (_secret, "Deployment/agent: nothing makes the Secret agent-inside."),
    (_map, "Deployment/agent: there is no ConfigMap agent-settings."),
    (_account, "StatefulSet/ollama-0: there is no ServiceAccount ollama."),
    (_mount, "StatefulSet/inference: inference mounts tmpp, which is no volume."),
    (_scaled, "HorizontalPodAutoscaler/agent: there is no Deployment agents."),
    (
        _counted,
        "HorizontalPodAutoscaler/agent: Deployment/agent sets its replicas itself, so each upgrade would undo the scaling.",
    ),
    (_headless, "StatefulSet/ollama-0: there is no Service ollama-0."),
    (_issuer, "Certificate/auth-inside: there is no Issuer inside."),
    (
        _authority,
        "Certificate/inside-ca: an authority with a new key is none to those who know the one before.",
    ),
    (_quantity, "Deployment/auth: auth: 100mm is no quantity of cpu."),
    (_too_little, "Deployment/auth: auth asks for more memory than its limit."),
    (_unlimited, "Deployment/auth: auth has no limit or no request of memory."),
    (_module, "StatefulSet/sandbox: sandbox runs services.sandboxx, which is no module."),
]


@pytest.mark.parametrize(("spoil", "told"), FAULTS, ids=[spoil.__name__ for spoil, _ in FAULTS])
def test_a_reference_that_leads_nowhere_is_told(spoil: Callable[[Chart], None], told: str) -> None:
    chart = Chart()
    assert told not in references.problems(chart.documents)
    spoil(chart)
    assert told in references.problems(chart.documents)


def test_a_route_to_a_port_that_is_not_there_is_told() -> None:
    chart = Chart("production")
    chart["GRPCRoute/edge-grpc"]["spec"]["rules"][0]["backendRefs"][0]["port"] = 8443
    assert "GRPCRoute/edge-grpc: no Service edge has port 8443." in references.problems(chart.documents)


def test_a_monitor_of_a_port_that_is_not_there_is_told() -> None:
    chart = Chart("production")
    chart["PodMonitor/edge"]["spec"]["podMetricsEndpoints"][0]["port"] = "admin"
    assert "PodMonitor/edge: Deployment/edge has no port admin." in references.problems(chart.documents)


def test_a_store_of_secrets_that_lacks_a_key_is_told() -> None:
    chart = Chart("production")
    chart["ExternalSecret/ollamesh-agent"]["spec"]["data"].pop()
    told = references.problems(chart.documents)
    assert "Deployment/agent: the Secret ollamesh-agent has no key encryption_key." in told


def test_nothing_else_is_told_of_what_is_shipped() -> None:
    for name in ("default", "dev", "production", "airgapped", "istio", "linkerd"):
        assert references.problems(Chart(name).documents) == []
