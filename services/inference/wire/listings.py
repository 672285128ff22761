"""Models and the fleet: domain in, protobuf out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from ollamesh.inference.v1 import fleet_pb2 as pb
from ollamesh.inference.v1 import model_pb2

from services.inference.core.breaker import BreakerState
from services.inference.core.catalog import Catalog
from services.inference.core.gpus import Gpu
from services.inference.core.jobs import Job, Priority
from services.inference.core.ledger import InstanceView, Model, Resident
from services.inference.core.names import key
from services.inference.downloads import Done, Told
from services.inference.gateway import FleetView
from services.inference.ports import Description
from services.inference.wire.events import duration

_CAPABILITIES = {
    "completion": model_pb2.CAPABILITY_COMPLETION,
    "tools": model_pb2.CAPABILITY_TOOLS,
    "embedding": model_pb2.CAPABILITY_EMBEDDING,
    "vision": model_pb2.CAPABILITY_VISION,
    "thinking": model_pb2.CAPABILITY_THINKING,
    "insert": model_pb2.CAPABILITY_INSERT,
}
_BREAKER_STATES = {
    BreakerState.CLOSED: pb.BREAKER_STATE_CLOSED,
    BreakerState.HALF_OPEN: pb.BREAKER_STATE_HALF_OPEN,
    BreakerState.OPEN: pb.BREAKER_STATE_OPEN,
}


def model(found: Model, catalog: Catalog, *, context_token_count_max: int = 0) -> model_pb2.Model:
    card = found.card
    config = catalog.of(key(card.name))
    made = model_pb2.Model(
        name=card.name,
        digest=card.digest,
        size_bytes=card.size_bytes,
        family=card.family,
        parameter_size=card.parameter_size,
        quantization=card.quantization,
        capabilities=sorted(_CAPABILITIES[name] for name in card.capabilities & _CAPABILITIES.keys()),
        context_token_count_max=context_token_count_max,
        context_token_count=config.context_token_count or found.context_token_count,
        vram_bytes=config.vram_bytes or found.need_bytes,
        instances=found.instances,
        resident_instances=found.resident_instances,
        pinned=found.pinned,
    )
    _set(made.modified_time, card.modified_at)
    return made


def described(found: Model, description: Description, catalog: Catalog) -> model_pb2.GetModelResponse:
    made = model(found, catalog, context_token_count_max=description.context_token_count_max)
    return model_pb2.GetModelResponse(model=made, template=description.template, license=description.license)


def pulled(told: Told | Done, catalog: Catalog) -> model_pb2.PullModelResponse:
    if isinstance(told, Done):
        return model_pb2.PullModelResponse(done={"model": model(told.model, catalog)})
    progress = told.progress
    return model_pb2.PullModelResponse(
        progress={
            "instance": told.instance,
            "status": progress.status,
            "digest": progress.digest,
            "total_bytes": progress.total_bytes,
            "completed_bytes": progress.completed_bytes,
        }
    )


def fleet(view: FleetView) -> pb.Fleet:
    made = pb.Fleet(
        instances=[_instance(instance, view.busy[instance.name]) for instance in view.instances],
        queues=[_queue(name, jobs, view.now_s) for name, jobs in view.queues.items()],
    )
    _set(made.observed_time, datetime.now(UTC))
    return made


def _instance(view: InstanceView, busy: Mapping[str, int]) -> pb.Instance:
    made = pb.Instance(
        name=view.name,
        state=_state(view),
        state_reason=view.unready_reason,
        version=view.report.version,
        slot_count=view.slots if view.ready else 0,
        busy_slot_count=sum(busy.values()),
        resident_models=[_resident(resident, busy) for resident in view.report.residents],
        gpus=map(_gpu, view.gpus),
        breaker=_BREAKER_STATES[view.breaker],
    )
    _set(made.seen_time, view.seen_at)
    return made


def _state(view: InstanceView) -> pb.InstanceState:
    if view.ready:
        return pb.INSTANCE_STATE_READY
    return pb.INSTANCE_STATE_STALE if view.breaker is BreakerState.CLOSED else pb.INSTANCE_STATE_BROKEN


def _gpu(gpu: Gpu) -> pb.Gpu:
    return pb.Gpu(
        name=gpu.name,
        memory_bytes=gpu.memory_bytes,
        memory_used_bytes=gpu.memory_used_bytes,
        utilization=gpu.utilization,
        temperature_celsius=gpu.temperature_celsius,
    )


def _resident(resident: Resident, busy: Mapping[str, int]) -> pb.ResidentModel:
    made = pb.ResidentModel(
        name=resident.name,
        digest=resident.digest,
        vram_bytes=resident.vram_bytes,
        size_bytes=resident.size_bytes,
        context_token_count=resident.context_token_count,
        quantization=resident.quantization,
        busy_slot_count=busy.get(key(resident.name), 0),
    )
    _set(made.expire_time, resident.expires_at)
    return made


def _queue(name: str, jobs: Sequence[Job], now_s: float) -> pb.ModelQueue:
    counts = Counter(job.priority for job in jobs)
    return pb.ModelQueue(
        model=name,
        interactive_waiting_count=counts[Priority.INTERACTIVE],
        default_waiting_count=counts[Priority.DEFAULT],
        batch_waiting_count=counts[Priority.BATCH],
        oldest_wait=duration(now_s - min(job.arrived_at_s for job in jobs)),
    )


def _set(timestamp: Timestamp, when: datetime | None) -> None:
    if when is not None:  # Untouched, the field stays unset.
        timestamp.FromDatetime(when)
