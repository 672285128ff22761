"""Reading what people and files say, field by field: the first mistake is named with its place and its field."""

from collections.abc import Mapping, Sequence
from math import isfinite

NUMBER_MAX = 1e15
SHOWN_MAX = 60  # Of a value or a name, in a message.


class Malformed(Exception):
    """What was read makes no sense. The message says where and why."""


class Fields:
    """An object of a file. Whoever has read all that may be in it calls `done`."""

    def __init__(self, row: object, *, where: str) -> None:
        """`where` is the place for messages, such as "line 3"."""
        self.where = where
        if not isinstance(row, Mapping):
            raise Malformed(f"{where}: is not an object")
        self._row: Mapping[str, object] = row
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._row.get(name) is not None

    def number(
        self, name: str, otherwise: float | None = None, *, low: float = 0.0, high: float = NUMBER_MAX
    ) -> float:
        """Return a number from `low` to `high`; it must be there if there is no `otherwise`."""
        value = self._value(name)
        if value is None and otherwise is not None:
            return otherwise
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise self.wrong(name, "is not a number")
        if not low <= value <= high:
            raise self.wrong(name, f"is not from {low:g} to {high:g}")
        return float(value)

    def optional_number(self, name: str, *, low: float = 0.0) -> float | None:
        self._read.add(name)
        return self.number(name, low=low) if name in self else None

    def whole(
        self, name: str, otherwise: int | None = None, *, low: int = 0, high: int = int(NUMBER_MAX)
    ) -> int:
        value = self._value(name)
        if value is None and otherwise is not None:
            return otherwise
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, "is not a whole number")
        if not low <= value <= high:
            raise self.wrong(name, f"is not from {low} to {high}")
        return value

    def flag(self, name: str) -> bool:
        value = self._value(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "is not true or false")
        return value

    def text(self, name: str, otherwise: str | None = None) -> str:
        value = self._value(name)
        if value is None and otherwise is not None:
            return otherwise
        if not isinstance(value, str):
            raise self.wrong(name, "is not a text")
        return value

    def choice(self, name: str, among: Sequence[str], otherwise: str | None = None) -> str:
        value = self.text(name, otherwise)
        if value not in among:
            raise self.wrong(name, f"is not one of {', '.join(among)}")
        return value

    def table(self, name: str) -> "Fields":
        """Return an object in this one; an empty one if there is none."""
        value = self._value(name)
        return Fields({} if value is None else value, where=f"{self.where}.{name}")

    def items(self, name: str) -> Sequence[object]:
        """Return a list; an empty one if there is none."""
        value = self._value(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.wrong(name, "is not a list")
        return value

    def wholes(self) -> dict[str, int]:
        """Return an object whose values are all whole numbers."""
        return {name: self.whole(name) for name in self._row}

    def names(self) -> list[str]:
        """Return the names of all fields, for objects whose names are not ours."""
        return list(self._row)

    def plain(self, name: str) -> object:
        """Return what is there, as it is."""
        return self._value(name)

    def done(self) -> None:
        """Make sure that nothing was overlooked: a field that was mistyped must not be a default."""
        for name in self._row:
            if name not in self._read:
                raise self.wrong(name, "is not known here")

    def wrong(self, name: str, why: str) -> Malformed:
        value = self._row.get(name)
        shown = "" if value is None or "known" in why else f", but {ascii(value)[:SHOWN_MAX]}"
        missing = name not in self._row and why != "is not known here"
        return Malformed(f"{self.where}: {name[:SHOWN_MAX]} {'is missing' if missing else why + shown}")

    def _value(self, name: str) -> object:
        self._read.add(name)
        return self._row.get(name)
