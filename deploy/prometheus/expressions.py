"""Which metrics an expression of PromQL asks for: what is left when strings, labels, functions and numbers are taken away."""

import re
from collections.abc import Iterator

_NOISE = re.compile(
    r"""
    "(?:[^"\\]|\\.)*"                                                        # strings
    | \{[^{}]*\}                                                             # label matchers, once strings are gone
    | \[[^\]]*\]                                                             # windows
    | \b(?:by|without|on|ignoring|group_left|group_right)\s*\([^()]*\)       # lists of labels
    | \boffset\s+-?\w+                                                       # offsets
    """,
    re.VERBOSE,
)
_NAME = re.compile(r"(?<![\w.:])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])")
_WORDS = frozenset({"and", "or", "unless", "bool", "inf", "nan", "e9"})
# Histograms and counters are known by their own name, and scraped under these.
SUFFIXES = ("_total", "_bucket", "_count", "_sum", "_info")


def metrics(expression: str) -> Iterator[str]:
    """The names of the series that `expression` selects, as they are scraped."""
    previous = None
    while previous != expression:  # Braces are matched once the strings in them are gone.
        previous, expression = expression, _NOISE.sub(" ", expression)
    for name in _NAME.findall(expression):
        if name.lower() not in _WORDS:
            yield name


def family(name: str) -> str:
    """The name under which code makes what is scraped as `name`."""
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
