"""The clock of a simulation: arrivals, machines, and whatever stands between them.

Nothing here waits: the clock jumps from one event to the next. Events of one moment happen in the order in which
they were foreseen, so the same trace and fleet give the same run.
"""

from collections import Counter
from collections.abc import Sequence
from enum import IntEnum
from heapq import heappop, heappush
from math import inf
from typing import Protocol

from services.inference.simulation.calls import Call, MachineBooks, Ran, Span, Verdict
from services.inference.simulation.fields import Malformed
from services.inference.simulation.fleet_spec import FleetSpec
from services.inference.simulation.machine import Machine
from services.inference.simulation.parts import Event, Finished, FirstToken, Left, Loaded, Refused, Request
from services.inference.simulation.prompts import Prompt, Prompts
from services.inference.simulation.trace import Arrival

FIRST_LOAD_ID = 1 << 60  # Requests that only load are numbered from here.


class Front(Protocol):
    """What stands between callers and machines. It decides in `act`, and acts on the world."""

    loads: Counter[str]  # By cause.

    def arrive(self, number: int, prompt: Prompt) -> None:
        """A request has come."""

    def leave(self, number: int) -> None:
        """The caller of a request that is not offered to any machine has gone."""

    def happened(self, place: int, event: Event) -> None:
        """A machine has something to tell."""

    def look(self, place: int) -> None:
        """It is time to look at a machine."""

    def act(self) -> None:
        """Do what is to be done now."""

    def wakeup_s(self) -> float:
        """Return when to `act` even if nothing happens; inf: never."""


class _Timer(IntEnum):
    LEAVE = 0
    DEADLINE = 1
    MACHINE = 2
    LOOK = 3


class World:
    """Machines and callers. A Front is given to `run`."""

    def __init__(self, fleet: FleetSpec, arrivals: Sequence[Arrival]) -> None:
        self.now_s = 0.0
        self.fleet = fleet
        self.calls: list[Call] = []
        self.machines = [Machine(spec, models) for spec, models in fleet.machines()]
        self._books = [MachineBooks(machine.spec.name, machine.spec.parallel) for machine in self.machines]
        self._arrivals = arrivals
        self._prompts = Prompts()
        self._timers: list[tuple[float, int, _Timer, int, int]] = []
        self._timer_count = 0
        self._versions = [0] * len(self.machines)  # Of what was last foreseen of each machine.
        self._touched: dict[int, None] = {}
        self._open_count = 0  # Requests that have come and are not done with.
        self._load_id = FIRST_LOAD_ID
        for arrival in arrivals:
            if arrival.model not in fleet.models:
                raise Malformed(f"models: {arrival.model!r}, which the trace asks for, is not there")

    def run(self, front: Front) -> Ran:
        """Let everything happen, until all requests are done with."""
        for place in range(len(self.machines)):
            self._set(0.0, _Timer.LOOK, place)
        left = iter(self._arrivals)
        following = next(left, None)
        while following is not None or self._open_count:
            arrives_s = inf if following is None else following.at_s
            timer_s, wakeup_s = self._timers[0][0], max(front.wakeup_s(), self.now_s)
            self.now_s = max(self.now_s, min(arrives_s, timer_s, wakeup_s))
            if timer_s <= self.now_s:
                self._ring(front)
            elif arrives_s <= self.now_s and following is not None:
                self._arrive(front, following)
                following = next(left, None)
            self._settle(front)
        return Ran(self.calls, self._books, self.now_s, front.loads)

    # What a Front does

    def offer(self, number: int, place: int) -> None:
        """Send a request to a machine."""
        call = self.calls[number]
        call.place, call.offered_s = place, self.now_s
        self.machines[place].offer(call.request, self.now_s)
        self._touched[place] = None

    def load(self, place: int, model: str) -> int:
        """Have a machine load a model; return the number with which it will be Finished."""
        self._load_id += 1
        self.machines[place].load(model, (), self.fleet.keep_alive_s, self.now_s, self._load_id)
        self._touched[place] = None
        return self._load_id

    def unload(self, place: int, model: str) -> None:
        self.machines[place].unload(model, self.now_s)
        self._touched[place] = None

    def close(self, number: int, verdict: Verdict) -> None:
        """A request that no machine has is done with."""
        call = self.calls[number]
        call.verdict, call.ended_s = verdict, self.now_s
        self._open_count -= 1

    # What happens

    def _arrive(self, front: Front, arrival: Arrival) -> None:
        number = len(self.calls)
        prompt = self._prompts.of(number, arrival)
        request = Request(
            id=number,
            model=arrival.model,
            prompt=prompt.blocks,
            output_token_count=arrival.output_tokens,
            keep_alive_s=self.fleet.keep_alive_s,
            answer_key=prompt.answer_key,
        )
        self.calls.append(Call(arrival, request))
        self._open_count += 1
        if arrival.leaves_after_s is not None:
            self._set(self.now_s + arrival.leaves_after_s, _Timer.LEAVE, number)
        if arrival.deadline_s is not None:
            self._set(self.now_s + arrival.deadline_s, _Timer.DEADLINE, number)
        front.arrive(number, prompt)

    def _ring(self, front: Front) -> None:
        _, _, timer, number, version = heappop(self._timers)
        match timer:
            case _Timer.MACHINE:
                if version == self._versions[number]:
                    self._touched[number] = None
            case _Timer.LOOK:
                self._set(self.now_s + self.fleet.poll_every_s, _Timer.LOOK, number)
                front.look(number)
                self._touched[number] = None
            case _:
                self._go(front, number, Verdict.LEFT if timer is _Timer.LEAVE else Verdict.DEADLINE_MISSED)

    def _go(self, front: Front, number: int, verdict: Verdict) -> None:
        """A caller goes: what runs for it is cancelled."""
        call = self.calls[number]
        if call.verdict is not None:
            return
        if call.place < 0:
            front.leave(number)
            self.close(number, verdict)
            return
        call.verdict, call.ended_s = verdict, self.now_s
        self.machines[call.place].leave(number, self.now_s)
        self._touched[call.place] = None

    def _settle(self, front: Front) -> None:
        """Let everybody do what is to be done at this moment."""
        foreseen: dict[int, None] = {}
        while True:
            while self._touched:
                place, _ = self._touched.popitem()
                foreseen[place] = None
                for event in self.machines[place].advance(self.now_s):
                    self._note(place, event)
                    front.happened(place, event)
            front.act()
            if not self._touched:
                break
        for place in foreseen:
            self._versions[place] += 1
            at_s = self.machines[place].next_event_s()
            if at_s is not None:
                self._set(at_s, _Timer.MACHINE, place, self._versions[place])

    def _note(self, place: int, event: Event) -> None:
        """Keep the books."""
        match event:
            case FirstToken():
                self.calls[event.id].first_token_s = event.at_s
            case Finished() if event.id < FIRST_LOAD_ID:
                call = self.calls[event.id]
                call.started_s = event.at_s - event.output_s - event.prompt_s
                if call.verdict is None:
                    call.verdict, call.ended_s = Verdict.COMPLETED, event.at_s
                self._over(place, call, event.at_s)
            case Left() if event.id < FIRST_LOAD_ID:
                call = self.calls[event.id]
                call.started_s = self._start_of(call)
                self._over(place, call, event.at_s)
            case Refused() if event.id < FIRST_LOAD_ID:
                call = self.calls[event.id]
                call.verdict, call.ended_s = Verdict.INSTANCE_FAILED, event.at_s
                self._open_count -= 1
            case Loaded():
                self._books[place].loads.append((event.at_s - event.load_s, event.at_s))
            case _:
                pass

    def _over(self, place: int, call: Call, at_s: float) -> None:
        self._open_count -= 1
        if call.started_s >= 0:
            self._books[place].spans.append(Span(call.started_s, at_s, call.arrival.tenant))

    def _start_of(self, call: Call) -> float:
        """Return when a request that was left had got its slot, as far as can be seen from outside; -1: never."""
        if call.first_token_s < 0:
            return -1.0
        model = self.fleet.models[call.arrival.model]
        return max(
            call.offered_s, call.first_token_s - call.arrival.prompt_tokens / model.prefill_tokens_per_s
        )

    def _set(self, at_s: float, timer: _Timer, number: int, version: int = 0) -> None:
        self._timer_count += 1
        heappush(self._timers, (at_s, self._timer_count, timer, number, version))
