"""A fleet of fake Ollamas in this process, over real sockets, that keeps books of its own.

They are written from what the modelled machines do, not from what the gateway believes. Whose a request is stands in
its prompt, which says besides how long it and its answer are: `7 [read 40] [write 10] for tenant-3`.
"""

import logging
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from services.inference.simulation.calls import MachineBooks, Span, time_of
from services.inference.simulation.machine import Machine
from services.inference.simulation.parts import Event, Finished, Left, MachineSpec, ModelSpec, Request
from tests.fakes.fake_ollama import FakeOllama
from tests.fakes.fake_ollama.machine_backend import MachineBackend

GIB = 2**30
_WHOSE = re.compile(r" for (\S+)$")


def prompt(tenant: str, *, reads: int, writes: int, number: int = 0) -> str:
    """Return a prompt of so many tokens, whose answer has so many. Only those of one number begin alike."""
    return f"{number} [read {reads}] [write {writes}] for {tenant}"


class ObservedMachine(Machine):
    """A machine that remembers who had its slots, and when."""

    def __init__(self, spec: MachineSpec, models: Mapping[str, ModelSpec]) -> None:
        super().__init__(spec, models)
        self.books = MachineBooks(spec.name, spec.parallel)
        self.left_at_s: dict[int, float] = {}  # When callers hung up,
        self.idle_at_s: dict[int, float] = {}  # and when their slots were free again.
        self._whose: dict[int, str] = {}

    def offer(self, request: Request, now_s: float) -> None:
        if request.prompt and (found := _WHOSE.search(request.prompt[-1].key)):
            self._whose[request.id] = found[1]
        super().offer(request, now_s)

    def leave(self, request_id: int, now_s: float) -> None:
        self.left_at_s.setdefault(request_id, now_s)
        super().leave(request_id, now_s)

    def advance(self, now_s: float) -> list[Event]:
        events = super().advance(now_s)
        for event in events:
            match event:
                case Finished(id=request_id) if request_id in self._whose:
                    began_s = event.at_s - event.output_s - event.prompt_s
                    self.books.spans.append(Span(began_s, event.at_s, self._whose[request_id]))
                case Left(id=request_id):
                    self.idle_at_s[request_id] = event.at_s
                case _:
                    pass
        return events


@dataclass(frozen=True, slots=True)
class FakeFleet:
    fakes: Sequence[FakeOllama]
    machines: Sequence[ObservedMachine]

    @property
    def urls(self) -> list[str]:
        return [fake.url for fake in self.fakes]

    @property
    def load_count(self) -> int:
        return sum(machine.load_count for machine in self.machines)

    def gpu_s(self, began_s: float, ended_s: float) -> dict[str, float]:
        """Return who had how many GPU-seconds between two times, of what has ended by now."""
        had: defaultdict[str, float] = defaultdict(float)
        for machine in self.machines:
            cut = [
                Span(max(span.began_s, began_s), min(span.ended_s, ended_s), span.tenant)
                for span in machine.books.spans
                if span.ended_s > began_s and span.began_s < ended_s
            ]
            books = MachineBooks(machine.spec.name, machine.spec.parallel, cut)
            for tenant, gpu_s in time_of(books, ended_s).tenants.items():
                had[tenant] += gpu_s
        return had


@asynccontextmanager
async def fake_fleet(
    *models: ModelSpec, count: int, slots: int, vram_gib: int = 24
) -> AsyncIterator[FakeFleet]:
    """Serve `count` instances with `models` on disk."""
    logging.getLogger("aiohttp.server").setLevel(
        logging.CRITICAL
    )  # Callers that leave are what is tried here.
    async with AsyncExitStack() as opened:
        fakes, machines = [], []
        specs = {model.name: model for model in models}
        for number in range(count):
            spec = MachineSpec(
                name=f"gpu-{number}",
                vram_bytes=vram_gib * GIB,
                parallel=slots,
                max_queue=100_000,
                keep_alive_s=-1,
            )
            fake = FakeOllama(machine=spec, specs=specs)
            backend = fake._backend
            assert isinstance(backend, MachineBackend)
            machine = ObservedMachine(spec, backend.machine._models)
            backend.machine = backend.clockwork.machine = machine
            fakes.append(await opened.enter_async_context(fake))
            machines.append(machine)
        yield FakeFleet(fakes, machines)
