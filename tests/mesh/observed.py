"""A real Prometheus before a running stack: where its metrics are, what was scraped, what queries answer."""

import json
import re
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import psutil
import yaml

from deploy.local import board
from deploy.local.ports import free_ports
from services.common.launch import Guard
from tools import prometheus as programs

WITHIN_S = 240.0  # For machines on which much else goes on.
SERVICES = ("auth", "agent", "inference", "sandbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    port: int
    path: str = "/metrics"

    def text(self) -> str:
        with urlopen(f"http://127.0.0.1:{self.port}{self.path}", timeout=WITHIN_S) as answer:
            return str(answer.read().decode())


def targets_of(home: Path) -> Mapping[str, Target]:
    """Where a stack's parts tell their metrics, by the names of their jobs.

    Nothing that a stack publishes has these ports; its processes were told them.
    """
    notices = board.read(home)
    assert notices is not None
    processes = {part.name: part.process for part in notices.parts}

    def told(part: str, variable: str) -> int:
        identity = processes[part]
        assert identity is not None
        return int(psutil.Process(identity.pid).environ()[variable])

    found = {name: Target(port=told(name, f"OLLAMESH_{name.upper()}_METRICS_PORT")) for name in SERVICES}
    found["edge"] = Target(port=told("edge", "OLLAMESH_ADMIN_PORT"), path="/stats/prometheus")
    return found


@dataclass(slots=True)
class Scraped:
    """What there is to ask for: names of samples with their labels, and names that have no sample yet."""

    labels: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    unsampled: set[str] = field(default_factory=set)

    def add(self, text: str) -> None:
        """What the text tells beyond the series: names that have no sample yet, and labels that are empty so far."""
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
            suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
            self.unsampled |= {name + suffix for suffix in suffixes}
        for name, labels in re.findall(r"^(\w+){(.*)} ", text, re.MULTILINE):
            self.labels[name] |= set(re.findall(r'(\w+)="', labels))

    def lacks(self, name: str, labels: AbstractSet[str]) -> str | None:
        """Say what is missing of a metric, if anything is."""
        if name not in self.labels:
            return None if name in self.unsampled else f"{name} is not in the scrape"
        missing = labels - self.labels[name]
        return f"{name} has no label {', '.join(sorted(missing))}" if missing else None


@dataclass(frozen=True, slots=True)
class Prometheus:
    url: str

    def query(self, expr: str) -> list[Any]:
        """Evaluate now. Raises AssertionError with what Prometheus says against it."""
        answer = self._asked("/api/v1/query", query=expr)
        assert answer["status"] == "success", f"{answer['error']}: {expr}"
        data = answer["data"]
        return list(data["result"]) if data["resultType"] == "vector" else [data["result"]]

    def scraped(self) -> Scraped:
        """All series that it has."""
        found = Scraped()
        for series in self._asked("/api/v1/series", **{"match[]": '{job!=""}'})["data"]:
            found.labels[series["__name__"]] |= series.keys()
        return found

    def has_scraped(self, count: int) -> bool:
        """Whether all targets have been scraped twice, which rates take."""
        try:
            twice = self.query("count_over_time(up[5m]) >= 2 and up == 1")
        except (URLError, ConnectionError):
            return False
        return len(twice) == count

    def _asked(self, path: str, **terms: str) -> dict[str, Any]:
        with urlopen(f"{self.url}{path}?{urlencode(terms)}", timeout=WITHIN_S) as answer:
            return dict(json.loads(answer.read()))


@contextmanager
def prometheus(folder: Path, targets: Mapping[str, Target]) -> Iterator[Prometheus]:
    """Prometheus, when it has scraped all targets twice."""
    (port,) = free_ports(1)
    jobs = [
        {
            "job_name": name,
            "metrics_path": target.path,
            "static_configs": [{"targets": [f"127.0.0.1:{target.port}"]}],
        }
        for name, target in targets.items()
    ]
    configuration = folder / "prometheus.yml"
    configuration.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    argv = (
        str(programs.folder() / "prometheus"),
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
    )
    with running(argv, folder / "prometheus.log"):
        server = Prometheus(f"http://127.0.0.1:{port}")
        until(lambda: server.has_scraped(len(targets)), folder / "prometheus.log")
        yield server


@contextmanager
def exporters(home: Path, folder: Path) -> Iterator[Mapping[str, Target]]:
    """PostgreSQL's and Redis' exporters, as `make up OBSERVE=1` runs them."""
    postgres_port, redis_port = free_ports(2)
    secrets = home / "secrets"
    redis_url = (secrets / "redis_url").read_text().strip()
    password, _, address = redis_url.removeprefix("redis://:").partition("@")
    bin_folder = programs.folder()
    commands = {
        "postgres": (
            (str(bin_folder / "postgres_exporter"), f"--web.listen-address=127.0.0.1:{postgres_port}"),
            {"DATA_SOURCE_NAME": f"{(secrets / 'admin_database_url').read_text().strip()}?sslmode=disable"},
        ),
        "redis": (
            (str(bin_folder / "redis_exporter"), f"--web.listen-address=127.0.0.1:{redis_port}"),
            {"REDIS_ADDR": f"redis://{address}", "REDIS_PASSWORD": password},
        ),
    }
    with ExitStack() as opened:
        for name, (argv, environment) in commands.items():
            opened.enter_context(running(argv, folder / f"{name}.log", environment))
        yield {"postgres": Target(port=postgres_port), "redis": Target(port=redis_port)}


@contextmanager
def running(argv: tuple[str, ...], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    guard = Guard()
    with (
        log.open("wb") as output,
        subprocess.Popen(
            guard.command(argv), stdout=output, stderr=output, env=dict(environment or {})
        ) as process,
    ):
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)


def until(true: Callable[[], bool], log: Path) -> None:
    end_s = time.monotonic() + WITHIN_S
    while not true():
        assert time.monotonic() < end_s, log.read_text()[-2000:]
        time.sleep(0.1)
