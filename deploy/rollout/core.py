"""What comes next for a new version that has a share of a service's calls: more of them, a wait, or the way back.

Pure: no clock, no I/O. A step is a share that the new version has for some time. Within it

    burning the error budget, and worse than the old version  ->  back, at once
    no replica of it healthy                                  ->  back, at once
    not long enough, or too few calls to tell                 ->  wait; back if there never are enough
    long enough, and slower than the old version allows       ->  back
    long enough, and fit                                      ->  the next step, or done after the last

What both versions do badly is no reason to go back (the database may be away), and none to go on either.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    HOLD = "hold"
    PROMOTE = "promote"
    DONE = "done"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    steps: tuple[int, ...] = (5, 25, 50, 100)  # Percent of the calls, ascending; the last is the aim.
    step_s: float = 60.0
    hold_max_s: float = 3600.0  # For calls to come that tell something; then it is not known to be fit.
    calls_min: int = 50
    slo: float = 0.999  # Of calls that must not fail by the service's fault.
    burn_max: float = 14.4  # Times the rate at which the budget of 30 days would last 30 days: gone in two.
    errors_min: int = 3  # One failure is no trend.
    times_worse: float = 2.0  # Than the old version, before it is the new one's fault.
    slower_max: float = 1.5  # Times the old version's 95th percentile, and
    slower_ms: float = 100.0  # as much more.


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a set of replicas did, counted from some time on."""

    call_count: int = 0
    error_count: int = 0  # UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
    # Of durations: calls that took at most so many milliseconds, cumulated.
    buckets: tuple[tuple[float, int], ...] = ()
    healthy_count: int = 1

    @property
    def error_ratio(self) -> float:
        return self.error_count / self.call_count if self.call_count else 0.0

    def since(self, earlier: "Measured") -> "Measured":
        """What came on top. A counter that is lower than before began anew, with Envoy."""
        if self.call_count < earlier.call_count:
            return self
        before = dict(earlier.buckets)
        return Measured(
            call_count=self.call_count - earlier.call_count,
            error_count=max(0, self.error_count - earlier.error_count),
            buckets=tuple((bound, max(0, count - before.get(bound, 0))) for bound, count in self.buckets),
            healthy_count=self.healthy_count,
        )

    def quantile_ms(self, share: float) -> float | None:
        """By linear interpolation, as Prometheus does it; None if nothing was counted."""
        total = self.buckets[-1][1] if self.buckets else 0
        if total == 0:
            return None
        rank, low, below = share * total, 0.0, 0
        for bound, count in self.buckets:
            if count >= rank:
                width = bound - low
                return low if math.isinf(bound) else low + width * (rank - below) / max(1, count - below)
            low, below = bound, count
        return low


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A step so far."""

    step: int  # Index into the policy's steps.
    for_s: float
    old: Measured  # In this step. At 100 % it has no calls any more,
    before: Measured  # so this is what it did in all steps before.
    new: Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    verdict: Verdict
    why: str


def check(policy: Policy) -> str | None:
    """What is wrong with it, in one sentence."""
    steps: Sequence[int] = policy.steps
    if not steps or list(steps) != sorted(set(steps)) or not all(0 < one <= 100 for one in steps):
        return "steps are percentages above 0 and up to 100, each larger than the one before"
    return None


def decide(policy: Policy, seen: Seen) -> Decision:
    if seen.new.healthy_count == 0:
        return Decision(verdict=Verdict.ROLL_BACK, why="none of its replicas is healthy")
    peer = seen.old if seen.old.call_count >= policy.calls_min else seen.before
    new, burn = seen.new, seen.new.error_ratio / (1 - policy.slo)
    if new.error_count >= policy.errors_min and burn >= policy.burn_max:
        failed = f"{new.error_count} of {new.call_count} calls failed"
        if new.error_ratio <= policy.times_worse * peer.error_ratio:
            return _wait(policy, seen, f"{failed}, and the other version does no better")
        why = f"{failed}: {burn:.0f} times what the error budget allows"
        return Decision(verdict=Verdict.ROLL_BACK, why=why)
    if seen.for_s < policy.step_s:
        return Decision(verdict=Verdict.HOLD, why="the step is not over")
    if new.call_count < policy.calls_min:
        return _wait(policy, seen, f"{new.call_count} of {policy.calls_min} calls that it takes to tell")
    return _judge(policy, seen, peer)


def _judge(policy: Policy, seen: Seen, peer: Measured) -> Decision:
    """After a step in which nothing failed."""
    if (slow := _slower(policy, seen.new, peer)) is not None:
        return Decision(verdict=Verdict.ROLL_BACK, why=slow)
    verdict = Verdict.DONE if seen.step + 1 == len(policy.steps) else Verdict.PROMOTE
    return Decision(verdict=verdict, why="it is as good as the one before")


def _wait(policy: Policy, seen: Seen, why: str) -> Decision:
    verdict = Verdict.HOLD if seen.for_s < policy.hold_max_s else Verdict.ROLL_BACK
    return Decision(verdict=verdict, why=why)


def _slower(policy: Policy, new: Measured, peer: Measured) -> str | None:
    if peer.call_count < policy.calls_min:
        return None  # Nothing to compare with.
    mine, theirs = new.quantile_ms(0.95), peer.quantile_ms(0.95)
    if mine is None or theirs is None:
        return None
    if mine <= theirs * policy.slower_max or mine <= theirs + policy.slower_ms:
        return None
    return f"19 of 20 calls take up to {mine:.0f} ms, with the other version {theirs:.0f} ms"
