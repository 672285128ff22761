"""When a new version gets more calls, and when it loses them: every rule of the core, on its edge."""

from dataclasses import replace
from random import Random

import pytest

from deploy.rollout.core import Measured, Policy, Seen, Verdict, check, decide

POLICY = Policy(steps=(5, 25, 100), step_s=60, hold_max_s=600, calls_min=50)
FAST = ((5.0, 90), (10.0, 100), (float("inf"), 100))
SLOW = ((5.0, 0), (1000.0, 100), (float("inf"), 100))
GOOD = Measured(call_count=100, buckets=FAST)
BAD = replace(GOOD, error_count=10)


def seen(*, new: Measured = GOOD, old: Measured = GOOD, for_s: float = 60, step: int = 0) -> Seen:
    return Seen(step=step, for_s=for_s, old=old, before=GOOD, new=new)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (seen(for_s=59.9), Verdict.HOLD),
        (seen(), Verdict.PROMOTE),
        (seen(step=2), Verdict.DONE),
        (seen(new=Measured(call_count=49, buckets=FAST)), Verdict.HOLD),
        (seen(new=Measured(call_count=49, buckets=FAST), for_s=600), Verdict.ROLL_BACK),
        # At once: the step need not be over.
        (seen(new=BAD, for_s=1), Verdict.ROLL_BACK),
        (seen(new=replace(GOOD, error_count=2), for_s=1), Verdict.HOLD),
        (seen(new=replace(GOOD, error_count=3), for_s=1), Verdict.ROLL_BACK),
        (seen(new=Measured(call_count=3000, error_count=3, buckets=FAST)), Verdict.PROMOTE),
        (seen(new=replace(GOOD, healthy_count=0), for_s=1), Verdict.ROLL_BACK),
        # What both do badly is nobody's fault, and no reason to go on.
        (seen(new=BAD, old=BAD), Verdict.HOLD),
        (seen(new=BAD, old=BAD, for_s=600), Verdict.ROLL_BACK),
        (seen(new=BAD, old=replace(GOOD, error_count=4), for_s=1), Verdict.ROLL_BACK),
        (seen(new=replace(GOOD, buckets=SLOW)), Verdict.ROLL_BACK),
        (seen(new=replace(GOOD, buckets=SLOW), old=replace(GOOD, buckets=SLOW)), Verdict.PROMOTE),
        # With all calls there is no old version to compare with but what it did before.
        (seen(new=replace(GOOD, buckets=SLOW), old=Measured(), step=2), Verdict.ROLL_BACK),
    ],
)
def test_rules(found: Seen, verdict: Verdict) -> None:
    assert decide(POLICY, found).verdict is verdict


@pytest.mark.parametrize("steps", [(), (0,), (5, 5), (50, 25), (101,), (-1, 5)])
def test_steps_that_make_no_sense(steps: tuple[int, ...]) -> None:
    assert check(replace(POLICY, steps=steps)) is not None
    assert check(POLICY) is None


def test_counters_that_begin_anew_are_no_negative_calls() -> None:
    later = Measured(call_count=7, error_count=1, buckets=((1.0, 7),))
    assert later.since(GOOD) == later
    assert replace(GOOD, call_count=150).since(GOOD).call_count == 50


def test_quantiles_lie_between_their_bucket_s_bounds() -> None:
    assert Measured().quantile_ms(0.95) is None
    assert GOOD.quantile_ms(0.95) == pytest.approx(7.5)
    assert replace(GOOD, buckets=((5.0, 1), (float("inf"), 100))).quantile_ms(0.95) == 5.0


@pytest.mark.parametrize("seed", range(200))
def test_a_version_that_fails_never_gets_further(seed: int) -> None:
    """Whatever comes when: of a version that fails 1 call in 10, no step but the first is reached."""
    chance = Random(seed)
    calls = errors = 0
    for second in range(1, 61):
        for _ in range(chance.randrange(1, 20)):
            calls += 1
            errors += chance.random() < 0.1
        new = Measured(call_count=calls, error_count=errors, buckets=((5.0, calls),))
        verdict = decide(POLICY, seen(new=new, for_s=second)).verdict
        assert verdict in {Verdict.HOLD, Verdict.ROLL_BACK}
        if verdict is Verdict.ROLL_BACK:
            return
    raise AssertionError
