"""A caller leaves: how long the gateway takes to stop what was done for it, and to use its place again.

In every phase: waiting for a slot, waiting for a model to load, while the prompt is read, while tokens come. What counts
is the gateway's part: from the caller's leaving until the instance is told, and from the instance being idle until the
gateway takes its slot for free. What Ollama itself takes lies in between, and is not counted: it notices at its next
token, or when it has read the prompt. Whether a slot is free is asked of the gateway (GetFleet) every few
milliseconds, so the figures are that much too long.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Any

import grpc.aio
from ollamesh.inference.v1.completion_pb2 import ChatRequest, Message, Options, Role
from ollamesh.inference.v1.fleet_pb2 import Fleet

from services.common.grpc.client import bearer
from services.inference.simulation.parts import ModelSpec
from tests.bench.support.fakes import GIB, FakeFleet, fake_fleet, prompt
from tests.bench.support.report import Figure, percentile, report
from tests.bench.support.service import Service, service

ROUNDS = int(os.environ.get("ROUNDS", "20"))
GOAL_MS = 50.0
SLOTS = 4
TENANT = "tenant-0"
WAIT_MAX_S = 30.0


def spec(name: str, *, load_s: float) -> ModelSpec:
    return ModelSpec(
        name=name, vram_bytes=GIB, load_s=load_s, prefill_tokens_per_s=4000, token_s=0.02, batch_cost=0.1
    )


USUAL, SLOW = spec("usual:latest", load_s=0.1), spec("slow:latest", load_s=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What became of a caller's leaving."""

    told_s: float  # Until the instance knew; until the queue knew, for one that had no slot.
    freed_s: float  # From the instance being idle until its slot was free; below 0: it was free before.


class Cancelling:
    def __init__(self, fleet: FakeFleet, gateway: Service) -> None:
        self._fleet = fleet
        self._gateway = gateway
        self._metadata = bearer(gateway.token(TENANT))
        self._number = 0

    async def warm(self) -> None:
        for _ in range(8):
            await self._read_all(self._chat(reads=1200, writes=10))

    async def queued(self) -> Left:
        running = [self._chat(reads=10, writes=400) for _ in range(SLOTS)]
        await self._until(lambda fleet: sum(one.busy_slot_count for one in fleet.instances) == SLOTS)
        left = await self._leave_queue(self._chat(reads=10, writes=10))
        for call in running:
            call.cancel()
        await self._gateway.until_idle()
        return left

    async def loading(self) -> Left:
        """The load itself goes on: what it is good for is the plan's to say, not its first caller's."""
        machine = self._fleet.machines[0]
        load_count = machine.load_count
        left = await self._leave_queue(self._chat(model=SLOW, reads=10, writes=10))
        while machine.load_count == load_count:
            await asyncio.sleep(0.01)
        machine.unload(SLOW.name, asyncio.get_running_loop().time())
        for _ in range(2):  # Until the gateway has seen it.
            await asyncio.sleep(0.3)
        return left

    async def reading(self) -> Left:
        return await self._leave_slot(self._chat(reads=1200, writes=50), until="started", after_s=0.1)

    async def writing(self) -> Left:
        return await self._leave_slot(self._chat(reads=10, writes=400), until="delta", after_s=0.1)

    async def _leave_queue(self, call: Any) -> Left:
        await self._until(lambda fleet: bool(fleet.queues))
        await asyncio.sleep(0.05)
        left_at_s = time.monotonic()
        call.cancel()
        await self._until(lambda fleet: not fleet.queues)
        return Left(told_s=time.monotonic() - left_at_s, freed_s=0.0)

    async def _leave_slot(self, call: Any, *, until: str, after_s: float) -> Left:
        async for response in call:
            if response.event.WhichOneof("event") == until:
                break
        await asyncio.sleep(after_s)
        machine = self._fleet.machines[0]
        known = set(machine.left_at_s)
        left_at_s = time.monotonic()
        call.cancel()
        await self._until(lambda fleet: not any(one.busy_slot_count for one in fleet.instances))
        freed_at_s = time.monotonic()
        (request_id,) = machine.left_at_s.keys() - known
        while request_id not in machine.idle_at_s:
            await asyncio.sleep(0.005)
        return Left(
            told_s=machine.left_at_s[request_id] - left_at_s,
            freed_s=freed_at_s - machine.idle_at_s[request_id],
        )

    async def _until(self, holds: Callable[[Fleet], bool]) -> None:
        async with asyncio.timeout(WAIT_MAX_S):
            while not holds(await self._gateway.fleet()):
                await asyncio.sleep(0.001)

    def _chat(self, *, reads: int, writes: int, model: ModelSpec = USUAL) -> Any:
        self._number += 1
        text = prompt(TENANT, reads=reads, writes=writes, number=self._number)
        request = ChatRequest(
            model=model.name,
            messages=[Message(role=Role.ROLE_USER, content=text.ljust(4 * reads, "."))],
            options=Options(temperature=0, output_token_count_max=writes),
        )
        return self._gateway.stub.Chat(request, timeout=60, metadata=self._metadata)

    @staticmethod
    async def _read_all(call: Any) -> None:
        with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            async for _ in call:
                pass


async def measure(fleet: FakeFleet, gateway: Service) -> list[Figure]:
    cancelling = Cancelling(fleet, gateway)
    await cancelling.warm()
    phases = {
        "queued": cancelling.queued,
        "loading": cancelling.loading,
        "prefill": cancelling.reading,
        "decode": cancelling.writing,
    }
    found: dict[str, list[Left]] = {name: [] for name in phases}
    asking_s = []
    for _ in range(ROUNDS):
        for name, phase in phases.items():
            found[name].append(await phase())
        began_s = time.monotonic()
        await gateway.fleet()
        asking_s.append(time.monotonic() - began_s)
    return [
        *(figure for name, some in found.items() for figure in figures(name, some)),
        Figure(name="asking the gateway once", value=median(asking_s) * 1e3, unit="ms"),
    ]


def figures(name: str, found: list[Left]) -> list[Figure]:
    parts_ms = [(one.told_s + max(0.0, one.freed_s)) * 1e3 for one in found]
    rows = [
        Figure(name=f"{name}: the gateway's part, median", value=median(parts_ms), unit="ms", goal=GOAL_MS),
        Figure(name=f"{name}: the gateway's part, p95", value=percentile(parts_ms, 95), unit="ms"),
    ]
    if name in {"prefill", "decode"}:
        told_ms, freed_ms = (median(one.told_s for one in found), median(one.freed_s for one in found))
        rows += [
            Figure(name=f"{name}: until the instance knows, median", value=told_ms * 1e3, unit="ms"),
            Figure(
                name=f"{name}: from its being idle to the slot's, median", value=freed_ms * 1e3, unit="ms"
            ),
        ]
    return rows


async def main() -> None:
    async with (
        fake_fleet(USUAL, SLOW, count=1, slots=SLOTS) as fleet,
        service(fleet.urls, instance_slots=SLOTS, poll_every_s=0.1) as gateway,
    ):
        found = await measure(fleet, gateway)
    report("cancel", rounds=ROUNDS, figures=found)


if __name__ == "__main__":
    asyncio.run(main())
