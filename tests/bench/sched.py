"""The scheduler: what a decision costs, what planning saves, and how well the simulator foretells both.

Decisions are timed around the production calls, sizes in turns so that both see the same minute of the machine. Where
others use the processor too, the slowest samples are theirs: so each is given twice, by the clock and by the processor
time of this thread, and a loop of fixed work beside it shows what the machine itself did meanwhile.
"""

import asyncio
import gc
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean, median
from time import perf_counter_ns, process_time

from services.inference.simulation.fleet_spec import FleetSpec, parse_fleet
from services.inference.simulation.machine import Machine
from services.inference.simulation.parts import Block, Event, Finished, ModelSpec, Request
from services.inference.simulation.simulate import simulate
from services.inference.simulation.synthetic import synthesise
from services.inference.simulation.trace import Arrival
from tests.bench.support.decisions import BusyFleet, Sample, Shape
from tests.bench.support.fakes import GIB, fake_fleet, prompt
from tests.bench.support.report import Figure, percentile, report
from tests.bench.support.service import service
from tests.bench.support.traffic import OK, Ask, Loop, Plan, Record, drive

ROUNDS = int(os.environ.get("ROUNDS", "7"))
STEPS = 500
TENANTS, INSTANCES = 100, 50
FEW, MANY = 1_000, 10_000
DECISION_GOAL_S, DECISION_P99_GOAL_S, FLAT_GOAL = 100e-6, 1e-3, 3.0
ALTERNATING = 1_000
TENANT = "tenant-0"
SIMULATED = "poisson:rate=40,duration=500,model=tiny,prompt=200,output=100,tenants=20,deadline=60"
SIMULATOR_GOAL_PER_MIN, ACCURACY_GOAL = 100_000, 15.0
TRACE = "poisson:rate=12,duration=60,model=tiny,prompt=200,output=30,tenants=5,timeout=60"


@dataclass(frozen=True, slots=True)
class Row:
    """What is told of the samples."""

    title: str
    of: Callable[[Sample], float]
    percent: int
    goal_s: float | None = None


SAMPLED = (
    Row("decision, median", lambda one: one.decision_s, 50, DECISION_GOAL_S),
    Row("decision, median, processor time", lambda one: one.decision_busy_s, 50, DECISION_GOAL_S),
    Row("decision, p99", lambda one: one.decision_s, 99, DECISION_P99_GOAL_S),
    Row("decision, p99, processor time", lambda one: one.decision_busy_s, 99, DECISION_P99_GOAL_S),
    Row("queueing one, median", lambda one: one.submit_s, 50),
)

SMALL = ModelSpec(
    name="", vram_bytes=GIB, load_s=0.1, prefill_tokens_per_s=10_000, token_s=0.005, batch_cost=0.1
)

# Decisions


def decisions(model_count: int) -> list[Figure]:
    samples, machine_s = timed(model_count)
    few, many = ([rounds_of(name, samples[count]) for name in SAMPLED] for count in (FEW, MANY))
    name = f"{MANY:,} wait for {model_count} model{'s' if model_count > 1 else ''}"
    return [
        *(
            Figure(
                name=f"{name}: {row.title}",
                value=at_many_s * 1e6,
                unit="us",
                baseline=at_few_s * 1e6,
                goal=None if row.goal_s is None else row.goal_s * 1e6,
            )
            for row, at_many_s, at_few_s in zip(SAMPLED, many, few, strict=True)
        ),
        Figure(name=f"{name}: median, against {FEW:,}", value=many[0] / few[0], unit="x", goal=FLAT_GOAL),
        Figure(
            name=f"{name}: the machine's own p99 over its median",
            value=median(percentile(some, 99) / median(some) for some in machine_s),
            unit="x",
        ),
    ]


def rounds_of(row: Row, rounds: Sequence[Sequence[Sample]]) -> float:
    """Return the median of a row's value over the rounds."""
    return median(percentile([row.of(sample) for sample in some], row.percent) for some in rounds)


def timed(model_count: int) -> tuple[Mapping[int, list[list[Sample]]], list[list[float]]]:
    """Return the samples of every round by how many wait, and those of fixed work beside them."""
    sizes = {
        count: BusyFleet(
            Shape(
                waiting_count=count,
                tenant_count=TENANTS,
                instance_count=INSTANCES,
                model_count=model_count,
            ),
            seed=count,
        )
        for count in (FEW, MANY)
    }
    samples: dict[int, list[list[Sample]]] = {count: [] for count in sizes}
    machine_s: list[list[float]] = []
    gc.collect()
    gc.freeze()
    gc.disable()
    for number in range(-1, ROUNDS):  # The first round warms up.
        for count, fleet in sizes.items():
            found = [fleet.step() for _ in range(STEPS)]
            if number >= 0:
                samples[count].append(found)
        machine_s.append([fixed_work_s() for _ in range(STEPS)])
    gc.enable()
    gc.unfreeze()
    return samples, machine_s


def fixed_work_s() -> float:
    """Return how long the same work takes now, about as much as a decision."""
    began_ns = perf_counter_ns()
    total = 0
    for number in range(2_000):
        total += number & 7
    return (perf_counter_ns() - began_ns) / 1e9


# Two models, and memory for one


async def alternating_over_sockets() -> list[Figure]:
    """Two callers, each of whom asks its model again when it has its answer: Ollama finds a model idle each time."""
    models = [replace(SMALL, name=f"{name}:latest") for name in ("left", "right")]
    asks = [
        Ask(
            at_s=0,
            tenant=TENANT,
            text=prompt(TENANT, reads=40, writes=5),
            model=model.name,
            output_max=5,
            deadline_s=60,
        )
        for model in models
    ]
    loops = [Loop(asks=[ask], caller_count=1, request_count_max=ALTERNATING // 2) for ask in asks]
    async with (
        fake_fleet(*models, count=1, slots=4, vram_gib=1) as fleet,
        service(fleet.urls, instance_slots=4) as gateway,
    ):
        plan = Plan(address=gateway.address, tokens={TENANT: gateway.token(TENANT)}, loops=loops)
        own = await drive(plan)
        own_count = fleet.load_count
        alone = await drive(Plan(urls=fleet.urls, loops=loops))
        alone_count = fleet.load_count - own_count
    return alternating_figures((own_count, own), (alone_count, alone))


def alternating_figures(own: tuple[int, Record], alone: tuple[int, Record]) -> list[Figure]:
    """Compare loads, answers and latencies."""
    name = f"{ALTERNATING:,} requests, a caller for each of two models"
    own_s, alone_s = ([answer.total_s for answer in record.answers] for _, record in (own, alone))
    answered, answered_alone = (
        sum(answer.verdict == OK for answer in record.answers) for _, record in (own, alone)
    )
    return [
        Figure(name=f"{name}: loads", value=own[0], unit="", baseline=alone[0], goal=alone[0] / 10),
        Figure(
            name=f"{name}: answered",
            value=answered,
            unit="",
            baseline=answered_alone,
            goal=ALTERNATING,
            at_least=True,
        ),
        Figure(name=f"{name}: mean", value=fmean(own_s), unit="s", baseline=fmean(alone_s)),
        Figure(name=f"{name}: p99", value=percentile(own_s, 99), unit="s", baseline=percentile(alone_s, 99)),
    ]


def alternating_by_chance() -> list[Figure]:
    """The same models asked for by chance, whether answers come or not, in virtual time."""
    fleet = parse_fleet(
        {
            "instances": [{"slots": 4, "vram_gib": 8, "max_queue": ALTERNATING}],
            "policy": {"waiting_max": ALTERNATING},
            "models": {
                name: {
                    "vram_gib": 6,
                    "load_s": 2.5,
                    "prefill_tokens_per_s": 4000,
                    "token_s": 0.02,
                    "batch_cost": 0.1,
                }
                for name in ("left", "right")
            },
        }
    )
    random, at_s, arrivals = Random(1), 0.0, []
    for number in range(ALTERNATING):
        at_s += random.expovariate(1 / 0.8)
        arrivals.append(
            Arrival(
                at_s=at_s,
                model=f"{('left', 'right')[number % 2]}:latest",
                prompt_tokens=200,
                output_tokens=50,
                queue_timeout_s=3600,
            )
        )
    own = simulate(fleet, arrivals)
    alone_count, alone_s = asked_directly(fleet, arrivals)
    name = "the same by chance, every 0.8 s, simulated"
    return [
        Figure(name=f"{name}: loads", value=sum(own.loads.values()), unit="", baseline=alone_count),
        Figure(name=f"{name}: p95", value=own.total.p95_s, unit="s", baseline=percentile(alone_s, 95)),
    ]


def asked_directly(fleet: FleetSpec, arrivals: Sequence[Arrival]) -> tuple[int, list[float]]:
    """Return the loads and latencies of one machine, asked as Ollama's own clients ask: without a keep_alive."""
    ((spec, models),) = fleet.machines()
    machine = Machine(spec, models)
    events: list[Event] = []
    for number, arrival in enumerate(arrivals):
        events += machine.advance(arrival.at_s)
        prompt_blocks = (Block(str(number), arrival.prompt_tokens),)
        machine.offer(
            Request(
                id=number,
                model=arrival.model,
                prompt=prompt_blocks,
                output_token_count=arrival.output_tokens,
            ),
            arrival.at_s,
        )
    while sum(isinstance(event, Finished) for event in events) < len(arrivals):
        at_s = machine.next_event_s()
        assert at_s is not None
        events += machine.advance(at_s)
    ended = [event for event in events if isinstance(event, Finished)]
    return machine.load_count, [event.at_s - arrivals[event.id].at_s for event in ended]


# The simulator


def simulator_speed() -> Figure:
    fleet = parse_fleet(
        {
            "instances": [{"count": 10, "slots": 8, "vram_gib": 24}],
            "models": {
                "tiny": {
                    "vram_gib": 6,
                    "load_s": 2.5,
                    "prefill_tokens_per_s": 4000,
                    "token_s": 0.01,
                    "batch_cost": 0.08,
                }
            },
        }
    )
    arrivals = synthesise(SIMULATED, seed=1)
    per_min = []
    for _ in range(3):
        began_s = process_time()
        simulate(fleet, arrivals)
        per_min.append(len(arrivals) / (process_time() - began_s) * 60)
    return Figure(
        name="simulated requests per minute of processor time",
        value=median(per_min),
        unit="",
        goal=SIMULATOR_GOAL_PER_MIN,
        at_least=True,
    )


async def simulator_accuracy() -> tuple[list[Figure], str]:
    tiny = {
        "vram_gib": 1,
        "load_s": 1.0,
        "prefill_tokens_per_s": 4000,
        "token_s": 0.015,
        "batch_cost": 0.1,
    }
    instances, slots = 3, 4
    fleet_spec = parse_fleet(
        {
            "instances": [{"count": instances, "slots": slots, "vram_gib": 24}],
            "models": {"tiny": tiny},
        }
    )
    arrivals = synthesise(TRACE, seed=3)
    foretold = simulate(fleet_spec, arrivals)
    asks = [
        Ask(
            at_s=arrival.at_s,
            tenant=arrival.tenant,
            text=prompt(
                arrival.tenant, reads=arrival.prompt_tokens, writes=arrival.output_tokens, number=number
            ),
            model=arrival.model,
            output_max=0,
            deadline_s=120,
        )
        for number, arrival in enumerate(arrivals)
    ]
    models = fleet_spec.models.values()
    async with (
        fake_fleet(*models, count=instances, slots=slots) as fleet,
        service(fleet.urls, instance_slots=slots) as gateway,
    ):
        record = await drive(Plan(address=gateway.address, tokens=tokens_of(gateway.token, asks), asks=asks))
    return (
        [
            *foretold_figures(record, "p50", foretold.total.p50_s, 50),
            *foretold_figures(record, "p95", foretold.total.p95_s, 95),
        ],
        f"The trace of the comparison: {len(asks)} requests; the generator's own lateness p99 {record.late_p99_s * 1e3:.0f} ms.",
    )


def foretold_figures(record: Record, name: str, foretold_s: float, percent: int) -> list[Figure]:
    measured_s = percentile([one.total_s for one in record.answers if one.verdict == OK], percent)
    return [
        Figure(name=f"foretold {name}, against measured", value=foretold_s, unit="s", baseline=measured_s),
        Figure(
            name=f"foretold {name}: off by",
            value=abs(foretold_s / measured_s - 1) * 100,
            unit="%",
            goal=ACCURACY_GOAL,
        ),
    ]


def tokens_of(token: Callable[[str], str], asks: Sequence[Ask]) -> dict[str, str]:
    return {tenant: token(tenant) for tenant in {ask.tenant for ask in asks}}


async def over_sockets() -> tuple[list[Figure], str]:
    figures = await alternating_over_sockets()
    accuracy, remark = await simulator_accuracy()
    return [*figures, *accuracy], remark


def main() -> None:
    figures = [*decisions(model_count=1), *decisions(model_count=100)]
    figures += [*alternating_by_chance(), simulator_speed()]
    measured, remark = asyncio.run(over_sockets())
    report("sched", rounds=ROUNDS, figures=[*figures, *measured], remarks=[remark])


if __name__ == "__main__":
    main()
