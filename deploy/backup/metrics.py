"""What monitoring reads: how old the last backup is. All of it follows from the folder, whoever wrote there."""

import contextlib
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deploy.backup.errors import BackupError
from deploy.backup.repository import Backup, Repository

FOLLOWED = ".followed"


class Collected(Collector):
    """`kind`: base, or the WAL behind it, if somebody follows that."""

    def __init__(self, repository: Repository, *, follows: bool = True) -> None:
        self._repository = repository
        self._kinds = ("base", "wal") if follows else ("base",)
        self.failures = dict.fromkeys(self._kinds, 0)

    def collect(self) -> Iterable[Metric]:
        newest = self._newest()
        success = _by_kind(
            GaugeMetricFamily,
            "ollamesh_backup_last_success_timestamp_seconds",
            "When the last base backup was finished, and when all WAL that there was had last been sealed.",
            self._times(newest),
        )
        failures = _by_kind(
            CounterMetricFamily,
            "ollamesh_backup_failures",
            "Attempts that failed since this process began.",
            self.failures,
        )
        sizes = {"base": newest.sealed_bytes if newest else 0, "wal": self._repository.wal_bytes()}
        size = _by_kind(
            GaugeMetricFamily,
            "ollamesh_backup_size_bytes",
            "The last base backup, and all WAL that is kept.",
            {kind: sizes[kind] for kind in self._kinds},
        )
        took = {"base": newest.finished - newest.started} if newest else {}
        duration = _by_kind(
            GaugeMetricFamily, "ollamesh_backup_duration_seconds", "How long the last one took.", took
        )
        return (success, failures, size, duration)

    def _newest(self) -> Backup | None:
        try:
            return self._repository.newest()
        except BackupError:
            return None

    def _times(self, newest: Backup | None) -> dict[str, float]:
        """Zero: never. An alert on age then fires, which one on a missing series would not."""
        times = dict.fromkeys(self._kinds, 0.0)
        if newest is not None:
            times["base"] = newest.finished
        if "wal" in times:
            with contextlib.suppress(FileNotFoundError):
                times["wal"] = (self._repository.wal / FOLLOWED).stat().st_mtime
        return times


def _by_kind(
    family: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    meaning: str,
    values: Mapping[str, float],
) -> Metric:
    found = family(name, meaning, labels=["kind"])
    for kind, value in values.items():
        found.add_metric([kind], value)
    return found


def registry(collected: Collected) -> CollectorRegistry:
    found = CollectorRegistry()
    found.register(collected)
    return found


def report(repository: Repository) -> None:
    """Write down what is there, after a base backup that nobody follows with the log."""
    if not (repository.wal / FOLLOWED).exists():
        write(repository, registry(Collected(repository, follows=False)))


def write(repository: Repository, found: CollectorRegistry) -> None:
    """For node-exporter's textfile collector, and for auth. By rename."""
    write_to_textfile(str(repository.folder / "metrics" / "ollamesh_backup.prom"), found)
