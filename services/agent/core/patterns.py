"""Which regular expressions may be compiled: those of strangers may take for ever to compile, or end the process.

Matching has a timeout; compiling has none, and the library unrolls counted repetitions. So what a pattern would come to
is counted before it sees the library, and only what JSON Schema knows of is taken: no recursion, no fuzzy matching.
"""

import re

CHARS_MAX = 1_024
WEIGHT_MAX = 20_000  # Single characters that it stands for, counted repetitions written out.
DEPTH_MAX = 16

# A class, what is escaped, or any character, with what has it come often.
_ANY = re.compile(r"(?:\[\^?\]?(?:\\.|[^\]\\])*\]|\\.|.)[*+?]*", re.DOTALL)
_GROUP = re.compile(r"\((?:\?(?::|=|!|<=|<!|P?<[A-Za-z_]\w*>))?(?!\?|\*)")
_COUNT = re.compile(r"\{([0-9]{1,9})(?:,([0-9]{0,9}))?\}")

TOO_LONG = "is too long"
TOO_HEAVY = "repeats too much"
TOO_DEEP = "is nested too deeply"
STRANGE = "has what is not read here: write { that is no count as \\{, and no (?...) but (?:, (?=, (?!, (?<=, (?<!, (?<name>"


def flaw_of(pattern: str) -> str | None:
    """Why a pattern may not be compiled; None if it may. What is no pattern at all is the library's to say."""
    if len(pattern) > CHARS_MAX:
        return TOO_LONG
    return _Weighing(pattern).flaw()


class _Weighing:
    def __init__(self, pattern: str) -> None:
        self._pattern, self._place = pattern, 0
        self._groups = [0]  # What each open one weighs so far.
        self._last = 0  # What a count would repeat.

    def flaw(self) -> str | None:
        while self._place < len(self._pattern):
            if not self._steps():
                return STRANGE
            if len(self._groups) > DEPTH_MAX:
                return TOO_DEEP
            if self._groups[-1] > WEIGHT_MAX:
                return TOO_HEAVY
        return None

    def _steps(self) -> bool:
        """Over what comes next; False: it is not read here."""
        match self._pattern[self._place]:
            case "(":
                found = _GROUP.match(self._pattern, self._place)
                self._groups.append(1)
            case "{":
                found = _COUNT.match(self._pattern, self._place)
                self._repeat(int(found[2] or found[1]) if found else 0)
            case ")":
                found = _ANY.match(self._pattern, self._place)
                self._last = self._groups.pop() if len(self._groups) > 1 else 0
                self._groups[-1] += self._last
            case _:
                found = _ANY.match(self._pattern, self._place)
                self._last = 1
                self._groups[-1] += 1
        self._place = found.end() if found else self._place
        return found is not None

    def _repeat(self, times: int) -> None:
        self._groups[-1] += self._last * max(0, times - 1)
        self._last *= max(1, times)
