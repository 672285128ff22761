"""How often a password may be guessed."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.core.throttle import FORGOTTEN_AFTER_S, FREE_COUNT, PAUSE_MAX_S, Throttle
from services.auth.errors import RateLimited


def spent(throttle: Throttle, account: str = "ann", *, now_s: float = 0.0) -> Throttle:
    for _ in range(FREE_COUNT):
        throttle.attempt(account, now_s=now_s)
    return throttle


def pauses_s(throttle: Throttle) -> Iterator[float]:
    """Guess as soon as it is allowed, for ever; yields each wait."""
    now_s = 0.0
    while True:
        try:
            throttle.attempt("ann", now_s=now_s)
        except RateLimited as refused:
            wait_s = refused.retry_after_s or 0.0
            yield wait_s
            now_s += wait_s


def test_pauses_double_up_to_a_minute() -> None:
    waits = pauses_s(Throttle())
    assert [next(waits) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_an_hour_holds_fewer_than_a_hundred_guesses() -> None:
    waited_s, guesses = 0.0, FREE_COUNT
    for wait_s in pauses_s(Throttle()):
        waited_s += wait_s
        if waited_s > 3600:
            break
        guesses += 1
    assert guesses < 100


def test_guesses_at_once_count_as_many() -> None:
    throttle = spent(Throttle())
    with pytest.raises(RateLimited):
        throttle.attempt("ann", now_s=0.0)
    with pytest.raises(RateLimited):
        throttle.check("ann", now_s=0.0)


def test_another_account_is_not_slowed_down() -> None:
    spent(Throttle()).attempt("bob", now_s=0.0)


def test_success_and_silence_forgive() -> None:
    throttle = spent(Throttle())
    throttle.succeeded("ann")
    spent(throttle)
    spent(throttle, now_s=FORGOTTEN_AFTER_S)


@given(st.lists(st.integers(0, 40), max_size=200))
def test_only_so_many_accounts_are_remembered(accounts: list[int]) -> None:
    throttle = Throttle(accounts_max=8)
    for at, account in enumerate(accounts):
        throttle.attempt(str(account), now_s=at * PAUSE_MAX_S)
        assert len(throttle._attempts) <= 8


def test_those_tried_last_are_remembered() -> None:
    throttle = Throttle(accounts_max=2)
    spent(throttle)
    throttle.attempt("bob", now_s=0.0)
    throttle.attempt("cid", now_s=0.0)  # Forgets ann, who was tried before bob.
    throttle.attempt("ann", now_s=0.0)
