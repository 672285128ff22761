"""The fleet in protobuf: states, breakers, GPUs, models and who waits."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from ollamesh.inference.v1 import fleet_pb2 as pb

from services.inference.core.breaker import BreakerState
from services.inference.core.gpus import Gpu
from services.inference.core.jobs import Job, Priority
from services.inference.core.ledger import InstanceView, Report, Resident
from services.inference.gateway import FleetView
from services.inference.wire import listings

AT = datetime(2026, 1, 2, tzinfo=UTC)


def fleet(
    *views: InstanceView,
    busy: Mapping[str, Mapping[str, int]] | None = None,
    queues: Mapping[str, list[Job]] | None = None,
) -> pb.Fleet:
    return listings.fleet(
        FleetView(
            instances=list(views),
            busy={**{view.name: {} for view in views}, **(busy or {})},
            queues=queues or {},
            now_s=100.0,
        )
    )


def job(ticket: int, priority: Priority, arrived_at_s: float) -> Job:
    return Job(
        ticket=ticket,
        tenant="t",
        model="tiny:latest",
        priority=priority,
        arrived_at_s=arrived_at_s,
        expires_at_s=1000.0,
    )


@pytest.mark.parametrize(
    ("reason", "breaker", "state", "told"),
    [
        ("", BreakerState.CLOSED, pb.INSTANCE_STATE_READY, pb.BREAKER_STATE_CLOSED),
        ("gone", BreakerState.CLOSED, pb.INSTANCE_STATE_STALE, pb.BREAKER_STATE_CLOSED),
        ("it fails", BreakerState.OPEN, pb.INSTANCE_STATE_BROKEN, pb.BREAKER_STATE_OPEN),
        ("it fails", BreakerState.HALF_OPEN, pb.INSTANCE_STATE_BROKEN, pb.BREAKER_STATE_HALF_OPEN),
    ],
)
def test_a_state_has_its_reason_and_no_slots_unless_ready(
    reason: str, breaker: BreakerState, state: int, told: int
) -> None:
    (found,) = fleet(InstanceView(name="one", slots=4, unready_reason=reason, breaker=breaker)).instances
    assert (found.state, found.state_reason, found.breaker) == (state, reason, told)
    assert found.slot_count == (0 if reason else 4)
    assert not found.HasField("seen_time")


def test_models_have_quantization_memory_and_slots() -> None:
    resident = Resident(
        name="mistral",
        digest="d",
        size_bytes=5,
        vram_bytes=4,
        context_token_count=4096,
        quantization="Q4_K_M",
        expires_at=AT,
    )
    view = InstanceView(name="one", slots=4, seen_at=AT, report=Report(version="0.33", residents=(resident,)))
    (found,) = fleet(view, busy={"one": {"mistral:latest": 2, "tiny:latest": 1}}).instances
    assert (found.version, found.busy_slot_count, found.seen_time.ToDatetime(UTC)) == ("0.33", 3, AT)
    (model,) = found.resident_models
    assert (model.name, model.quantization, model.vram_bytes, model.size_bytes) == (
        "mistral",
        "Q4_K_M",
        4,
        5,
    )
    assert (model.context_token_count, model.busy_slot_count) == (4096, 2)
    assert model.expire_time.ToDatetime(UTC) == AT


def test_gpus_have_their_figures() -> None:
    gpu = Gpu(
        index=1,
        uuid="GPU-1",
        name="H200",
        memory_bytes=100,
        memory_used_bytes=50,
        utilization=0.5,
        temperature_celsius=54.0,
    )
    (found,) = fleet(InstanceView(name="one", gpus=(gpu,))).instances
    (told,) = found.gpus
    assert (told.name, told.memory_bytes, told.memory_used_bytes) == ("H200", 100, 50)
    assert (told.utilization, told.temperature_celsius) == (0.5, 54.0)


def test_queues_are_counted_by_priority_with_the_longest_wait() -> None:
    jobs = [
        job(1, Priority.INTERACTIVE, 99.0),
        job(2, Priority.BATCH, 97.5),
        job(3, Priority.BATCH, 98.0),
    ]
    (queue,) = fleet(queues={"tiny:latest": jobs}).queues
    counts = (queue.interactive_waiting_count, queue.default_waiting_count, queue.batch_waiting_count)
    assert (queue.model, counts) == ("tiny:latest", (1, 0, 2))
    assert queue.oldest_wait.ToMilliseconds() == 2500
