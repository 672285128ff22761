"""Phrases that are looked for in prompts, however they are typed.

This is a signal and no boundary: whoever wants the same with other words finds them at once, and honest people use
these words too (docs/prompt-patterns.md has figures). What holds is what the model may do, not what it may be told.
"""

import unicodedata
from collections.abc import Iterable
from enum import Enum

# What a reader does not see, and a writer may put between any two letters: Unicode's default ignorable code points.
_UNSEEN_RANGES = (
    *((0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C), (0x115F, 0x1160), (0x17B4, 0x17B5)),
    *((0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164)),
    *((0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0x1BCA0, 0x1BCA3)),
    *((0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)
_UNSEEN = dict.fromkeys(point for first, last in _UNSEEN_RANGES for point in range(first, last + 1))
# The guide's own list.
USUAL_PHRASES = ("system prompt", "ignore instructions", "__import__")


class Mode(Enum):
    """What is done about a prompt that has one of the phrases."""

    OFF = "off"  # Nothing is looked for.
    LOG = "log"  # It is counted and logged; the caller is told nothing.
    FLAG = "flag"  # Likewise, and the caller is told.
    BLOCK = "block"  # It is refused.


def folded(text: str) -> str:
    """Return what all ways to type the same text have in common: NFKC, one case, nothing unseen, single spaces.

    Takes time linear in its length for what `prompts.flaws` lets through.
    """
    if not text.isascii():
        # Compatibility forms decompose into unseen characters and these into none, so what is unseen goes last; and
        # folding a case can undo a composition.
        text = unicodedata.normalize("NFKC", text).translate(_UNSEEN)
        text = unicodedata.normalize("NFKC", text.casefold()).translate(_UNSEEN)
    return " ".join(text.casefold().split())


class Phrases:
    """A list of phrases, ready to be looked for."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._phrases = {folded(phrase): phrase for phrase in phrases if folded(phrase)}

    def found(self, text: str) -> tuple[str, ...]:
        """Return those that `text` has, as they were given."""
        looked_at = folded(text)
        return tuple(phrase for form, phrase in self._phrases.items() if form in looked_at)
