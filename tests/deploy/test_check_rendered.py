"""What judges the chart as a whole finds what is planted: schemas, Envoy, meshes, overlays, Helm."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from deploy.check import edge, helm, kustomize, meshes, schemas
from deploy.check.charts import CHART, RenderError, render
from deploy.check.outcome import Skipped
from deploy.compose.prepare import DIGESTS, images
from deploy.helm import secrets
from deploy.kustomize.generate import patch
from tests.deploy.planted import Chart


def test_unknown_fields_wrong_types_and_unknown_kinds_fail() -> None:
    chart = Chart("production")
    auth, monitor, strange = (
        copy.deepcopy(chart[name]) for name in ("Deployment/auth", "PodMonitor/auth", "Service/auth")
    )
    auth["spec"]["replica"] = 3
    monitor["spec"]["selectors"] = {}
    strange["apiVersion"] = "v2"
    count = copy.deepcopy(chart["Deployment/agent"])
    count["spec"]["minReadySeconds"] = "soon"
    told = schemas.problems(
        {"unknown": auth, "custom": monitor, "kind": strange, "type": count, "fine": chart["Service/auth"]}
    )
    assert {problem.partition(":")[0] for problem in told} == {"unknown", "custom", "kind", "type"}
    assert any("'replica' was unexpected" in problem and "Kubernetes 1.32" in problem for problem in told)
    assert any("v2 Service is no kind of Kubernetes 1.37" in problem for problem in told)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"auht": {}}, "'auht' not allowed"),
        ({"edge": {"expose": "Ingress"}}, "/edge/expose"),
        ({"auth": {"settings": {"FOO": "1"}}}, "invalid propertyName 'FOO'"),
        ({"inference": {"cells": 0}}, "/inference/cells"),
        ({"image": {"digests": {"auth": "sha256:12"}}}, "/image/digests/auth"),
        ({"priorityClasses": {"create": True}}, "each needs a name"),
    ],
)
def test_values_that_mean_nothing_are_refused(values: dict[str, object], told: str) -> None:
    try:
        with pytest.raises(RenderError, match=told):
            render([values])
    except Skipped as reason:
        pytest.skip(str(reason))


def test_what_no_yaml_holds_twice_is_refused(tmp_path: Path) -> None:
    Chart()
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: twice\nversion: 1.0.0\n")
    (tmp_path / "templates/map.yaml").write_text(
        "kind: ConfigMap\nmetadata: {name: a}\ndata: {b: c}\ndata: {d: e}\n"
    )
    with pytest.raises(RenderError, match="data stands there twice"):
        render([{}], chart=tmp_path)


def test_helm_finds_what_is_wrong_with_a_chart(tmp_path: Path) -> None:
    Chart()
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: wrong\nversion: one\n")
    assert any("version" in problem for problem in helm.linted(tmp_path))
    assert helm.linted(CHART) == []


def test_envoy_refuses_what_it_cannot_run(tmp_path: Path) -> None:
    told = edge.validated(json.dumps({"static_resources": {"listener": []}}), tmp_path)
    assert any("listener" in problem for problem in told)


def test_overlays_that_are_not_of_the_chart_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Chart()
    made = tmp_path / "overlays/dev/kustomization.yaml"
    made.parent.mkdir(parents=True)
    made.write_text("by hand")
    monkeypatch.setattr(kustomize, "FOLDER", tmp_path)
    monkeypatch.setattr(kustomize, "files", lambda: {made: "of the chart", tmp_path / "base/auth.yaml": "x"})
    told = kustomize.stale()
    assert len(told) == 2
    assert all("is not what the chart makes" in problem for problem in told)
    (tmp_path / "overlays/dev/more.yaml").touch()
    assert any("more.yaml is of no chart" in problem for problem in kustomize.stale())


def test_an_overlay_holds_what_differs_and_nothing_else() -> None:
    before = {"a": {"b/c": 1, "gone": 2}, "same": [1], "list": [1, 2]}
    after = {"a": {"b/c": 3, "new": 4}, "same": [1], "list": [2]}
    assert patch(before, after) == [
        {"op": "remove", "path": "/a/gone"},
        {"op": "replace", "path": "/a/b~1c", "value": 3},
        {"op": "add", "path": "/a/new", "value": 4},
        {"op": "replace", "path": "/list", "value": [2]},
    ]


def test_overlays_are_up_to_date() -> None:
    Chart()
    assert kustomize.stale() == []


def test_a_mesh_that_cuts_streams_or_lets_others_call_is_told() -> None:
    chart = Chart("istio")
    assert [*meshes.istio(chart.documents)] == []
    chart["VirtualService/inference"]["spec"]["http"][0]["timeout"] = "15s"
    del chart["DestinationRule/agent"]["spec"]["trafficPolicy"]["connectionPool"]["http"]["idleTimeout"]
    chart["PeerAuthentication/strict"]["spec"]["mtls"]["mode"] = "PERMISSIVE"
    source = chart["AuthorizationPolicy/sandbox"]["spec"]["rules"][0]["from"][0]["source"]
    source["principals"].append("cluster.local/ns/ollamesh/sa/inference")
    del chart["Service/auth"]["spec"]["ports"][0]["appProtocol"]
    told = "\n".join(meshes.istio(chart.documents))
    assert "mTLS is PERMISSIVE, STRICT." in told
    assert "calls of edge to inference.ollamesh.svc.cluster.local may be cut or repeated." in told
    assert "streams to agent.ollamesh.svc.cluster.local are few, or end when they are silent." in told
    assert "sandbox is called by ['agent', 'edge', 'inference'], where ['agent', 'edge'] may." in told
    assert "Service/auth does not say that it speaks gRPC" in told


def test_a_mesh_that_takes_our_tls_for_something_else_is_told() -> None:
    chart = Chart("linkerd")
    assert [*meshes.linkerd(chart.documents)] == []
    annotations = chart["Deployment/agent"]["spec"]["template"]["metadata"]["annotations"]
    annotations["config.linkerd.io/skip-inbound-ports"] = "50051"
    told = [*meshes.linkerd(chart.documents)]
    assert told == [
        "Deployment/agent: port 50052 has TLS of its own, which the proxy would take for something else."
    ]


def test_secrets_are_printed_for_kubectl(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--postgres", "pg:5432", "--redis", "redis:6379", "--namespace", "mesh"]
    assert secrets.main(arguments) == 2
    monkeypatch.setenv("OLLAMESH_POSTGRES_PASSWORD", "p@ss/word")
    monkeypatch.setenv("OLLAMESH_REDIS_PASSWORD", "secret")
    capsys.readouterr()
    assert secrets.main(arguments) == 0
    found = {each["metadata"]["name"]: each for each in yaml.safe_load_all(capsys.readouterr().out)}
    assert {name: set(each["stringData"]) for name, each in found.items()} == {
        f"ollamesh-{part}": set(keys) for part, keys in secrets.KEYS.items()
    }
    assert (
        "postgres:p%40ss%2Fword@pg:5432" in found["ollamesh-migrations"]["stringData"]["admin_database_url"]
    )
    role = found["ollamesh-migrations"]["stringData"]["agent_db_password"]
    assert role in found["ollamesh-agent"]["stringData"]["database_url"]
    assert {each["metadata"]["namespace"] for each in found.values()} == {"mesh"}


def test_alerts_and_dashboards_link_to_where_runbooks_are_read() -> None:
    Chart()  # Skips without Helm.
    monitoring = {"enabled": True, "runbooks": "https://wiki.internal/mesh"}
    (documents,) = render([{"monitoring": monitoring}])
    told = json.dumps([each for each in documents if each["kind"] in {"PrometheusRule", "ConfigMap"}])
    assert "https://wiki.internal/mesh/backup.md" in told
    assert "ollamesh.example/runbooks" not in told


def test_the_chart_and_compose_run_the_same_ollama() -> None:
    image = yaml.safe_load((CHART / "values.yaml").read_text())["ollama"]["image"]
    named = images(DIGESTS)["OLLAMA_IMAGE"].partition("@")[0]
    assert f"{image['repository']}:{image['tag']}" == named


def test_the_edge_is_scraped_alike_everywhere() -> None:
    """With `usedonly` some hundreds of series, without it thousands; and rules are written for the one."""
    jobs = yaml.safe_load((CHART.parents[1] / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    (edge_job,) = [job for job in jobs if job["job_name"] == "edge"]
    (endpoint,) = Chart("production")["PodMonitor/edge"]["spec"]["podMetricsEndpoints"]
    assert endpoint["params"] == edge_job["params"]
    assert endpoint["path"] == edge_job["metrics_path"]
