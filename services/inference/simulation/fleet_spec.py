"""The fleet that is to be simulated: a TOML file, or JSON of the same shape.

[[instances]]
count = 4
slots = 8                       # OLLAMA_NUM_PARALLEL and OLLAMESH_INSTANCE_SLOTS
vram_gib = 80
loaded_max = 64                 # OLLAMA_MAX_LOADED_MODELS; without it Ollama's own, three.

[models."llama3.2:3b"]
vram_gib = 4
load_s = 2.5
prefill_tokens_per_s = 8000
token_s = 0.008                 # Of a request alone; with n at work: token_s * (1 + batch_cost * (n - 1)).
batch_cost = 0.08

[policy]                        # Any of core/policy.py.
wait_share_max = 0.5
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from services.inference.core.names import key
from services.inference.core.policy import Policy
from services.inference.simulation.fields import Fields, Malformed
from services.inference.simulation.parts import MachineSpec, ModelSpec
from services.inference.simulation.policies import read_policy

GIB = 2**30
INSTANCES_MAX = 1000
SLOTS_MAX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceGroup:
    """Instances that are alike."""

    name: str
    count: int
    speed: float  # Of its GPUs, against the one that the models' figures are of.
    machine: MachineSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSpec:
    groups: tuple[InstanceGroup, ...]
    models: Mapping[str, ModelSpec]  # By key.
    policy: Policy
    poll_every_s: float = 2.0
    keep_alive_s: float = 300.0  # What the gateway asks for.

    @property
    def instance_count(self) -> int:
        return sum(group.count for group in self.groups)

    def machines(self) -> list[tuple[MachineSpec, Mapping[str, ModelSpec]]]:
        """Return every instance, each with its name and its models as fast as they are there."""
        made: list[tuple[MachineSpec, Mapping[str, ModelSpec]]] = []
        for group in self.groups:
            models = {name: _at_speed(model, group.speed) for name, model in self.models.items()}
            width = len(str(group.count - 1))
            for number in range(group.count):
                name = f"{group.name}-{number:0{width}}"
                made.append((replace(group.machine, name=name), models))
        return made

    def with_instances(self, count: int) -> "FleetSpec":
        """Return the same with another number of instances."""
        if len(self.groups) != 1:
            raise Malformed("instances: their number can be changed where there is one kind of them only")
        return replace(self, groups=(replace(self.groups[0], count=count),))


def read_fleet(path: Path) -> FleetSpec:
    """Return what a file describes, or raise Malformed."""
    text = path.read_text(encoding="utf-8")
    try:
        found: object = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed(
            f"{path.name}: is not {'JSON' if path.suffix == '.json' else 'TOML'}: {error}"
        ) from None
    return parse_fleet(found)


def parse_fleet(found: object) -> FleetSpec:
    row = Fields(found, where="fleet")
    groups: list[InstanceGroup] = []
    for place, value in enumerate(row.items("instances")):
        groups.append(_group(Fields(value, where=f"instances[{place}]"), place))
    if not groups:
        raise row.wrong("instances", "has none")
    if len({group.name for group in groups}) < len(groups):
        raise row.wrong("instances", "has two of one name")
    tables = row.table("models")
    models = {key(name): _model(tables.table(name), key(name)) for name in tables.names()}
    if not models:
        raise row.wrong("models", "has none")
    gateway = row.table("gateway")
    spec = FleetSpec(
        groups=tuple(groups),
        models=models,
        policy=read_policy(row.table("policy")),
        poll_every_s=gateway.number("poll_every_s", 2.0, low=0.01, high=3600),
        keep_alive_s=gateway.number("keep_alive_s", 300.0),
    )
    gateway.done()
    row.done()
    return spec


def _group(row: Fields, place: int) -> InstanceGroup:
    machine = MachineSpec(
        name="",
        vram_bytes=_gib(row, "vram_gib"),
        parallel=row.whole("slots", 4, low=1, high=SLOTS_MAX),
        max_queue=row.whole("max_queue", 512),
        keep_alive_s=row.number("keep_alive_s", 300.0),
        loaded_max=row.whole("loaded_max", 0),
    )
    group = InstanceGroup(
        name=row.text("name", "gpu" if not place else f"gpu{place}"),
        count=row.whole("count", 1, low=1, high=INSTANCES_MAX),
        speed=row.number("speed", 1.0, low=1e-3, high=1e3),
        machine=machine,
    )
    row.done()
    return group


def _model(row: Fields, name: str) -> ModelSpec:
    model = ModelSpec(
        name=name,
        vram_bytes=_gib(row, "vram_gib"),
        load_s=row.number("load_s"),
        prefill_tokens_per_s=row.number("prefill_tokens_per_s", low=1e-3),
        token_s=row.number("token_s", low=1e-6),
        batch_cost=row.number("batch_cost", 0.1, high=10),
        parallel_max=row.whole("slots_max", 0, high=SLOTS_MAX),
    )
    row.done()
    return model


def _gib(row: Fields, name: str) -> int:
    return int(row.number(name, low=1e-6, high=1e6) * GIB)


def _at_speed(model: ModelSpec, speed: float) -> ModelSpec:
    return replace(
        model,
        load_s=model.load_s / speed,
        prefill_tokens_per_s=model.prefill_tokens_per_s * speed,
        token_s=model.token_s / speed,
    )
