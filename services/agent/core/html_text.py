"""The text of a page, for a model to read: without markup, scripts and styles, one line for each block.

Pages are written by anybody, so it takes time in proportion to the page whatever that is: each search goes on where the
last one stopped, and what was not found once is not looked for again. Python's own parser takes minutes for 100 KiB of
`<a b="`. It is no parser: what it makes of broken markup is readable, and never more than the page.
"""

import html
import re
from dataclasses import dataclass, field

_TAG = re.compile(r"</?([a-zA-Z][a-zA-Z0-9-]*)|<[!?]")
_SKIPPED = frozenset({"script", "style", "template", "noscript", "svg", "math", "iframe", "object"})
_INLINE = re.compile(
    "a|abbr|b|bdi|bdo|cite|code|data|del|dfn|em|font|i|img|input|ins|kbd|label|mark|q|s|samp|small|span|strong|sub|"
    "sup|time|tt|u|var|wbr"
)
_ENDS = {name: re.compile(f"</{name}", re.IGNORECASE) for name in _SKIPPED} | {
    "--": re.compile("-->"),
    ">": re.compile(">"),
}


PAGE_CHARS_MAX = 1 << 19  # Half a second at the worst.


def text_of(page: str) -> str:
    return _lines(_unescaped(_Markup(page[:PAGE_CHARS_MAX]).stripped()))


@dataclass(slots=True)
class _Markup:
    page: str
    missing: set[str] = field(default_factory=set)  # What does not come any more.

    def stripped(self) -> str:
        parts, at = [], 0
        while (start := self.page.find("<", at)) >= 0:
            parts.append(self.page[at:start])
            at, instead = self._passed(start)
            parts.append(instead)
        return "".join((*parts, self.page[at:]))

    def _passed(self, start: int) -> tuple[int, str]:
        """Where the text goes on, and what stands for the markup that begins at `start`."""
        tag = _TAG.match(self.page, start)
        if tag is None:
            return start + 1, "<"
        if self.page.startswith("<!--", start):
            return self._behind("--", start + 4) or len(self.page), " "
        end = self._behind(">", tag.end())
        if end is None:
            return start + 1, "<"
        name = (tag[1] or "").lower()
        if name in _SKIPPED and not self.page.startswith("</", start):
            return self._behind(name, end) or len(self.page), "\n"
        return end, "" if _INLINE.fullmatch(name) else "\n"

    def _behind(self, what: str, at: int) -> int | None:
        """The end of the next one, if there is one. Of a closing tag's, its `>` is left to be passed."""
        if what in self.missing:
            return None
        found = _ENDS[what].search(self.page, at)
        if found is None:
            self.missing.add(what)
            return None
        return found.start() if what in _SKIPPED else found.end()


def _unescaped(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:  # A number of thousands of digits.
        return text


def _lines(text: str) -> str:
    """Without needless space; one empty line at most."""
    lines: list[str] = []
    for line in text.split("\n"):
        words = " ".join(line.split())
        if words or (lines and lines[-1]):
            lines.append(words)
    return "\n".join(lines).strip()
