"""What is said of growth is true of growth."""

import mmap
import os

import pytest

from tests.bench.support.watched import memory_of, slope


def test_a_line_has_its_slope_and_no_error() -> None:
    found = slope([(at_s, 100 + 3 * at_s) for at_s in (10.0, 11.0, 15.0, 30.0)])
    assert (found.per_s, found.error_per_s) == pytest.approx((3, 0))


def test_noise_is_in_the_error() -> None:
    noisy = slope([(float(at_s), 100 + (-1) ** at_s) for at_s in range(100)])
    assert abs(noisy.per_s) < 2 * noisy.error_per_s


def test_memory_is_in_bytes() -> None:
    before = memory_of(os.getpid())["Anonymous"]
    with mmap.mmap(-1, 64_000_000, flags=mmap.MAP_PRIVATE) as held:  # No allocator's old pages.
        held[:] = b"x" * len(held)
        after = memory_of(os.getpid())["Anonymous"]
    assert after - before > 0.5 * 64_000_000
