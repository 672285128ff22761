"""Ten times as much as a fleet can take: what the gateway still gets done, and what becomes of those it turns away.

Open loop, from a process of its own: requests come when their time has come, and latencies count from then. Beside the
gateway, over the same fake fleet and in the same run: a plain queue (the gateway without its admission, which is not
told of deadlines; callers leave when theirs has passed) and no gateway at all (each caller asks an Ollama, in turns).

The gateway refuses by what it has measured, so each round begins with a phase that lets it measure. Probes are requests
that come just after the overload, one every 50 ms, that come back when told to, and that count as served if they are
done within a second of its end.
"""

import asyncio
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import median

from services.inference.simulation.parts import ModelSpec
from tests.bench.support.fakes import GIB, FakeFleet, fake_fleet, prompt
from tests.bench.support.report import Figure, percentile, report
from tests.bench.support.service import Service, service
from tests.bench.support.traffic import REFUSED, Answer, Ask, Plan, Record, drive, poisson

ROUNDS = int(os.environ.get("ROUNDS", "3"))
VOID_MAX = 3  # Rounds in which the generator was late are done again, so often.
LATE_MAX_S = 0.05
INSTANCES, SLOTS = 2, 3
MODEL = ModelSpec(
    name="tiny:latest", vram_bytes=GIB, load_s=0.2, prefill_tokens_per_s=4000, token_s=0.015, batch_cost=0.1
)
READS, WRITES = 40, 10
DEADLINE_S = 1.0
OVERLOAD, OVERLOAD_S = 10.0, 6.0
LADDER, STEP_S = (0.8, 1.0, 1.25), 4.0
SETTLING_S = 1.0  # At the beginning of a phase, which does not count.
PROBES, PROBE_EVERY_S = 10, 0.05
TENANT = "tenant-0"


def capacity() -> float:
    """Return how many requests per second the fleet can answer, every slot in use."""
    token_s = MODEL.token_s * (1 + MODEL.batch_cost * (SLOTS - 1))
    return INSTANCES * SLOTS / (READS / MODEL.prefill_tokens_per_s + WRITES * token_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Who is asked."""

    name: str
    plan: Plan
    gateway: Service | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overloaded:
    """What one overload came to."""

    goodput: float
    late_share: float  # Of those admitted.
    admitted_p99_s: float
    refusals_s: Sequence[float]
    probe_count: int
    generator_late_s: float
    gateway_busy: float  # Of a processor.


async def measure(fleet: FakeFleet, gateway: Service, fifo: Service) -> tuple[list[Figure], list[str]]:
    targets = [
        Target(name="gateway", plan=Plan(address=gateway.address), gateway=gateway),
        Target(name="plain queue", plan=Plan(address=fifo.address, tells_deadline=False), gateway=fifo),
        Target(name="Ollama alone", plan=Plan(urls=fleet.urls), gateway=None),
    ]
    random = Random(7)
    peaks: list[float] = []
    rounds: dict[str, list[Overloaded]] = {target.name: [] for target in targets}
    void_count = 0
    while len(peaks) < ROUNDS:
        peak = await peak_goodput(targets[0], random)
        found = {target.name: await overload(target, random, fleet) for target in targets}
        if found["gateway"].generator_late_s > LATE_MAX_S and void_count < VOID_MAX:
            void_count += 1
            continue
        peaks.append(peak)
        for name, one in found.items():
            rounds[name].append(one)
    remark = (
        f"{void_count} rounds were void and done again: the generator was late by more than {LATE_MAX_S:g} s."
    )
    return figures(peaks, rounds), [
        f"Capacity by the model of the machines: {capacity():.1f} requests/s. {remark}"
    ]


async def peak_goodput(target: Target, random: Random) -> float:
    """Return the most that was answered in time per second, of several rates around the capacity."""
    await run(target, asks(random, rate=0.5 * capacity(), lasting_s=STEP_S))  # So that estimates are warm.
    best = 0.0
    for step in LADDER:
        record = await run(target, asks(random, rate=step * capacity(), lasting_s=STEP_S))
        best = max(best, goodput(record.answers, lasting_s=STEP_S))
    return best


async def overload(target: Target, random: Random, fleet: FakeFleet) -> Overloaded:
    if target.gateway is not None:
        await run(target, asks(random, rate=0.7 * capacity(), lasting_s=1.0))
    load = list(asks(random, rate=OVERLOAD * capacity(), lasting_s=OVERLOAD_S))
    probes = [
        replace(
            load[0],
            at_s=OVERLOAD_S + number * PROBE_EVERY_S,
            deadline_s=1.0 - number * PROBE_EVERY_S,
            patient=True,
            kind="probe",
        )
        for number in range(PROBES)
    ]
    busy_s = target.gateway.cpu_s() if target.gateway else 0.0
    record = await run(target, [*load, *probes])
    busy_s = (target.gateway.cpu_s() if target.gateway else 0.0) - busy_s
    while any(fake.busy_count for fake in fleet.fakes):
        await asyncio.sleep(0.05)
    of_load = [answer for answer in record.answers if answer.kind != "probe"]
    admitted = [answer for answer in of_load if answer.verdict not in REFUSED]
    return Overloaded(
        goodput=goodput(of_load, lasting_s=OVERLOAD_S),
        late_share=sum(not answer.good for answer in admitted) / max(1, len(admitted)),
        admitted_p99_s=percentile([answer.total_s for answer in admitted], 99),
        refusals_s=[answer.total_s for answer in of_load if answer.verdict in REFUSED],
        probe_count=sum(answer.good for answer in record.answers if answer.kind == "probe"),
        generator_late_s=record.late_p99_s,
        gateway_busy=busy_s / OVERLOAD_S,
    )


async def run(target: Target, some: Sequence[Ask] | Iterator[Ask]) -> Record:
    tokens = {TENANT: target.gateway.token(TENANT)} if target.gateway else {}
    record = await drive(replace(target.plan, tokens=tokens, asks=list(some)))
    if target.gateway is not None:
        await target.gateway.until_idle()
    return record


def asks(random: Random, *, rate: float, lasting_s: float) -> Iterator[Ask]:
    for number, at_s in enumerate(poisson(random, rate=rate, from_s=0, until_s=lasting_s)):
        yield Ask(
            at_s=at_s,
            tenant=TENANT,
            text=prompt(TENANT, reads=READS, writes=WRITES, number=number),
            model=MODEL.name,
            output_max=WRITES,
            deadline_s=DEADLINE_S,
        )


def goodput(answers: Sequence[Answer], *, lasting_s: float) -> float:
    """Return how many answers were complete, each in its time, per second of the phase, once that is under way."""
    done = sum(answer.good and SETTLING_S <= answer.ended_s < lasting_s for answer in answers)
    return done / (lasting_s - SETTLING_S)


def figures(peaks: Sequence[float], rounds: dict[str, list[Overloaded]]) -> list[Figure]:
    peak = median(peaks)
    found = [Figure(name="goodput at its peak", value=peak, unit="/s", baseline=capacity())]
    for name, all_of_it in rounds.items():
        goal = 0.9 * peak if name == "gateway" else None
        value = median(one.goodput for one in all_of_it)
        found.append(
            Figure(
                name=f"goodput at 10x: {name}",
                value=value,
                unit="/s",
                baseline=peak,
                goal=goal,
                at_least=True,
            )
        )
    found += admitted_and_refused(rounds["gateway"], rounds["Ollama alone"])
    for name, all_of_it in rounds.items():
        goal = float(PROBES) if name == "gateway" else None
        value = median(one.probe_count for one in all_of_it)
        found.append(
            Figure(
                name=f"probes served within 1 s: {name}", value=value, unit="of 10", goal=goal, at_least=True
            )
        )
    found += [
        Figure(
            name="generator's own lateness: p99",
            value=median(one.generator_late_s for one in rounds["gateway"]) * 1e3,
            unit="ms",
        ),
        Figure(
            name="gateway's processor",
            value=median(one.gateway_busy for one in rounds["gateway"]) * 100,
            unit="%",
        ),
    ]
    return found


def admitted_and_refused(own: Sequence[Overloaded], alone: Sequence[Overloaded]) -> list[Figure]:
    late, late_alone = (median(one.late_share for one in some) * 100 for some in (own, alone))
    p99, p99_alone = (median(one.admitted_p99_s for one in some) for some in (own, alone))
    refusals = [one.refusals_s for one in own if len(one.refusals_s) > 1]
    return [
        Figure(name="admitted, and too late", value=late, unit="%", baseline=late_alone, goal=0.0),
        Figure(name="admitted: p99", value=p99, unit="s", baseline=p99_alone, goal=0.7 * DEADLINE_S),
        Figure(name="refusal: median", value=median(map(median, refusals)) * 1e3, unit="ms", goal=50.0),
        Figure(
            name="refusal: p99",
            value=median(percentile(one, 99) for one in refusals) * 1e3,
            unit="ms",
            goal=150.0,
        ),
    ]


async def main() -> None:
    async with (
        fake_fleet(MODEL, count=INSTANCES, slots=SLOTS) as fleet,
        service(fleet.urls, instance_slots=SLOTS) as gateway,
        service(fleet.urls, instance_slots=SLOTS, queue_max=100_000, wait_share_max=1) as fifo,
    ):
        found, remarks = await measure(fleet, gateway, fifo)
    report("overload", rounds=ROUNDS, figures=found, remarks=remarks)


if __name__ == "__main__":
    asyncio.run(main())
