"""Rewriting a text as it is written, when what is to be rewritten may be split anywhere.

A filter is given pieces and gives back what is sure by then; `end` gives the rest. What it holds back is bounded,
so that neither memory nor the wait of whoever reads along grows with the text.
"""

from collections.abc import Sequence
from typing import Protocol


class TextFilter(Protocol):
    def feed(self, piece: str) -> str:
        """What may be shown now."""
        ...

    def end(self) -> str:
        """The rest: nothing more will come."""
        ...


class Chain:
    """Filters one behind the other; none of them lets everything through."""

    def __init__(self, filters: Sequence[TextFilter]) -> None:
        self._filters = filters

    def feed(self, piece: str) -> str:
        for each in self._filters:
            piece = each.feed(piece)
        return piece

    def end(self) -> str:
        rest = ""
        for each in self._filters:
            rest = each.feed(rest) + each.end()
        return rest


def filtered(text: str, rewriting: TextFilter) -> str:
    """A whole text at once."""
    return rewriting.feed(text) + rewriting.end()
