"""Drives a rollout: measures, asks the core, and writes weights; keeps what came of it where the next one reads it.

One driver for each service (a lock). A driver that dies leaves the weights as they are: nobody's calls fail, `status`
says that nobody drives, and `start` or `abort` goes on from there.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from deploy.envoy import endpoints
from deploy.envoy.config import BLUE, GREEN
from deploy.envoy.sets import WEIGHT_MAX, Sets
from deploy.rollout import statistics
from deploy.rollout.core import Decision, Measured, Policy, Seen, Verdict, check, decide

FOLDER = "rollouts"
LOOK_EVERY_S = 1.0
BLIND_MAX = 15  # Looks in a row without an answer of Envoy; then nobody knows how it does.
STOP_WITHIN_S = 30.0
GOING, FINISHED, ROLLED_BACK, ABORTED = "going", "done", "rolled back", "aborted"


class RolloutError(Exception):
    """One sentence for the operator."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The last rollout of a service."""

    service: str
    to: str  # The set with the new version.
    state: str
    percent: int  # Of the calls, for that set.
    why: str = ""
    since: float = 0.0  # Seconds since the epoch.


def other(color: str) -> str:
    return BLUE if color == GREEN else GREEN


@dataclass(slots=True)
class Place:
    """Where an edge keeps its files and answers, and how time passes there."""

    folder: Path
    admin: str
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def record(self, service: str) -> Record | None:
        try:
            return msgspec.json.decode((self.folder / FOLDER / f"{service}.json").read_bytes(), type=Record)
        except FileNotFoundError:
            return None

    def write(self, record: Record) -> None:
        path = self.folder / FOLDER / f"{record.service}.json"
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, since=time.time())))
        unfinished.replace(path)

    def sets(self, service: str) -> Sets:
        try:
            return endpoints.read(self.folder, service)
        except FileNotFoundError:
            raise RolloutError(f"there is no edge with watched files at {self.folder}") from None

    def measure(self, service: str) -> Mapping[str, Measured]:
        return statistics.measured(statistics.fetch(self.admin, service), self.sets(service))

    def weigh(self, service: str, to: str, percent: int) -> None:
        green = percent if to == GREEN else WEIGHT_MAX - percent
        endpoints.weigh(self.folder, service, green_percent=green)

    @contextmanager
    def driving(self, service: str, *, within_s: float = 0.0) -> Iterator[None]:
        """Raises RolloutError if another driver is at it for longer than `within_s`."""
        (self.folder / FOLDER).mkdir(exist_ok=True)
        descriptor = os.open(self.folder / FOLDER / f"{service}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        end_s = self.clock() + within_s
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self.clock() >= end_s:
                        raise RolloutError(f"a rollout of {service} is going on; abort it first") from None
                    self.sleep(0.1)
            yield
        finally:
            os.close(descriptor)

    def is_driven(self, service: str) -> bool:
        try:
            with self.driving(service):
                return False
        except RolloutError:
            return True


@dataclass(slots=True)
class Driver:
    """A rollout from its first step to its end."""

    place: Place
    service: str
    to: str
    policy: Policy
    _before: Measured = field(default_factory=Measured)
    _blind_count: int = 0

    def run(self) -> Record:
        """Return what came of it. Raises RolloutError if it cannot begin."""
        if (mistake := check(self.policy)) is not None:
            raise RolloutError(mistake)
        with self.place.driving(self.service):
            sets = self.place.sets(self.service)
            if not sets[self.to].replicas:
                raise RolloutError(
                    f"{self.to} has no replica: `endpoints add {self.service} HOST:PORT --set {self.to}`"
                )
            if sets[self.to].weight == WEIGHT_MAX:
                raise RolloutError(f"{self.to} has all calls already")
            start = self._look()
            if start is None:
                raise RolloutError(f"Envoy does not answer at {self.place.admin}")
            if start[self.to].healthy_count == 0:
                raise RolloutError(f"no replica of {self.to} is healthy")
            self._before = start[other(self.to)]  # All it did since Envoy began.
            return self._steps()

    def _steps(self) -> Record:
        why = ""
        for step, percent in enumerate(self.policy.steps):
            self._tell(GOING, percent)
            self.place.weigh(self.service, self.to, percent)
            self.place.say(f"{self.to} has {percent} % of {self.service}'s calls")
            decision = self._step(step)
            if decision is None:
                return self._end(ABORTED, 0, "somebody aborted it")
            if decision.verdict is Verdict.ROLL_BACK:
                return self._end(ROLLED_BACK, 0, decision.why)
            why = decision.why
        return self._end(FINISHED, self.policy.steps[-1], why)

    def _step(self, step: int) -> Decision | None:
        """Return how it ends; None if it was aborted."""
        begun_s, start, said = self.place.clock(), self._look(), ""
        while True:
            self.place.sleep(min(LOOK_EVERY_S, self.policy.step_s))
            if (found := self.place.record(self.service)) is not None and found.state == ABORTED:
                return None
            now = self._look()
            start = start or now
            if now is None or start is None:
                if self._blind_count > BLIND_MAX:
                    return Decision(verdict=Verdict.ROLL_BACK, why="Envoy does not say how it does")
                continue
            seen = self._seen(step, self.place.clock() - begun_s, start, now)
            decision = decide(self.policy, seen)
            if decision.verdict is not Verdict.HOLD:
                return decision
            if decision.why != said and seen.for_s >= self.policy.step_s:
                self.place.say(f"waits: {decision.why}")
                said = decision.why

    def _seen(
        self, step: int, for_s: float, start: Mapping[str, Measured], now: Mapping[str, Measured]
    ) -> Seen:
        old, new = other(self.to), self.to
        return Seen(
            step=step,
            for_s=for_s,
            old=now[old].since(start[old]),
            before=self._before,
            new=now[new].since(start[new]),
        )

    def _look(self) -> Mapping[str, Measured] | None:
        try:
            found = self.place.measure(self.service)
        except OSError:
            self._blind_count += 1
            return None
        self._blind_count = 0
        return found

    def _end(self, state: str, percent: int, why: str) -> Record:
        if state != FINISHED:
            self.place.weigh(self.service, self.to, 0)
        return self._tell(state, percent, why)

    def _tell(self, state: str, percent: int, why: str = "") -> Record:
        record = Record(service=self.service, to=self.to, state=state, percent=percent, why=why)
        self.place.write(record)
        return record


def abort(place: Place, service: str) -> Record:
    """All calls back to the set that had them, at once; a driver that is at it stops. Raises RolloutError."""
    record = place.record(service)
    if record is None or record.state != GOING:
        raise RolloutError(f"no rollout of {service} is going on")
    stopped = msgspec.structs.replace(record, state=ABORTED, percent=0, why="somebody aborted it")
    place.write(stopped)
    place.weigh(service, record.to, 0)
    with place.driving(service, within_s=STOP_WITHIN_S):
        place.weigh(service, record.to, 0)  # The driver may have written once more.
        place.write(stopped)
    return stopped
