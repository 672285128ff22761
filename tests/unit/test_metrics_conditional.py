"""What is published only with a GPU, MCP servers, a limit of memory or a file of backups: as docs/metrics.md has it."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Metric

from services.agent.core.tool_pins import Refusal
from services.agent.mcp_telemetry import McpMetrics, Outcome
from services.auth.backup_metrics import BYTES_MAX, BackupFile
from services.common.metrics.process import MemoryLimit
from services.inference.core.gpus import Gpu
from services.inference.core.ledger import InstanceView, Report
from services.inference.hardware_metrics import HardwareMetrics
from tools.metrics_catalogue import catalogue

BACKUPS = """
# HELP ollamesh_backup_last_success_timestamp_seconds x
# TYPE ollamesh_backup_last_success_timestamp_seconds gauge
ollamesh_backup_last_success_timestamp_seconds{kind="base"} 1.7e9
ollamesh_backup_last_success_timestamp_seconds{kind="wal"} 1.8e9
ollamesh_backup_last_success_timestamp_seconds{kind="other"} 1
ollamesh_backup_duration_seconds{kind="base"} 12.5
ollamesh_backup_size_bytes{kind="base"} 1e9
something_else{kind="base"} 1
ollamesh_ready 0
"""


def with_a_gpu(_: Path) -> Iterable[Metric]:
    registry = CollectorRegistry()
    gpu = Gpu(index=1, uuid="GPU-b", power_watts=412.5, utilization=0.5)
    metrics = HardwareMetrics(registry, lambda: (gpu,), lambda: 2)
    metrics.sample([InstanceView(name="one", slots=4, report=Report(), gpus=(gpu,))])
    return registry.collect()


def with_mcp(_: Path) -> Iterable[Metric]:
    registry = CollectorRegistry()
    metrics = McpMetrics(registry)
    metrics.called("one", Outcome.OK)
    metrics.refused("one", "tool", next(iter(Refusal)))
    metrics.connected("one", is_up=True)
    return registry.collect()


def with_a_limit(folder: Path) -> Iterable[Metric]:
    (folder / "memory.max").write_text("1024")
    return MemoryLimit(folder / "memory.max").collect()


def with_backups(folder: Path) -> Iterable[Metric]:
    (folder / "backup.prom").write_text(BACKUPS)
    return BackupFile(folder / "backup.prom").collect()


def named(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


MADE = (with_a_gpu, with_mcp, with_a_limit, with_backups)


@pytest.mark.parametrize("make", MADE)
def test_it_is_documented(make: Callable[[Path], Iterable[Metric]], tmp_path: Path) -> None:
    known = catalogue()
    for metric in make(tmp_path):
        entry = known[named(metric)]
        assert metric.type == entry.type
        assert metric.documentation == entry.meaning
        assert metric.samples, entry.name
        for sample in metric.samples:
            assert set(sample.labels) == entry.labels, entry.name


def test_all_that_is_conditional_is_here(tmp_path: Path) -> None:
    made = {named(metric) for make in MADE for metric in make(tmp_path)}
    assert {entry.name for entry in catalogue().values() if entry.is_conditional} <= made


def test_a_lost_gpu_is_told_and_none_is_made_up() -> None:
    registry = CollectorRegistry()
    metrics = HardwareMetrics(registry, lambda: (), lambda: 2)
    metrics.sample([])
    assert registry.get_sample_value("ollamesh_gpus", {"state": "lost"}) == 2
    registry = CollectorRegistry()
    HardwareMetrics(registry, lambda: (), lambda: 0).sample([])
    assert registry.get_sample_value("ollamesh_gpus", {"state": "lost"}) is None


def test_of_a_file_of_backups_only_what_is_known_is_published(tmp_path: Path) -> None:
    found = {
        (sample.name, sample.labels["kind"]): sample.value
        for metric in with_backups(tmp_path)
        for sample in metric.samples
    }
    assert found == {
        ("ollamesh_backup_last_success_timestamp_seconds", "base"): 1.7e9,
        ("ollamesh_backup_last_success_timestamp_seconds", "wal"): 1.8e9,
        ("ollamesh_backup_duration_seconds", "base"): 12.5,
        ("ollamesh_backup_size_bytes", "base"): 1e9,
    }


@pytest.mark.parametrize(
    "content", [None, b"\xff\xfe", b"ollamesh_backup_size_bytes{kind=", b"x" * (BYTES_MAX + 1), b"{" * 60_000]
)
def test_a_file_of_backups_that_makes_no_sense_says_nothing(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "backup.prom"
    if content is not None:
        file.write_bytes(content)
    began_s = time.process_time()
    assert [sample for metric in BackupFile(file).collect() for sample in metric.samples] == []
    assert time.process_time() - began_s < 5
