"""Who gets how much when there is not enough: between tenants, between classes, and from callers who leave.

All over real sockets on a fake fleet, the traffic from a process of its own. Beside the gateway: the same gateway told
that all are one tenant and of one class, which makes it a plain queue. Who had how many GPU-seconds is read twice: from
the gateway's metrics, and from the books of the fakes, which know whose a request is from its prompt.
"""

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from statistics import fmean, median

from services.inference.simulation.parts import ModelSpec
from services.inference.simulation.report import jain
from tests.bench.support.fakes import GIB, FakeFleet, fake_fleet, prompt
from tests.bench.support.report import Figure, percentile, report
from tests.bench.support.service import Service, service
from tests.bench.support.traffic import OK, REFUSED, Ask, Loop, Plan, Record, drive, poisson

ROUNDS = int(os.environ.get("ROUNDS", "3"))
INSTANCES, SLOTS = 4, 4
MODEL = ModelSpec(
    name="tiny:latest", vram_bytes=GIB, load_s=0.2, prefill_tokens_per_s=4000, token_s=0.04, batch_cost=0.1
)
READS = 40
WRITES = (6, 8, 10, 12, 14)  # In turns, so that slots do not become free all at once.
GREEDY = "greedy"
LIGHT = tuple(f"light-{number}" for number in range(9))
TENANTS = (GREEDY, *LIGHT)
BACKLOGGED_S = 15.0
OPEN_S = 20.0
INTERACTIVE, BATCH = 1, 3
CLASSES_S, CLASSES_DEADLINE_S = 6.0, 2.0
AT_ONCE_S = 0.5
JAIN_GOAL, LIGHT_GOAL, INTERACTIVE_GOAL = 0.95, 1.5, 95.0


def capacity() -> float:
    """Return how many requests per second the fleet can answer, every slot in use."""
    token_s = MODEL.token_s * (1 + MODEL.batch_cost * (SLOTS - 1))
    return INSTANCES * SLOTS / (READS / MODEL.prefill_tokens_per_s + fmean(WRITES) * token_s)


class Fairness:
    """What is measured, with a gateway and the same as a plain queue."""

    def __init__(self, fleet: FakeFleet, gateway: Service) -> None:
        self._fleet = fleet
        self._gateway = gateway
        self._random = Random(11)

    async def warm(self) -> None:
        await self._drive(list(self._flow("warm", rate=0.7 * capacity(), lasting_s=4.0)))

    # Everybody has more to do than there is room for

    async def backlogged(self, *, one_tenant: bool = False) -> tuple[float, float]:
        """Return Jain's index of GPU-seconds: by the fakes' books, and by the gateway's own.

        The greedy tenant has ten times as many callers as the others, and asks for twice as much at a time.
        """
        loops = [
            Loop(
                asks=[self._ask(tenant, writes=writes * (2 if tenant == GREEDY else 1)) for writes in WRITES],
                caller_count=80 if tenant == GREEDY else 8,
                until_s=BACKLOGGED_S,
            )
            for tenant in TENANTS
        ]
        driving = asyncio.create_task(
            drive(
                Plan(address=self._gateway.address, tokens=self._tokens(one_tenant=one_tenant), loops=loops)
            )
        )
        await asyncio.sleep(BACKLOGGED_S / 2)  # Into the middle of it,
        began_s, before = asyncio.get_running_loop().time(), await self._gateway.gpu_s()
        await asyncio.sleep(BACKLOGGED_S / 2 - 1.0)
        ended_s, after = asyncio.get_running_loop().time(), await self._gateway.gpu_s()
        await driving
        await self._gateway.until_idle()
        had = self._fleet.gpu_s(began_s, ended_s)
        return (
            jain([had[tenant] for tenant in TENANTS]),
            jain([after.get(tenant, 0.0) - before.get(tenant, 0.0) for tenant in TENANTS]),
        )

    # One asks for ten times its share

    async def beside(self, *, greedy: bool, one_tenant: bool = False) -> Record:
        """Let each light tenant ask for half of its share, and the greedy one for ten times as much as its."""
        share = capacity() / len(TENANTS)
        asks = [ask for tenant in LIGHT for ask in self._flow(tenant, rate=0.5 * share, lasting_s=OPEN_S)]
        if greedy:
            asks += self._flow(GREEDY, rate=10 * share, lasting_s=OPEN_S)
        return await self._drive(asks, one_tenant=one_tenant)

    # One class asks for ten times the capacity

    async def classes(self, *, one_class: bool = False) -> Record:
        """Let interactive requests ask for half of the capacity, and batch requests for ten times of it."""
        asks = [
            *self._flow(
                "people",
                rate=0.5 * capacity(),
                lasting_s=CLASSES_S,
                deadline_s=CLASSES_DEADLINE_S,
                priority=INTERACTIVE,
            ),
            *self._flow("jobs", rate=10 * capacity(), lasting_s=CLASSES_S, deadline_s=30.0, priority=BATCH),
        ]
        if one_class:
            asks = [replace(ask, priority=2) for ask in asks]
        return await self._drive(asks, one_tenant=True)

    # How

    def _flow(
        self, tenant: str, *, rate: float, lasting_s: float, deadline_s: float = 60.0, priority: int = 2
    ) -> Iterator[Ask]:
        for number, at_s in enumerate(poisson(self._random, rate=rate, from_s=0, until_s=lasting_s)):
            ask = self._ask(tenant, writes=self._random.choice(WRITES), number=number)
            yield replace(ask, at_s=at_s, deadline_s=deadline_s, priority=priority)

    def _ask(self, tenant: str, *, writes: int, number: int = 0) -> Ask:
        return Ask(
            at_s=0,
            tenant=tenant,
            text=prompt(tenant, reads=READS, writes=writes, number=number),
            model=MODEL.name,
            output_max=writes,
            deadline_s=60.0,
        )

    def _tokens(self, *, one_tenant: bool) -> dict[str, str]:
        tenants = (*TENANTS, "warm", "people", "jobs")
        return {tenant: self._gateway.token("all" if one_tenant else tenant) for tenant in tenants}

    async def _drive(self, asks: Sequence[Ask], *, one_tenant: bool = False) -> Record:
        plan = Plan(
            address=self._gateway.address,
            tokens=self._tokens(one_tenant=one_tenant),
            asks=sorted(asks, key=lambda ask: ask.at_s),
        )
        record = await drive(plan)
        await self._gateway.until_idle()
        return record


def p99_s(record: Record, tenants: Sequence[str]) -> float:
    return percentile(
        [one.total_s for one in record.answers if one.tenant in tenants and one.verdict == OK], 99
    )


def served(record: Record, tenant: str) -> float:
    """Return how many per cent of a tenant's requests were answered in time."""
    own = [one for one in record.answers if one.tenant == tenant]
    return 100 * sum(one.good for one in own) / len(own)


def lost(record: Record, tenant: str) -> float:
    """Return how many per cent of a tenant's requests were accepted and then not answered.

    A refusal that came late was a place in the queue that somebody else was given.
    """
    own = [one for one in record.answers if one.tenant == tenant]
    kept = [one for one in own if one.verdict == OK or (one.verdict in REFUSED and one.total_s < AT_ONCE_S)]
    return 100 * (1 - len(kept) / len(own))


async def measure(fairness: Fairness) -> list[Figure]:
    await fairness.warm()
    rounds: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        rounds.setdefault(name, []).append(value)

    for _ in range(ROUNDS):
        for queue, found in (
            ("", await fairness.backlogged()),
            ("plain ", await fairness.backlogged(one_tenant=True)),
        ):
            note(f"{queue}jain, fakes", found[0])
            note(f"{queue}jain, gateway", found[1])
        note("light alone", p99_s(await fairness.beside(greedy=False), LIGHT))
        note("light beside", p99_s(await fairness.beside(greedy=True), LIGHT))
        note("plain light beside", p99_s(await fairness.beside(greedy=True, one_tenant=True), LIGHT))
        own, plain = await fairness.classes(), await fairness.classes(one_class=True)
        note("interactive", served(own, "people"))
        note("plain interactive", served(plain, "people"))
        note("batch", served(own, "jobs"))
        note("batch lost", lost(own, "jobs"))
        note("late", own.late_p99_s * 1e3)
    return figures({name: median(values) for name, values in rounds.items()})


def figures(found: Mapping[str, float]) -> list[Figure]:
    alone_s, beside_s = found["light alone"], found["light beside"]
    return [
        Figure(
            name="all backlogged: Jain's index of GPU-seconds, by the fakes",
            value=found["jain, fakes"],
            unit="",
            baseline=found["plain jain, fakes"],
            goal=JAIN_GOAL,
            at_least=True,
        ),
        Figure(
            name="the same, by the gateway's metrics",
            value=found["jain, gateway"],
            unit="",
            goal=JAIN_GOAL,
            at_least=True,
        ),
        Figure(name="light tenants' p99 beside a greedy one", value=beside_s, unit="s", baseline=alone_s),
        Figure(
            name="light tenants' p99 beside a greedy one, over alone",
            value=beside_s / alone_s,
            unit="x",
            baseline=found["plain light beside"] / alone_s,
            goal=LIGHT_GOAL,
        ),
        Figure(
            name="batch at 10x: interactive answered in time",
            value=found["interactive"],
            unit="%",
            baseline=found["plain interactive"],
            goal=INTERACTIVE_GOAL,
            at_least=True,
        ),
        Figure(name="batch at 10x: batch answered in time", value=found["batch"], unit="%"),
        Figure(name="batch at 10x: batch accepted and lost", value=found["batch lost"], unit="%", goal=0.0),
        Figure(name="generator's own lateness: p99", value=found["late"], unit="ms"),
    ]


async def main() -> None:
    async with (
        fake_fleet(MODEL, count=INSTANCES, slots=SLOTS) as fleet,
        service(
            fleet.urls, instance_slots=SLOTS, metrics_tenants=",".join(TENANTS), queue_max=200
        ) as gateway,
    ):
        found = await measure(Fairness(fleet, gateway))
    remarks = ["The baseline is the plain queue, except for the p99 alone."]
    report("fairness", rounds=ROUNDS, figures=found, remarks=remarks)


if __name__ == "__main__":
    asyncio.run(main())
