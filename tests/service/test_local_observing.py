"""`make up OBSERVE=1` on real programs: Prometheus, Alertmanager and the exporters under the real supervisor."""

import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil
import pytest

from deploy.local import stack
from deploy.local.settings import DEFAULT_PORTS, OBSERVERS, Settings
from deploy.local.stack import PartStatus
from tests.fakes import stores_only
from tools import prometheus

WITHIN_S = 60.0
pytestmark = pytest.mark.skipif(
    bool(prometheus.missing(prometheus.folder())), reason="Prometheus is not here: run make prometheus"
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, PartStatus]]:
    folder = tmp_path_factory.mktemp("observed")
    settings = Settings(
        home=folder / "home",
        cache=folder / "cache",
        ports=dict.fromkeys(DEFAULT_PORTS, 0),
        observes=True,
        inherited=dict(os.environ),
    )
    try:
        stores_only.up(settings)
        status = stack.status(settings)
        assert status.ready
        yield {part.name: part for part in status.parts}
    finally:
        stack.down(settings, lambda _: None)
    assert not any(psutil.pid_exists(part.pid) for part in status.parts if part.pid is not None)


def get(parts: Mapping[str, PartStatus], name: str, path: str) -> str:
    url = f"http://127.0.0.1:{parts[name].port}{path}"
    with urllib.request.urlopen(url, timeout=WITHIN_S) as answer:
        text: str = answer.read().decode()
    return text


def ask(parts: Mapping[str, PartStatus], path: str) -> Any:
    return json.loads(get(parts, "prometheus", f"/api/v1/{path}"))["data"]


def eventually(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < end_s, "it never came true"
        time.sleep(0.1)


def test_all_are_ready_and_listen_on_loopback_only(parts: Mapping[str, PartStatus]) -> None:
    assert {parts[name].health for name in OBSERVERS} == {"ok"}
    for name in OBSERVERS:
        pid = parts[name].pid
        assert pid is not None
        found = [each for each in psutil.Process(pid).net_connections() if each.status == psutil.CONN_LISTEN]
        assert {(each.laddr.ip, each.laddr.port) for each in found} == {("127.0.0.1", parts[name].port)}


def test_the_exporters_get_into_the_stores(parts: Mapping[str, PartStatus]) -> None:
    assert "\npg_up 1\n" in get(parts, "postgres_exporter", "/metrics")
    assert "\nredis_up 1\n" in get(parts, "redis_exporter", "/metrics")


def test_prometheus_has_its_bounds_its_rules_and_somebody_to_tell(parts: Mapping[str, PartStatus]) -> None:
    flags = ask(parts, "status/flags")
    assert flags["storage.tsdb.retention.size"] == "512MiB"
    assert flags["enable-feature"] == "exemplar-storage"
    rules = [rule for group in ask(parts, "rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 100
    assert not [rule["name"] for rule in rules if rule.get("lastError")]
    address = f"http://127.0.0.1:{parts['alertmanager'].port}/api/v2/alerts"
    eventually(lambda: address in json.dumps(ask(parts, "alertmanagers")["activeAlertmanagers"]))


def test_people_find_pages(parts: Mapping[str, PartStatus]) -> None:
    assert "Prometheus" in get(parts, "prometheus", "/graph")


def test_prometheus_asks_and_is_answered(parts: Mapping[str, PartStatus]) -> None:
    jobs = {target["labels"]["job"] for target in ask(parts, "targets")["activeTargets"]}
    assert {"auth", "edge", "postgres", "redis", "prometheus", "alertmanager"} <= jobs
    eventually(lambda: ask(parts, "query?query=pg_up")["result"] != [])
