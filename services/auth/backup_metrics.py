"""When the last backup was, as whoever makes backups has written it down.

A backup is made by a program that runs for a while and ends, so nobody could ask it. It leaves a file of metrics, as
node_exporter's textfile collector reads them; where there is no node_exporter, this service publishes the same. Only
the names below are, whatever else is in the file.
"""

from collections.abc import Iterable
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

log = structlog.get_logger(__name__)

BYTES_MAX = 64 * 1024
KINDS = ("base", "wal")
MEANINGS = {
    "ollamesh_backup_last_success_timestamp_seconds": "When the last backup of this kind succeeded",
    "ollamesh_backup_duration_seconds": "How long it took",
    "ollamesh_backup_size_bytes": "How large it is",
}


def backups_watched(registry: CollectorRegistry, path: Path | None) -> None:
    """Publish what is in the file, read whenever somebody asks."""
    if path is not None:
        registry.register(BackupFile(path))


class BackupFile(Collector):
    """One that is not there, or makes no sense, says nothing: then the age of the last backup is not known."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def collect(self) -> Iterable[Metric]:
        made = {
            name: GaugeMetricFamily(name, meaning, labels=("kind",)) for name, meaning in MEANINGS.items()
        }
        for name, kind, value in self._read():
            made[name].add_metric((kind,), value)
        return list(made.values())

    def _read(self) -> Iterable[tuple[str, str, float]]:
        try:
            with self._path.open("rb") as file:
                text = file.read(BYTES_MAX + 1)
            if len(text) > BYTES_MAX:
                return []
            return [
                (sample.name, sample.labels["kind"], sample.value)
                for family in text_string_to_metric_families(text.decode())
                for sample in family.samples
                if sample.name in MEANINGS and sample.labels.get("kind") in KINDS
            ]
        except FileNotFoundError:
            return []  # There has been no backup yet.
        except (OSError, ValueError, KeyError) as error:
            log.warning("backup_metrics_unreadable", error=type(error).__name__)
            return []
