"""Guesses at accounts and from addresses, and who is not slowed down by them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.attempts import KNOWN_MAX, Attempts
from services.auth.core.throttle import ADDRESS_FREE_COUNT, FREE_COUNT, PAUSE_MAX_S
from services.auth.errors import RateLimited
from services.common.grpc.address import network


class World:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.address: str | None = None
        self.attempts = Attempts(clock=lambda: self.now_s, where=lambda: self.address)

    def guess(self, account: str, times: int = 1, *, address: str | None = None) -> None:
        self.address = address
        for _ in range(times):
            self.attempts.begin(account)

    def log_in(self, account: str, *, address: str | None = None) -> None:
        self.address = address
        was_counted = self.attempts.begin(account)
        self.attempts.succeeded(account, was_counted=was_counted)


def test_an_address_is_slowed_down_whatever_names_it_tries() -> None:
    world = World()
    for number in range(ADDRESS_FREE_COUNT):
        world.guess(f"name-{number}", address="192.0.2.1")
    with pytest.raises(RateLimited) as refused:
        world.guess("another", address="192.0.2.1")
    assert (refused.value.retry_after_s or 0) > 0
    world.guess("another", address="192.0.2.2")
    world.now_s += PAUSE_MAX_S
    world.guess("another", address="192.0.2.1")


def test_an_office_whose_logins_succeed_is_not() -> None:
    world = World()
    for number in range(3 * ADDRESS_FREE_COUNT):
        world.log_in(f"name-{number}", address="192.0.2.1")


def test_one_right_password_does_not_excuse_the_guesses_of_an_address() -> None:
    world = World()
    for number in range(ADDRESS_FREE_COUNT - 1):
        world.guess(f"name-{number}", address="192.0.2.1")
        world.log_in("mine", address="192.0.2.1")
    world.guess("one", address="192.0.2.1")
    with pytest.raises(RateLimited):
        world.guess("another", address="192.0.2.1")


def test_guesses_from_elsewhere_do_not_keep_the_owner_out() -> None:
    world = World()
    world.log_in("ann", address="192.0.2.1")
    world.guess("ann", FREE_COUNT, address="192.0.2.2")
    with pytest.raises(RateLimited):
        world.guess("ann", address="192.0.2.3")
    world.log_in("ann", address="192.0.2.1")


def test_first_logins_at_once_are_all_given_back() -> None:
    world = World()
    world.address = "192.0.2.1"
    begun = [world.attempts.begin("ann") for _ in range(FREE_COUNT)]
    for was_counted in begun:
        world.attempts.succeeded("ann", was_counted=was_counted)
    for number in range(ADDRESS_FREE_COUNT):
        world.guess(f"name-{number}", address="192.0.2.1")


def test_guesses_from_ones_own_address_do_not_keep_one_out() -> None:
    world = World()
    world.log_in("ann", address="192.0.2.1")  # Of an office, or of a balancer before the edge.
    for number in range(ADDRESS_FREE_COUNT + 5):
        world.now_s += PAUSE_MAX_S
        world.guess(f"name-{number}", address="192.0.2.1")
    with pytest.raises(RateLimited):
        world.guess("bob", address="192.0.2.1")
    world.log_in("ann", address="192.0.2.1")
    with pytest.raises(RateLimited):  # And what she does there is no excuse for others.
        world.guess("bob", address="192.0.2.1")


def test_a_known_address_may_not_guess_for_ever_either() -> None:
    world = World()
    world.log_in("ann", address="192.0.2.1")
    with pytest.raises(RateLimited):
        world.guess("ann", FREE_COUNT + 1, address="192.0.2.1")


def test_without_an_address_the_account_is_counted() -> None:
    world = World()
    world.guess("ann", FREE_COUNT)
    with pytest.raises(RateLimited):
        world.guess("ann")


def test_only_so_many_addresses_are_known() -> None:
    world = World()
    for number in range(KNOWN_MAX + 10):
        world.log_in(f"name-{number}", address="192.0.2.1")
    assert len(world.attempts._known) == KNOWN_MAX


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        *(
            (text, None)
            for text in ("", "192.0.2.256", "192.0.2.1:80", "localhost", "1.2.3.4, 5.6.7.8", "0x7f.1")
        ),
    ],
)
def test_what_counts_as_one_place(text: str, counted: str | None) -> None:
    assert network(text) == counted


@given(st.text(max_size=50))
def test_whatever_is_sent_as_an_address_is_read(text: str) -> None:
    network(text)
