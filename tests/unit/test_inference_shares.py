"""Shares of GPU-seconds: by weight, with nothing saved up by idling and nothing kept for those without history."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.policy import Policy
from services.inference.core.shares import Shares

TENANTS = ("a", "b", "c")


@given(
    st.lists(st.floats(0.1, 10.0), min_size=50, max_size=200),
    st.dictionaries(st.sampled_from(TENANTS), st.floats(0.5, 4.0)),
    st.lists(st.floats(-0.5, 2.0), min_size=200, max_size=200),
)
def test_those_who_always_wait_have_had_alike(
    costs: list[float], weights: dict[str, float], off: list[float]
) -> None:
    """With corrections: by weight, no two are further apart than the dearest job of each."""
    policy = Policy(weights=weights)
    shares = Shares(policy)
    for tenant in TENANTS:
        shares.enter(tenant)
    had: Counter[str] = Counter()
    dearest = dict.fromkeys(TENANTS, 0.0)
    for cost_s, error in zip(costs, off, strict=False):
        tenant = min(TENANTS, key=lambda name: (shares.time(name), name))
        shares.charge(tenant, cost_s)
        shares.correct(tenant, cost_s * error)
        true_s = cost_s * (1 + error)
        had[tenant] += true_s  # type: ignore[assignment]
        dearest[tenant] = max(dearest[tenant], true_s / policy.weight(tenant))
    for one in TENANTS:
        for other in TENANTS:
            lag_s = had[one] / policy.weight(one) - had[other] / policy.weight(other)
            assert lag_s <= dearest[one] + 1e-6


@given(st.integers(1, 50))
def test_idling_saves_nothing_up(count: int) -> None:
    shares = Shares(Policy())
    shares.enter("busy")
    for _ in range(count):
        shares.charge("busy", 1.0)
    shares.enter("idler")
    assert shares.time("idler") == count - 1.0, "it starts where the last job started"


def test_a_pause_does_not_wipe_out_what_a_tenant_had() -> None:
    shares = Shares(Policy())
    shares.enter("patient")
    shares.enter("single")
    shares.charge("single", 5.0)
    shares.leave("single")
    shares.enter("single")
    assert shares.time("single") == 5.0
    assert shares.time("patient") == 0.0


def test_a_refund_makes_a_turn_earlier() -> None:
    shares = Shares(Policy(weights={"heavy": 2.0}))
    for tenant in ("heavy", "light"):
        shares.enter(tenant)
    shares.charge("heavy", 4.0)
    assert shares.time("heavy") == 2.0
    assert shares.correct("heavy", -3.0)
    assert shares.time("heavy") == 0.5
    assert not shares.correct("light", 1.0), "later, which a heap finds out by itself"
    assert not shares.correct("unknown", -1.0)


def test_without_contention_no_history_is_kept() -> None:
    shares = Shares(Policy())
    for number in range(1_000):
        shares.enter(f"tenant {number}")
        shares.charge(f"tenant {number}", 1.0)
        shares.leave(f"tenant {number}")
    assert not shares._times
    assert not shares._waiting


def test_under_contention_only_recent_history_is_kept() -> None:
    shares = Shares(Policy())
    shares.enter("always")
    for number in range(1_000):
        shares.enter(f"tenant {number}")
        shares.charge(f"tenant {number}", 0.1)
        shares.charge("always", 1.0)
        shares.leave(f"tenant {number}")
    assert len(shares._times) <= 200
