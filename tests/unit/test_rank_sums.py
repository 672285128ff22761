"""The U test that the timing tests rely on."""

import random

import pytest

from tests.service.rank_sums import p_value


def test_it_agrees_with_a_worked_example() -> None:
    """U = 14 + 13 + … + 1 = 105, mean 200, variance 400 * 41 / 12, no ties: z = 94.5 / 36.97 = 2.556, p = 0.0106."""
    assert p_value(list(range(20)), [value + 5.5 for value in range(20)]) == pytest.approx(0.0106, abs=1e-4)


def test_the_order_does_not_matter_and_equal_samples_do_not_differ() -> None:
    one, other = [float(value % 7) for value in range(30)], [float(value % 5) for value in range(40)]
    assert p_value(one, other) == pytest.approx(p_value(other, one))
    assert p_value(one, one) == 1.0
    assert p_value([1.0] * 20, [1.0] * 20) == 1.0


def test_by_chance_it_errs_as_often_as_it_says() -> None:
    chance = random.Random(3)

    def sample() -> list[float]:
        return [chance.expovariate(1) for _ in range(50)]

    wrong = sum(p_value(sample(), sample()) < 0.1 for _ in range(400))
    assert 20 <= wrong <= 62  # 40 are due; less and more have a probability of 1e-3.


def test_it_finds_a_small_difference_in_much_noise() -> None:
    chance = random.Random(4)
    one = [chance.expovariate(1) for _ in range(200)]
    other = [chance.expovariate(1) + 0.3 for _ in range(200)]
    assert p_value(one, other) < 0.001
