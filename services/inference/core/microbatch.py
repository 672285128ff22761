"""Which calls to embed texts are sent as one, and what of its cost is whose.

A call waits for others until `delay_s` after the first of them came, or until there are `texts_max` texts. One that is
that large already goes by itself, and at once.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True)
class _Gathering:
    due_at_s: float
    text_counts: dict[int, int] = field(default_factory=dict)  # By call, in the order of arrival.


class Gatherings(Generic[Key]):
    """Calls that wait to be sent. Those of one key can be sent together; each has a number of its own.

    Methods that return calls say what must be sent now, each list as one.
    """

    def __init__(self, *, delay_s: float, texts_max: int) -> None:
        self._delay_s = delay_s
        self._texts_max = texts_max
        self._open: dict[Key, _Gathering] = {}
        self._keys: dict[int, Key] = {}

    @property
    def next_due_at_s(self) -> float | None:
        """When `due` must be called; None if nobody waits."""
        return min((gathering.due_at_s for gathering in self._open.values()), default=None)

    def arrive(self, key: Key, number: int, text_count: int, now_s: float) -> list[list[int]]:
        """A call has come."""
        if self._delay_s <= 0 or text_count >= self._texts_max:
            return [[number]]
        sent = []
        gathering = self._open.get(key)
        if gathering and sum(gathering.text_counts.values()) + text_count > self._texts_max:
            sent.append(self._close(key))
            gathering = None
        if gathering is None:
            gathering = self._open[key] = _Gathering(now_s + self._delay_s)
        gathering.text_counts[number] = text_count
        self._keys[number] = key
        if sum(gathering.text_counts.values()) == self._texts_max:
            sent.append(self._close(key))
        return sent

    def leave(self, number: int) -> bool:
        """A call is given up; return whether it was not sent yet."""
        key = self._keys.pop(number, None)
        if key is None:
            return False
        gathering = self._open[key]
        del gathering.text_counts[number]
        if not gathering.text_counts:
            del self._open[key]
        return True

    def due(self, now_s: float) -> list[list[int]]:
        """Time has passed."""
        return [self._close(key) for key, found in list(self._open.items()) if found.due_at_s <= now_s]

    def _close(self, key: Key) -> list[int]:
        numbers = list(self._open.pop(key).text_counts)
        for number in numbers:
            del self._keys[number]
        return numbers


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Divide `total` by `weights`, which are positive, into whole numbers that add up to it (largest remainders)."""
    whole = sum(weights)
    made = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda place: -(total * weights[place] % whole))
    for place in by_remainder[: total - sum(made)]:
        made[place] += 1
    return made
