"""What the user wrote themselves, for the question whether a call holds anything else.

A value is the user's if it stands in one of their texts as a whole: from one space to another, but for the brackets,
quotes and full stops around it. So an address that only begins like one of theirs is not theirs, and neither is half a
word. A text without spaces, as in Chinese, is one word by this rule: then a person is asked more often, never less.
"""

from collections.abc import Iterable, Iterator

STRING_CHARS_MIN = 3  # Shorter ones stand in nearly every text by chance.
# Around a value: brackets, quotes of any kind, what stands before amounts and names, what ends a sentence.
OPENING = frozenset("\"'`([{<\u201c\u2018\u201e\u00ab#@$\u20ac\u00a3")
CLOSING = frozenset("\"'`)]}>\u201d\u2019\u201c\u00bb%.,;:!?")
DEPTH_MAX = 32  # Of arguments: nothing that is nested deeper is looked at, or trusted.

Json = object  # What `json.loads` returns.


class UserWords:
    """All that one user has written in one thread."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = tuple(f" {_one_line(text)} " for text in texts)

    def has(self, value: Json) -> bool:
        """Whether a single value is the user's. What says nothing needs no author."""
        match value:
            case None:
                return True
            case bool():
                return False  # Nobody writes these; whoever chose, it was not the user.
            case int():
                return self._stands(str(value))
            case float():
                short = f"{value:g}"
                # Digits that the user did not write may be a message, however little they weigh.
                return self._stands(str(value)) or (float(short) == value and self._stands(short))
            case str():
                return _is_long_enough(value) and self._stands(_one_line(value))
            case _:
                return False

    def _stands(self, value: str) -> bool:
        return any(_stands_in(value, text) for text in self._texts)


def values_of(arguments: Json, *, known_names: frozenset[str]) -> Iterator[Json]:
    """Every single value in `arguments`. A name that the tool does not know may carry as much as a value.

    So may a list of nothings, by their number: in lists, what says nothing is nobody's.
    """
    waiting: list[tuple[Json, int]] = [(arguments, 0)]
    while waiting:
        value, depth = waiting.pop()
        match value:
            case dict() | list() if depth >= DEPTH_MAX:
                yield False  # Nobody's.
            case dict():
                yield from (name for name in value if name not in known_names)
                waiting += ((inner, depth + 1) for inner in value.values())
            case list():
                yield from (False for inner in value if inner is None or inner in ([], {}))
                waiting += ((inner, depth + 1) for inner in value)
            case _:
                yield value


def _stands_in(value: str, text: str) -> bool:
    start = text.find(value)
    while start >= 0:
        end = start + len(value)
        before, after = text[text.rindex(" ", 0, start) + 1 : start], text[end : text.index(" ", end)]
        if OPENING.issuperset(before) and CLOSING.issuperset(after):
            return True
        start = text.find(value, start + 1)
    return False


def _is_long_enough(value: str) -> bool:
    bare = "".join(char for char in value if char not in OPENING and char not in CLOSING)
    return len(bare.strip()) >= STRING_CHARS_MIN


def _one_line(text: str) -> str:
    return " ".join(text.split())
