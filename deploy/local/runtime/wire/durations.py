"""Go's durations, in which Ollama's clients say how long a model stays loaded."""

import math
import re

from deploy.local.runtime.errors import MalformedBodyError

UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
PART = re.compile(r"(\d+\.?\d*|\.\d+)([a-zµμ]+)")
FOR_EVER_S = math.inf


def keep_alive_s(value: float | str) -> float:
    """Seconds; anything negative means for ever. Raises MalformedBodyError as Go's parser would."""
    seconds = _parse(value) if isinstance(value, str) else value
    return FOR_EVER_S if seconds < 0 else seconds


def _parse(text: str) -> float:
    sign, unsigned = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if unsigned == "0":
        return 0.0
    parts = PART.findall(unsigned)
    if not parts or "".join(number + unit for number, unit in parts) != unsigned:
        problem = "missing unit in" if re.fullmatch(r"[\d.]*\d[\d.]*", unsigned) else "invalid"
        raise MalformedBodyError(f'time: {problem} duration "{text}"')
    for _, unit in parts:
        if unit not in UNITS_S:
            raise MalformedBodyError(f'time: unknown unit "{unit}" in duration "{text}"')
    return sign * sum(float(number) * UNITS_S[unit] for number, unit in parts)
