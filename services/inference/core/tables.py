"""Tables in configuration: JSON of a known shape, in which every mistake is named at once, and no value.

{"llama3.2:3b": {"slots": 2}, ...}      rows by name, in them settings by name
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

NAME_SHOWN_MAX = 80  # Of a name that somebody mistyped, in a message.


@dataclass(frozen=True, slots=True)
class Number:
    """A number of at least `low` and at most `high`."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number of at least `low` and at most `high`."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""


Rule = Number | Whole | Flag
Row = Mapping[str, object]


@dataclass(slots=True)
class Tables:
    """Reads tables and remembers mistakes, each worded to follow the name of the setting that holds it."""

    mistakes: list[str] = field(default_factory=list)

    def top(self, text: str) -> Row:
        """Return a JSON object; an empty one if `text` is none."""
        try:
            parsed: object = json.loads(text, object_pairs_hook=self._object)
        except (ValueError, RecursionError):
            self.mistakes.append("is not JSON")
            return {}
        if not isinstance(parsed, dict):
            self.mistakes.append("is not a JSON object")
            return {}
        return parsed

    def rows(self, text: str) -> dict[str, Row]:
        """Return the rows of a table; what is no row is an empty one."""
        return {name: self.row(value, where=shown(name)) for name, value in self.top(text).items()}

    def row(self, value: object, *, where: str) -> Row:
        """Return `value`, which must be an object; an empty one if it is not."""
        if isinstance(value, dict):
            return value
        self.mistakes.append(f"has something else than an object for {where}")
        return {}

    def settings(self, row: Row, rules: Mapping[str, Rule], *, where: str) -> dict[str, float]:
        """Return the settings of a row that keep to their rule."""
        good: dict[str, float] = {}
        for name, value in row.items():
            rule = rules.get(name)
            if rule is None:
                self.mistakes.append(f"has an unknown key in {where}: {shown(name)}")
            elif (broken := _broken(value, rule)) != "":
                self.mistakes.append(f"has a {name} in {where} that is not {broken}")
            elif isinstance(value, int | float):
                good[name] = value
        return good

    def _object(self, pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
        """JSON leaves open which of two equal names counts; here, neither."""
        made: dict[str, object] = {}
        for name, value in pairs:
            if name in made:
                self.mistakes.append(f"has a key twice: {shown(name)}")
            made[name] = value
        return made


def shown(name: str) -> str:
    """Return a name as it can stand in a message, whatever is in it."""
    return ascii(name[:NAME_SHOWN_MAX])


def _broken(value: object, rule: Rule) -> str:
    """Say what `value` should be and is not; nothing if it is."""
    match rule:
        case Flag():
            return "" if isinstance(value, bool) else "true or false"
        case Whole() if isinstance(value, bool) or not isinstance(value, int):
            return "a whole number"
        case Number() if isinstance(value, bool) or not isinstance(value, int | float):
            return "a number"
        case Whole(low, high) | Number(low, high):
            assert isinstance(value, int | float), "checked above"
            fits = low <= value <= high  # NaN does not.
            return "" if fits else f"between {low:g} and {high:g}"
