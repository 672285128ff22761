"""Whatever callers, fleets and operators come up with, a service has at most so many series.

Everything that takes names from outside is driven with hundreds of them here, in the service's whole set of metrics; what
has only closed sets is driven through all of them.
"""

import pytest
from prometheus_client.exposition import generate_latest

from services.common.merging import merged
from services.common.metrics.few import few
from services.inference.telemetry import CHILDREN_MAX
from tests.unit.metrics_rig import DRIVEN, GARBAGE_COUNT, REST, SERIES_MAX, count, driven


@pytest.mark.parametrize("service", DRIVEN)
async def test_series_are_bounded(service: str) -> None:
    registry = await driven(service)
    assert count(registry) <= SERIES_MAX - REST


async def test_what_is_not_told_apart_is_called_other() -> None:
    registry = await driven("inference")
    text = generate_latest(registry).decode()
    assert 'gen_ai_request_model="other"' in text
    assert 'ollamesh_queue_depth{model="other"' in text
    assert 'error_type="_OTHER"' in text
    assert registry.get_sample_value("ollamesh_admission_refusals_total", {"reason": "other"})


async def test_several_processes_together_have_the_same_bounds() -> None:
    registries = [await driven("inference") for _ in range(3)]
    found = [
        few(metric, CHILDREN_MAX.get(metric.name)) for metric in merged(each.collect() for each in registries)
    ]
    assert sum(len(metric.samples) for metric in found) <= SERIES_MAX - REST
    (waits,) = (metric for metric in found if metric.name == "ollamesh_queue_wait_seconds")
    total = sum(sample.value for sample in waits.samples if sample.name.endswith("_count"))
    assert total == 3 * 27 * GARBAGE_COUNT, "nothing is lost"
