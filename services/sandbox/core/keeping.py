"""Which executions that have ended are kept for their owners to look at, and which are forgotten.

They are bounded by count and by bytes, for each user and in all. What has ended longest is forgotten first; but what
was told to its caller to the end goes before what nobody may have read yet.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from services.sandbox.core.owners import Owner

USER_SHARE = 4  # One user may take up a quarter.

Key = tuple[Owner, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How much, and for how long."""

    seconds: float = 300.0
    count_max: int = 2048
    bytes_max: int = 128 << 20


@dataclass(slots=True)
class _Line:
    """Some that are kept, in the order in which they ended, by whether they were told: True goes first."""

    sizes: dict[bool, dict[Key, int]] = field(default_factory=lambda: {True: {}, False: {}})
    size_bytes: int = 0

    @property
    def count(self) -> int:
        return sum(map(len, self.sizes.values()))

    def add(self, key: Key, size_bytes: int, *, told: bool) -> None:
        self.sizes[told][key] = size_bytes
        self.size_bytes += size_bytes

    def remove(self, key: Key) -> None:
        for sizes in self.sizes.values():
            self.size_bytes -= sizes.pop(key, 0)

    def first(self) -> Key:
        return next(key for sizes in self.sizes.values() for key in sizes)


class Shelf:
    def __init__(self, keeping: Keeping) -> None:
        self._keeping = keeping
        self._all = _Line()
        self._by_owner: dict[Owner, _Line] = {}

    @property
    def count(self) -> int:
        return self._all.count

    @property
    def size_bytes(self) -> int:
        return self._all.size_bytes

    def put(self, key: Key, size_bytes: int, *, told: bool) -> list[Key]:
        """Keep one that has ended. Return what is to be forgotten for it; perhaps itself."""
        own = self._by_owner.setdefault(key[0], _Line())
        for line in (own, self._all):
            line.add(key, size_bytes, told=told)
        return [*self._pressed_out(own, USER_SHARE), *self._pressed_out(self._all, 1)]

    def remove(self, key: Key) -> None:
        """It is forgotten, if it was kept."""
        self._all.remove(key)
        if (own := self._by_owner.get(key[0])) is not None:
            own.remove(key)
            if not own.count:
                del self._by_owner[key[0]]

    def _pressed_out(self, line: _Line, share: int) -> Iterator[Key]:
        keeping = self._keeping
        while line.count * share > keeping.count_max or line.size_bytes * share > keeping.bytes_max:
            key = line.first()
            self.remove(key)
            yield key
