"""What monitoring reads: how old the last backup is. All of it follows from the folder, whoever wrote there."""

import contextlib
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deploy.backup.errors import BackupError
from deploy.backup.repository import Repository

FOLLOWED = ".followed"


class Collected(Collector):
    """`kind`: base, or the WAL behind it."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.failures = {"base": 0, "wal": 0}

    def collect(self) -> Iterable[Metric]:
        success = GaugeMetricFamily(
            "ollamesh_backup_last_success_timestamp_seconds",
            "When the last base backup was finished, and when all WAL that there was had last been sealed.",
            labels=["kind"],
        )
        for kind, time in self._times().items():
            success.add_metric([kind], time)
        failures = CounterMetricFamily(
            "ollamesh_backup_failures", "Attempts that failed since this process began.", labels=["kind"]
        )
        for kind, count in self.failures.items():
            failures.add_metric([kind], count)
        size = GaugeMetricFamily("ollamesh_backup_size_bytes", "What lies in the backup folder.")
        size.add_metric([], self._repository.size_bytes())
        return (success, failures, size)

    def _times(self) -> dict[str, float]:
        """Zero: never. An alert on age then fires, which one on a missing series would not."""
        times = {"base": 0.0, "wal": 0.0}
        with contextlib.suppress(BackupError):
            times["base"] = self._repository.newest().finished
        with contextlib.suppress(FileNotFoundError):
            times["wal"] = (self._repository.wal / FOLLOWED).stat().st_mtime
        return times


def registry(collected: Collected) -> CollectorRegistry:
    found = CollectorRegistry()
    found.register(collected)
    return found


def write(repository: Repository, found: CollectorRegistry) -> None:
    """For node-exporter's textfile collector. By rename."""
    write_to_textfile(str(repository.folder / "metrics" / "ollamesh_backup.prom"), found)
