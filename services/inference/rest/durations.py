"""Go's durations, in which Ollama's clients say how long a model stays loaded."""

import re

from services.common.errors import InvalidRequest, Violation

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)([a-zµμ]+)", re.ASCII)
_LENGTH_MAX = 64
# Beyond that, a duration is "for ever" as far as a process is concerned, and protobuf's own bound is near.
S_MAX = 31_536_000.0


def seconds(value: float | str, *, field: str) -> float:
    """Return seconds, a negative number for "for ever". Raises InvalidRequest in the words of Go's parser."""
    found = _parsed(value, field) if isinstance(value, str) else float(value)
    return -1.0 if found < 0 or found != found else min(found, S_MAX)  # noqa: PLR0124 - NaN is nothing else.


def _parsed(text: str, field: str) -> float:
    sign, unsigned = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if unsigned == "0":
        return 0.0
    parts = _PART.findall(unsigned) if len(unsigned) <= _LENGTH_MAX else []
    if not parts or "".join(number + unit for number, unit in parts) != unsigned:
        problem = "missing unit in" if re.fullmatch(r"[\d.]*\d[\d.]*", unsigned) else "invalid"
        raise InvalidRequest([Violation(field, f'time: {problem} duration "{text[:_LENGTH_MAX]}"')])
    for _, unit in parts:
        if unit not in _UNITS_S:
            raise InvalidRequest([Violation(field, f'time: unknown unit "{unit}" in duration "{text}"')])
    return sign * sum(float(number) * _UNITS_S[unit] for number, unit in parts)
