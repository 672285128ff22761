"""Personal data that a run's rules keep out of what its model reads and writes, and so of all that is stored.

What personal data looks like is said by detectors, which are passed in; what becomes of it is decided here. A text
that arrives in pieces is held back where personal data may have begun: never more than `HELD_CHARS_MAX` characters
of it, and nothing of an entity of up to half that length is ever let through, however it is cut. That is longer
than any address or number of those kinds can be.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from services.agent.core.conversation import Message
from services.agent.errors import PiiBlocked

HELD_CHARS_MAX = 1024
CARD_CHARS_MAX = 24  # 19 digits in five groups; only cards are written with spaces in them.
SHOWN_CHARS_MAX = 4


class PiiKind(Enum):
    """Kinds of personal data that can be told by their form; names as in the proto's PiiKind."""

    EMAIL = "EMAIL"
    CREDIT_CARD = "CREDIT_CARD"
    IP_ADDRESS = "IP_ADDRESS"
    MAC_ADDRESS = "MAC_ADDRESS"


class PiiAction(Enum):
    """What becomes of it; names as in the proto's PiiAction."""

    REDACT = "REDACT"
    MASK = "MASK"
    BLOCK = "BLOCK"


@dataclass(frozen=True, slots=True)
class PiiRule:
    kind: PiiKind
    action: PiiAction


Detector = Callable[[str], Sequence[tuple[int, int]]]  # Where each entity starts and ends.
Detectors = Mapping[PiiKind, Detector]


@dataclass(frozen=True, slots=True)
class _Found:
    start: int
    end: int
    rule: PiiRule


class Redactor:
    """Applies rules to one text. Implements TextFilter; raises PiiBlocked where a rule says so."""

    def __init__(self, rules: Sequence[PiiRule], detectors: Detectors) -> None:
        self._rules, self._detectors = rules, detectors
        self._held = ""
        self._before = ""  # The last character that was let through: it tells whether a word begins.

    def feed(self, piece: str) -> str:
        self._held += piece
        shown = self._release(_sure(self._held))
        if len(self._held) > HELD_CHARS_MAX:  # A word without end.
            shown += self._release(len(self._held) - HELD_CHARS_MAX // 2, forced=True)
        return shown

    def end(self) -> str:
        return self._release(len(self._held))

    def _release(self, sure: int, *, forced: bool = False) -> str:
        """Let through the first `sure` characters, up to any entity that reaches beyond; if forced, with it.

        What follows a forced cut is looked at as if a word began there, which finds more, not less.
        """
        text, place = self._before + self._held, len(self._before)
        limit = place + sure
        parts: list[str] = []
        for found in self._found(text):
            if found.start >= limit:
                break
            if found.end > limit:
                limit = found.end if forced else found.start
            if found.end <= limit:
                parts += [text[place : found.start], _instead(text[found.start : found.end], found.rule)]
                place = found.end
        parts.append(text[place:limit])
        self._held = text[limit:]
        self._before = "" if forced else text[:limit][-1:]
        return "".join(parts)

    def _found(self, text: str) -> Sequence[_Found]:
        """Each entity, in order; those that overlap as one, to which the strictest rule applies."""
        every = [
            _Found(start, end, rule)
            for rule in self._rules
            for start, end in self._detectors[rule.kind](text)
            if start >= len(self._before)
        ]
        joined: list[_Found] = []
        for found in sorted(every, key=lambda found: (found.start, -found.end)):
            if joined and found.start < joined[-1].end:
                last = joined.pop()
                rule = max(last.rule, found.rule, key=lambda rule: rule.action is PiiAction.BLOCK)
                joined.append(_Found(last.start, max(last.end, found.end), rule))
            else:
                joined.append(found)
        return joined


def redacted(value: object, redact: Callable[[str], str]) -> object:
    """A JSON value with every text in it redacted, the names of its properties too.

    A number that holds personal data, as a card's does, becomes the text that is left of it.
    """
    match value:
        case str():
            return redact(value)
        case bool() | None:
            return value
        case int() | float():
            written = json.dumps(value)
            return value if (left := redact(written)) == written else left
        case list():
            return [redacted(each, redact) for each in value]
        case dict():
            return {redact(key): redacted(each, redact) for key, each in value.items()}
        case _:
            return value


def cleaned_message(message: Message, redact: Callable[[str], str]) -> Message:
    """What was said, with the arguments of its calls."""
    calls = tuple(
        replace(call, arguments_json=json.dumps(redacted(json.loads(call.arguments_json), redact)))
        for call in message.calls
    )
    return replace(message, content=redact(message.content), calls=calls)


def _sure(text: str) -> int:
    """Up to where no entity can reach into what is still to come: the last word is never sure.

    Cards are written in groups of digits, so that several words may be one of them.
    """
    place = len(text)
    while place > 0 and not text[place - 1].isspace():
        place -= 1
    while len(text) - place < CARD_CHARS_MAX and _goes_on_before(text, place):
        place -= 1
        while place > 0 and not text[place - 1].isspace():
            place -= 1
    return place


def _goes_on_before(text: str, place: int) -> bool:
    """Whether a group of digits ends before the space at `place`, and what follows may be the next one."""
    follows = place == len(text) or text[place].isdigit()
    return follows and place >= 2 and text[place - 1].isspace() and text[place - 2].isdigit()


def _instead(entity: str, rule: PiiRule) -> str:
    match rule.action:
        case PiiAction.REDACT:
            return f"[{rule.kind.value}]"
        case PiiAction.MASK:
            return f"****{entity[-min(SHOWN_CHARS_MAX, len(entity) // 3) :]}"
        case PiiAction.BLOCK:
            raise PiiBlocked(kind=rule.kind.value)
