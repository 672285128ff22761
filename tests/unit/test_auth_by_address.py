"""What anybody may do is counted by address, and the count is bounded."""

import pytest

from services.auth.by_address import ADDRESSES_MAX, ByAddress
from services.auth.errors import RateLimited


class World:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.address: str | None = "192.0.2.1"
        self.counted = ByAddress(per_s=0.1, burst=2, clock=lambda: self.now_s, where=lambda: self.address)

    def take(self, address: str | None) -> float | None:
        """How long to wait, if it may not be done now."""
        self.address = address
        try:
            self.counted.take()
        except RateLimited as error:
            return error.retry_after_s
        return None


def test_an_address_has_its_burst_and_then_waits_and_nobody_else_does() -> None:
    world = World()
    assert [world.take("192.0.2.1") for _ in range(3)] == [None, None, pytest.approx(10)]
    assert world.take("192.0.2.2") is None
    world.now_s = 10.0
    assert [world.take("192.0.2.1") for _ in range(2)] == [None, pytest.approx(10)]


def test_who_has_no_address_is_not_counted() -> None:
    world = World()
    assert [world.take(None) for _ in range(5)] == [None] * 5


def test_so_many_addresses_are_remembered_those_seen_last() -> None:
    world = World()
    for number in range(ADDRESSES_MAX):
        world.take(f"a{number}")
        world.take(f"a{number}")
    world.take("one more")  # Instead of the first.
    assert world.take(f"a{ADDRESSES_MAX - 1}") is not None
    assert world.take("a0") is None
