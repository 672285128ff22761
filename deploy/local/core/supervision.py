"""Decides what the supervisor does next: no clock, no process, no file; replayable.

    waiting -> preparing -> waiting -> starting -> ready        a server
                                          |  ^       |
                                          v  |       v
                                        backoff  <---+          it died; dependants stay as they are
                                          |
                                          v
                                        failed                  it died too often

A one-shot part goes from starting to done. Asked to stop, every living part goes through stopping to
stopped, dependants first. Until the stack has been ready once, a failure stops all of it, since a part
that cannot start now will not start later; after that the other parts stay.

Invariants, which tests/unit/test_local_supervision.py holds against its own books:
I1  A part is started only when all that it comes after are up, and while none of its processes lives.
I2  A part is told to stop only when no part that needs it has a living process.
I3  Within `window_s` a part is restarted at most `restarts_max` times, each after its delay.
I4  Nothing is started after a stop; and if every process dies when killed, a stop ends.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from deploy.local.core.graph import Node, all_needs
from services.common.restarts import RestartBudget, RestartPolicy


class State(StrEnum):
    WAITING = "waiting"
    PREPARING = "preparing"
    STARTING = "starting"
    READY = "ready"
    DONE = "done"
    BACKOFF = "backoff"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


ALIVE = frozenset({State.PREPARING, State.STARTING, State.READY, State.STOPPING})
UP = frozenset({State.READY, State.DONE})


@dataclass(frozen=True, slots=True)
class Prepare:
    name: str


@dataclass(frozen=True, slots=True)
class Start:
    name: str


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Ask the process to end."""

    name: str


@dataclass(frozen=True, slots=True)
class Kill:
    name: str


Decision = Prepare | Start | Interrupt | Kill


@dataclass(frozen=True, slots=True)
class View:
    """A part as others may see it."""

    name: str
    state: State
    since_s: float
    restarts: int
    reason: str  # Why it is in backoff or failed; else empty.


@dataclass(frozen=True, slots=True)
class Failure:
    name: str
    reason: str


@dataclass(slots=True)
class _Part:
    node: Node
    unprepared: bool
    budget: RestartBudget
    state: State = State.WAITING
    since_s: float = 0.0
    due_s: float = 0.0  # When a backoff ends.
    proved: bool = False  # Has been up once.
    killed: bool = False
    restarts: int = 0
    reason: str = ""


class Supervision:
    def __init__(self, nodes: Iterable[Node], policy: RestartPolicy) -> None:
        listed = tuple(nodes)
        self._parts: Mapping[str, _Part] = {
            node.name: _Part(node, node.has_preparation, RestartBudget(policy)) for node in listed
        }
        self._needs = all_needs(listed)
        self._stopping = False
        self._was_ready = False
        self.failure: Failure | None = None  # Why the stack stops by itself.

    def views(self) -> tuple[View, ...]:
        parts = self._parts.items()
        return tuple(View(name, p.state, p.since_s, p.restarts, p.reason) for name, p in parts)

    @property
    def is_ready(self) -> bool:
        return all(part.state in UP for part in self._parts.values())

    @property
    def is_over(self) -> bool:
        return self._stopping and not any(part.state in ALIVE for part in self._parts.values())

    def answered(self, name: str, now_s: float) -> None:
        """The part's probe succeeded. Late news of a part that is no longer starting is ignored."""
        if (part := self._parts[name]).state is State.STARTING and not part.killed:
            self._came_up(part, State.READY, now_s)

    def ended(self, name: str, now_s: float, *, well: bool, reason: str = "") -> None:
        """The part's process, or its preparation, is gone: `reason` is a sentence if it was not `well`."""
        part = self._parts[name]
        match part.state:
            case State.PREPARING if well:
                self._enter(part, State.WAITING, now_s)
            case State.STARTING if well and part.node.one_shot:
                self._came_up(part, State.DONE, now_s)
            case State.PREPARING | State.STARTING | State.READY:
                self._died(part, "; ".join(filter(None, (part.reason, reason))), now_s)
            case State.STOPPING:
                self._enter(part, State.STOPPED, now_s)
            case _:
                raise AssertionError(f"{name} ended while {part.state}")

    def stop(self) -> None:
        self._stopping = True

    def decide(self, now_s: float) -> list[Decision]:
        """All that is to be done now. Call it after every event, and at `next_wake_s`."""
        steps = (self._step(part, now_s) for part in self._parts.values())
        return [decision for decision in steps if decision is not None]

    def next_wake_s(self) -> float | None:
        dues = [self._due_s(part) for part in self._parts.values()]
        return min((due for due in dues if due is not None), default=None)

    def _step(self, part: _Part, now_s: float) -> Decision | None:
        due_s = self._due_s(part)
        overdue = due_s is not None and due_s <= now_s
        match part.state:
            case State.WAITING | State.BACKOFF if self._stopping:
                self._enter(part, State.STOPPED, now_s)
                return None
            case State.PREPARING | State.STARTING | State.READY if self._stopping:
                return self._stop(part, now_s)
            case State.BACKOFF if overdue:
                self._enter(part, State.WAITING, now_s)
                return self._start(part, now_s)
            case State.WAITING:
                return self._start(part, now_s)
            case State.PREPARING | State.STARTING | State.STOPPING if overdue:
                return self._kill(part)
            case _:
                return None

    def _start(self, part: _Part, now_s: float) -> Decision | None:
        if part.unprepared:
            part.unprepared = False
            self._enter(part, State.PREPARING, now_s)
            return Prepare(part.node.name)
        if not self._up(part.node.after):
            return None
        if part.proved:
            part.restarts += 1
        self._enter(part, State.STARTING, now_s)
        return Start(part.node.name)

    def _stop(self, part: _Part, now_s: float) -> Decision | None:
        others = self._parts.items()
        if any(part.node.name in self._needs[name] and other.state in ALIVE for name, other in others):
            return None
        self._enter(part, State.STOPPING, now_s)
        return Interrupt(part.node.name)

    def _kill(self, part: _Part) -> Decision:
        part.killed = True
        if part.state is not State.STOPPING:
            limit_s = (
                part.node.prepare_within_s if part.state is State.PREPARING else part.node.start_within_s
            )
            part.reason = f"it was not ready within {limit_s:g} s"
        return Kill(part.node.name)

    def _came_up(self, part: _Part, state: State, now_s: float) -> None:
        part.proved = True
        self._enter(part, state, now_s)
        self._was_ready = self._was_ready or self.is_ready

    def _died(self, part: _Part, reason: str, now_s: float) -> None:
        delay_s = part.budget.died(now_s)
        if part.proved and delay_s is not None:
            part.due_s = now_s + delay_s
            self._enter(part, State.BACKOFF, now_s, reason)
            return
        self._enter(part, State.FAILED, now_s, reason)
        if not self._was_ready and not self._stopping:
            self.failure = Failure(part.node.name, reason)
            self._stopping = True

    def _due_s(self, part: _Part) -> float | None:
        """When something is to be done about the part although nothing happened."""
        match part.state:
            case State.STOPPING if not part.killed:
                return part.since_s + part.node.stop_within_s
            case _ if self._stopping or part.killed:
                return None
            case State.BACKOFF:
                return part.due_s
            case State.PREPARING:
                return part.since_s + part.node.prepare_within_s
            case State.STARTING if self._up(part.node.needs):
                since_s = max([part.since_s, *(self._parts[name].since_s for name in part.node.needs)])
                return since_s + part.node.start_within_s
            case _:
                return None

    def _up(self, names: Iterable[str]) -> bool:
        return all(self._parts[name].state in UP for name in names)

    def _enter(self, part: _Part, state: State, now_s: float, reason: str = "") -> None:
        part.state, part.since_s, part.reason, part.killed = state, now_s, reason, False
