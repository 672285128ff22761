"""What a stack that is observed has more, and what Prometheus and Alertmanager are told on this machine."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from deploy.local import scraping
from deploy.local.core.graph import all_needs
from deploy.local.errors import ObserversMissingError
from deploy.local.observing import RULES
from deploy.local.part import Part
from deploy.local.parts import all_parts
from deploy.local.plan import Plan, make_plan
from deploy.local.settings import DEFAULT_PORTS, OBSERVERS, Settings
from tools.prometheus import PROGRAMS, VARIABLE

ALERTMANAGER = """
route: {receiver: pages}
receivers:
- name: pages
  webhook_configs: [{url: https://pager.example, http_config: {authorization: {credentials_file: /run/token}}}]
"""
GIVEN = """
global: {scrape_interval: 15s}
rule_files: [rules/*.yml]
alerting: {alertmanagers: [{static_configs: [{targets: [alertmanager:9093]}]}]}
scrape_configs:
- {job_name: agent, dns_sd_configs: [{names: [agent]}], metrics_path: /other}
- {job_name: edge, params: {usedonly: [""]}, static_configs: [{targets: [edge:9901]}]}
- {job_name: dcgm, static_configs: [{targets: [gpu:9400]}]}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).touch(mode=0o755)
    return Settings(
        home=tmp_path / "home",
        cache=tmp_path / "cache",
        ports=dict.fromkeys(DEFAULT_PORTS, 0),
        look_for_ollama=False,
        observes=True,
        inherited={"PATH": "/nowhere", VARIABLE: str(programs)},
    )


def planned(settings: Settings) -> tuple[Plan, dict[str, Part]]:
    plan = make_plan(settings)
    return plan, {part.node.name: part for part in all_parts(plan)}


def test_observers_are_parts_for_which_nobody_waits(settings: Settings) -> None:
    _, parts = planned(settings)
    assert set(OBSERVERS) <= parts.keys()
    needs = all_needs(part.node for part in parts.values())
    assert not any(needs[name] & set(OBSERVERS) for name in parts)
    for name in OBSERVERS:
        argv = " ".join(parts[name].run.argv)
        assert f"listen-address=127.0.0.1:{parts[name].port}" in argv
        assert parts[name].run.argv[0] == f"{settings.inherited[VARIABLE]}/{name}"


def test_they_are_told_no_secret_by_value(settings: Settings) -> None:
    plan, parts = planned(settings)
    secrets = {path.read_text() for path in plan.secrets.folder.iterdir()}
    for name in OBSERVERS:
        told = " ".join((*parts[name].run.argv, *parts[name].run.env.values()))
        assert not [secret for secret in secrets if secret in told]
    for file in (settings.home / "observe").iterdir():
        assert not [secret for secret in secrets if secret in file.read_text()]


def test_prometheus_asks_every_part_that_can_be_asked(settings: Settings) -> None:
    plan, _ = planned(settings)
    told = msgspec.json.decode((settings.home / "observe" / "prometheus.json").read_bytes())
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in told["scrape_configs"]}
    names = {
        **{name: f"{name}_metrics" for name in ("auth", "agent", "inference", "sandbox")},
        "edge": "admin",
        "postgres": "postgres_exporter",
        "redis": "redis_exporter",
        **{name: name for name in ("prometheus", "alertmanager")},
    }
    assert targets == {job: [f"127.0.0.1:{plan.ports[name]}"] for job, name in names.items()}
    assert told["rule_files"] == [f"{RULES}/rules/*.yml"]
    assert list((RULES / "rules").glob("*.yml"))


def test_without_them_nothing_of_theirs_is_looked_at(settings: Settings) -> None:
    plain = replace(settings, observes=False, inherited={})
    plan, parts = planned(plain)
    assert not parts.keys() & set(OBSERVERS)
    assert not plan.ports.keys() & set(OBSERVERS)
    assert not (settings.home / "observe").exists()


def test_an_exporter_that_cannot_be_had_is_left_out(settings: Settings) -> None:
    (Path(settings.inherited[VARIABLE]) / "redis_exporter").unlink()
    _, parts = planned(settings)
    assert "redis_exporter" not in parts
    assert "postgres_exporter" in parts
    assert "redis" not in (settings.home / "observe" / "prometheus.json").read_text()


def test_what_is_needed_and_missing_is_said_with_the_way_out(settings: Settings) -> None:
    (Path(settings.inherited[VARIABLE]) / "alertmanager").unlink()
    with pytest.raises(ObserversMissingError, match=f"alertmanager.*`make prometheus`.*{VARIABLE}"):
        planned(settings)


def test_jobs_keep_what_is_said_of_them_but_for_their_targets() -> None:
    targets = {"agent": ["a:1", "b:2"], "edge": ["c:3"], "alertmanager": ["d:4"]}
    told = msgspec.json.decode(scraping.prometheus(GIVEN, targets, rules=Path("/rules")))
    assert told["scrape_configs"] == [
        {"job_name": "agent", "metrics_path": "/other", "static_configs": [{"targets": ["a:1", "b:2"]}]},
        {"job_name": "edge", "params": {"usedonly": [""]}, "static_configs": [{"targets": ["c:3"]}]},
    ]
    assert told["global"] == {"scrape_interval": "15s"}
    assert told["alerting"] == {"alertmanagers": [{"static_configs": [{"targets": ["d:4"]}]}]}


def test_alerts_are_routed_and_sent_to_nobody() -> None:
    told = msgspec.json.decode(scraping.alertmanager(ALERTMANAGER))
    assert told == {"route": {"receiver": "pages"}, "receivers": [{"name": "pages"}]}


def test_traces_are_kept_unless_they_go_elsewhere(settings: Settings) -> None:
    plan, parts = planned(settings)
    target = f"127.0.0.1:{plan.ports['traces']}"
    services = ("auth", "agent", "inference", "sandbox")
    assert {parts[name].run.env["OLLAMESH_OTLP_TARGET"] for name in (*services, "edge")} == {target}
    needs = all_needs(part.node for part in parts.values())
    assert all("traces" in needs[name] for name in services), "they send what they have while they stop"
    assert all("traces" not in parts[name].node.after for name in parts), "nobody starts later for it"


@pytest.mark.parametrize(
    ("variables", "target"),
    [({"OLLAMESH_OTLP_TARGET": "collector:4317"}, "collector:4317"), ({"OLLAMESH_TRACES": "false"}, None)],
)
def test_a_person_may_have_traces_elsewhere_or_none(
    settings: Settings, variables: dict[str, str], target: str | None
) -> None:
    ports = {f"OLLAMESH_{name.upper()}_PORT": "0" for name in DEFAULT_PORTS}
    given = {"OLLAMESH_HOME": str(settings.home), "OLLAMESH_EMBEDDED_MODELS": "true", **ports, **variables}
    _, parts = planned(Settings.from_env(given))
    assert "traces" not in parts
    assert parts["agent"].run.env.get("OLLAMESH_OTLP_TARGET") == target
    assert Settings.from_env(Settings.from_env(given).variables()).keeps_traces is False
