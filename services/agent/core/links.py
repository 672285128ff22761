"""Links and images that a model writes after it has read what anybody may have written.

Whoever shows the answer may fetch an image by itself, and a person clicks on links: both carry away what stands in
the address. So addresses are taken out of the text, unless their host is allowed. Nothing is told apart that another
reader of Markdown may see otherwise: inside code, and in whatever is not sure to be harmless, they are taken out as
well. What takes their place is never empty and never the target of a link, so that no two pieces of text can
become a link by meeting.

The text may come in pieces. Held back is what may be, or be the beginning of, a link: `HELD_CHARS_MAX` at most;
what is longer is taken out without having been read to its end.
"""

import re
from collections.abc import Collection

HELD_CHARS_MAX = 2048
GONE = "(link removed)"  # With a space: Markdown takes no address that has one.

# Where a link may begin: the target of an inline one, a definition, HTML, and an address by itself.
_STARTS = ("](", "]:", "<", "http://", "https://", "ftp://", "www.", "mailto:")
_START = re.compile("|".join(map(re.escape, _STARTS)), re.IGNORECASE)
_BEGUN_CHARS_MAX = max(map(len, _STARTS)) - 1
_AFTER_ADDRESS = re.compile(r"[\s<>\"'`(){}\[\]|\\]")
_PUNCTUATION = ".,;:!?*_~"  # Belongs to the sentence.
_HAS_PATH = re.compile(r"https?://[^/?#]*[/?#]", re.IGNORECASE)
_SPACE = re.compile(r"[\s<]")
_CLOSERS = re.compile(r"[\"'`)}\]>|.,;:!?*_~]*")
_TAG_NAME = re.compile(r"</?[A-Za-z][A-Za-z0-9-]*/?>")
_TAGS_THAT_ACT = re.compile(
    r"</?(?:script|style|iframe|object|embed|link|meta|base|svg|math|form|audio|video|img|image|frame|template)\b",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"https?://([A-Za-z0-9.-]+)(?::[0-9]{1,5})?(?:[/?#][^\s<>()\\]*)?", re.IGNORECASE)
_TARGET = re.compile(rf"\s*<?({_ADDRESS.pattern})>?(?:\s+\"[^\"()<>\\]*\")?\s*", re.IGNORECASE)


class LinkStripper:
    """Takes links out of one text. Implements TextFilter. `hosts` are those that may stay, in lower case."""

    def __init__(self, hosts: Collection[str] = ()) -> None:
        self._hosts = hosts
        self._held = ""
        self._swallows = False  # The rest of an address.

    def feed(self, piece: str) -> str:
        self._held += piece
        return self._let_through(is_end=False)

    def end(self) -> str:
        return self._let_through(is_end=True)

    def _let_through(self, *, is_end: bool) -> str:
        shown: list[str] = []
        while self._held:
            if self._swallows:
                self._take(_length_of_address(self._held))
                self._swallows = not self._held
            start = _START.search(self._held)
            if start is None:
                sure = len(self._held) if is_end else len(self._held) - _begun_chars(self._held)
                shown.append(self._take(sure))
                break
            shown.append(self._take(start.start()))
            instead = self._construct(start[0].lower(), is_end=is_end)
            if instead is None:
                break
            shown.append(instead)
        return "".join(shown)

    def _construct(self, start: str, *, is_end: bool) -> str | None:
        """What takes the place of the one that what is held begins with; None while that cannot be said."""
        match start:
            case "](":
                return self._inline(is_end=is_end)
            case "]:":
                self._take(2)
                return "] :"  # Defines nothing, with a space before the colon.
            case "<":
                return self._tag(is_end=is_end)
            case _:
                return self._address(is_end=is_end)

    def _inline(self, *, is_end: bool) -> str | None:
        end = _closing(self._held, start=2)
        if end is None:
            if not is_end and len(self._held) <= HELD_CHARS_MAX:
                return None
            self._take(2)
            return f"]{GONE} "  # It opens nothing; what follows is looked at by itself.
        whole = self._take(end + 1)
        return whole if self._may_stay(_TARGET.fullmatch(whole[2:-1])) else f"]{GONE}"

    def _tag(self, *, is_end: bool) -> str | None:
        if len(self._held) == 1 and not is_end:
            return None
        if not re.match(r"<[A-Za-z/!?]", self._held):
            return self._take(1)
        end = self._held.find(">")
        if end < 0:
            if not is_end and len(self._held) <= HELD_CHARS_MAX:
                return None
            self._take(1)
            return "&lt;"  # As above.
        whole = self._take(end + 1)
        if _TAG_NAME.fullmatch(whole) and not _TAGS_THAT_ACT.match(whole):
            return whole
        return whole if self._may_stay(_ADDRESS.fullmatch(whole[1:-1])) else GONE

    def _address(self, *, is_end: bool) -> str | None:
        length = _length_of_address(self._held)
        if length == len(self._held) and not is_end:
            if length <= HELD_CHARS_MAX:
                return None
            self._swallows = True
            self._take(length)
            return GONE
        whole = self._held[:length].rstrip(_PUNCTUATION)
        may_stay = self._may_stay(_ADDRESS.fullmatch(whole))
        if may_stay and not _HAS_PATH.match(whole):
            # Its host may go on for another reader, to whom a quote or a bracket is a letter of it.
            end = _SPACE.search(self._held, len(whole))
            if end is None and not is_end and len(self._held) <= HELD_CHARS_MAX:
                return None
            rest = self._held[len(whole) : end.start() if end else len(self._held)]
            may_stay = _CLOSERS.fullmatch(rest) is not None and (end is not None or is_end)
        self._take(len(whole))
        return whole if may_stay else GONE

    def _may_stay(self, address: re.Match[str] | None) -> bool:
        if address is None:
            return False
        host = next(group for group in reversed(address.groups()) if group is not None).lower().rstrip(".")
        return host in self._hosts

    def _take(self, count: int) -> str:
        taken, self._held = self._held[:count], self._held[count:]
        return taken


def _length_of_address(text: str) -> int:
    """Of the one that it begins with."""
    after = _AFTER_ADDRESS.search(text)
    return after.start() if after else len(text)


def _begun_chars(text: str) -> int:
    """How many characters at the end may be the beginning of a start."""
    for count in range(min(_BEGUN_CHARS_MAX, len(text)), 0, -1):
        if any(start.startswith(text[-count:].lower()) for start in _STARTS):
            return count
    return 0


def _closing(text: str, *, start: int) -> int | None:
    """Where the parenthesis that was opened before `start` is closed."""
    depth = 1
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return None
