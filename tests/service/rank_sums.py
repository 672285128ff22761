"""The Mann-Whitney U test: whether one of two samples tends to be larger."""

from collections import Counter
from collections.abc import Sequence
from math import erfc, sqrt


def p_value(one: Sequence[float], other: Sequence[float]) -> float:
    """Return how likely so large a difference is by chance (two-sided).

    By the normal approximation with correction for ties and continuity, which is close for 20 values and more.
    """
    n, m = len(one), len(other)
    assert min(n, m) >= 20
    ranks = _ranks([*one, *other])
    u = sum(ranks[value] for value in one) - n * (n + 1) / 2
    ties = sum(count**3 - count for count in Counter([*one, *other]).values())
    total = n + m
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance == 0:
        return 1.0
    z = max(abs(u - n * m / 2) - 0.5, 0.0) / sqrt(variance)
    return erfc(z / sqrt(2))


def _ranks(values: Sequence[float]) -> dict[float, float]:
    """Return the rank of each value; equal ones share the mean of theirs."""
    ranks, place = {}, 1
    for value, count in sorted(Counter(values).items()):
        ranks[value] = place + (count - 1) / 2
        place += count
    return ranks
