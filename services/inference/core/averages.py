"""Averages that learn online and forget: what was seen lately counts, and one strange value does little harm.

The first value is taken as it is; the weight of later ones falls from 1/2 to that of forgetting. Once a few
were seen, one that is too far off is taken to be just so far off as is believed. A real change gets through,
for then the next one is closer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

SURPRISE_MAX = 4.0  # By which factor a value may be off and be believed.
TRUSTED_FROM = 4.0  # Observations; earlier ones may be as far off as the first was.
EXTRA_SHARE = 0.05  # What each further job of a batch adds to a token's time, until that was seen.
EXTRA_WEIGHT = 0.2  # How many observations that guess is worth.
LEVERAGE_MAX = 10.0  # How much more or less than another an observation may count.
WEIGHT_MAX = 1e4  # Of what is restored; so is the next one.
VALUE_MAX = 1e9


@dataclass(slots=True)
class Average:
    """An exponentially forgetting mean of values that are not negative."""

    keep: float  # What is left of an observation's weight with the next one.
    surprise_max: float = SURPRISE_MAX
    weight: float = 0.0
    value: float = 0.0

    def learn(self, value: float, *, weight: float = 1.0) -> None:
        """Count a value, as much as `weight` (0 to 1) of a whole observation."""
        if self.weight >= TRUSTED_FROM and self.value > 0:
            value = _believed(value, self.value, surprise_max=self.surprise_max)
        self.weight = self.weight * self.keep**weight + weight
        self.value += (value - self.value) * (weight / self.weight)

    def numbers(self) -> list[float]:
        """Return what `restore` needs."""
        return [self.weight, self.value]

    def restore(self, numbers: Sequence[float]) -> bool:
        """Take over what `numbers` returned; return whether it made sense."""
        match numbers:
            case [weight, value] if _sound(weight, value):
                self.weight, self.value = weight, value
                return True
            case _:
                return False


@dataclass(slots=True)
class Line:
    """The time of an output token in a batch of n, as `alone_s + extra_s * (n - 1)`.

    0 <= extra_s <= alone_s: more jobs make none faster, and together none slower than one after the other.
    The least squares of an exponentially forgetting sample, kept as means, variance and covariance. As long
    as all batches were alike, the sample says nothing about the slope: then a guess decides.
    """

    keep: float
    alone_s: float = 0.0
    extra_s: float = 0.0
    weight: float = 0.0
    mean_others: float = 0.0  # Of n - 1.
    mean_s: float = 0.0
    variance: float = 0.0
    covariance: float = 0.0

    def learn(self, token_s: float, *, batch: float) -> None:
        """Count a token's time, which must be positive."""
        others = max(0.0, batch - 1.0)
        weight = 1.0
        if self.weight > 0:
            expected_s = self.alone_s + self.extra_s * others
            # Noise grows with the time that it disturbs, so that of large batches must not drown small ones.
            weight = min(max((self.mean_s / expected_s) ** 2, 1 / LEVERAGE_MAX), LEVERAGE_MAX)
            if self.weight >= TRUSTED_FROM:
                token_s = _believed(token_s, expected_s, surprise_max=SURPRISE_MAX)
        self.weight = self.weight * self.keep + weight
        share = weight / self.weight
        others_off, off_s = others - self.mean_others, token_s - self.mean_s
        self.mean_others += share * others_off
        self.mean_s += share * off_s
        self.variance = (1.0 - share) * (self.variance + share * others_off * others_off)
        self.covariance = (1.0 - share) * (self.covariance + share * others_off * off_s)
        self._fit()

    def numbers(self) -> list[float]:
        """Return what `restore` needs."""
        return [self.weight, self.mean_others, self.mean_s, self.variance, self.covariance]

    def restore(self, numbers: Sequence[float]) -> bool:
        """Take over what `numbers` returned; return whether it made sense."""
        match numbers:
            case [weight, mean_others, mean_s, variance, covariance] if (
                _sound(weight, mean_others, mean_s, variance, abs(covariance)) and mean_s > 0
            ):
                self.weight, self.mean_others, self.mean_s = weight, mean_others, mean_s
                self.variance, self.covariance = variance, covariance
                self._fit()
                return True
            case _:
                return False

    def _fit(self) -> None:
        guess_s = EXTRA_SHARE * self.mean_s / (1.0 + EXTRA_SHARE * self.mean_others)
        guess_weight = EXTRA_WEIGHT / self.weight
        slope_s = (self.covariance + guess_weight * guess_s) / (self.variance + guess_weight)
        serial_s = self.mean_s / (1.0 + self.mean_others)
        self.extra_s = min(max(slope_s, 0.0), serial_s)
        self.alone_s = self.mean_s - self.extra_s * self.mean_others


def _believed(value: float, expected: float, *, surprise_max: float) -> float:
    return min(max(value, expected / surprise_max), expected * surprise_max)


def _sound(weight: float, *values: float) -> bool:
    """Return whether restored numbers can be what was saved. NaN is not."""
    return 0.0 < weight <= WEIGHT_MAX and all(
        isfinite(value) and 0.0 <= value <= VALUE_MAX for value in values
    )
