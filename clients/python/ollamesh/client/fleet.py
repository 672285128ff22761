"""Models and the instances that serve them, as Python values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ollamesh.client.values import seconds
from ollamesh.inference.v1 import fleet_pb2, model_pb2

Capability = Literal["completion", "tools", "embedding", "vision", "thinking", "insert"]
State = Literal["ready", "stale", "broken", "draining", "unknown"]
Breaker = Literal["closed", "half_open", "open", "unknown"]

CAPABILITIES: Mapping[int, Capability] = {
    model_pb2.CAPABILITY_COMPLETION: "completion",
    model_pb2.CAPABILITY_TOOLS: "tools",
    model_pb2.CAPABILITY_EMBEDDING: "embedding",
    model_pb2.CAPABILITY_VISION: "vision",
    model_pb2.CAPABILITY_THINKING: "thinking",
    model_pb2.CAPABILITY_INSERT: "insert",
}
STATES: Mapping[int, State] = {
    fleet_pb2.INSTANCE_STATE_READY: "ready",
    fleet_pb2.INSTANCE_STATE_STALE: "stale",
    fleet_pb2.INSTANCE_STATE_BROKEN: "broken",
    fleet_pb2.INSTANCE_STATE_DRAINING: "draining",
}
BREAKERS: Mapping[int, Breaker] = {
    fleet_pb2.BREAKER_STATE_CLOSED: "closed",
    fleet_pb2.BREAKER_STATE_HALF_OPEN: "half_open",
    fleet_pb2.BREAKER_STATE_OPEN: "open",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that some instance has. `resident_instances` have it loaded."""

    name: str
    digest: str
    size_bytes: int
    family: str
    parameter_size: str
    quantization: str
    capabilities: tuple[Capability, ...]
    context_token_count_max: int  # What it was made for; 0 if nobody tells.
    context_token_count: int  # What requests get here; 0 is the instance's default.
    vram_bytes: int  # What it needs when it is loaded, by estimate.
    instances: tuple[str, ...]
    resident_instances: tuple[str, ...]
    pinned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentModel:
    """A model in an instance's memory, of which `vram_bytes` are the accelerator's."""

    name: str
    quantization: str
    size_bytes: int
    vram_bytes: int
    busy_slot_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """An accelerator. `utilization` is 0 to 1."""

    name: str
    memory_bytes: int
    memory_used_bytes: int
    utilization: float
    temperature_celsius: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One Ollama server. `state_reason` is empty when it is ready."""

    name: str
    state: State
    state_reason: str
    version: str
    slot_count: int
    busy_slot_count: int
    resident_models: tuple[ResidentModel, ...]
    gpus: tuple[Gpu, ...]
    breaker: Breaker


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Who waits for a model."""

    model: str
    waiting_count: int
    oldest_wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Everything that serves, and everything that waits."""

    instances: tuple[Instance, ...]
    queues: tuple[Queue, ...]


def model_of(model: model_pb2.Model) -> Model:
    return Model(
        name=model.name,
        digest=model.digest,
        size_bytes=model.size_bytes,
        family=model.family,
        parameter_size=model.parameter_size,
        quantization=model.quantization,
        capabilities=tuple(CAPABILITIES[each] for each in model.capabilities if each in CAPABILITIES),
        context_token_count_max=model.context_token_count_max,
        context_token_count=model.context_token_count,
        vram_bytes=model.vram_bytes,
        instances=tuple(model.instances),
        resident_instances=tuple(model.resident_instances),
        pinned=model.pinned,
    )


def fleet_of(fleet: fleet_pb2.Fleet) -> Fleet:
    return Fleet(
        instances=tuple(_instance_of(instance) for instance in fleet.instances),
        queues=tuple(
            Queue(
                model=queue.model,
                waiting_count=queue.interactive_waiting_count
                + queue.default_waiting_count
                + queue.batch_waiting_count,
                oldest_wait_s=seconds(queue.oldest_wait),
            )
            for queue in fleet.queues
        ),
    )


def _instance_of(instance: fleet_pb2.Instance) -> Instance:
    return Instance(
        name=instance.name,
        state=STATES.get(instance.state, "unknown"),
        state_reason=instance.state_reason,
        version=instance.version,
        slot_count=instance.slot_count,
        busy_slot_count=instance.busy_slot_count,
        resident_models=tuple(
            ResidentModel(
                name=model.name,
                quantization=model.quantization,
                size_bytes=model.size_bytes,
                vram_bytes=model.vram_bytes,
                busy_slot_count=model.busy_slot_count,
            )
            for model in instance.resident_models
        ),
        gpus=tuple(
            Gpu(
                name=gpu.name,
                memory_bytes=gpu.memory_bytes,
                memory_used_bytes=gpu.memory_used_bytes,
                utilization=gpu.utilization,
                temperature_celsius=gpu.temperature_celsius,
            )
            for gpu in instance.gpus
        ),
        breaker=BREAKERS.get(instance.breaker, "unknown"),
    )
