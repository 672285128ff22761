"""JSON in, checked: precise complaints that name the field, in the caller's own spelling."""

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from services.common.errors import InvalidRequest, Violation

Kind = TypeVar("Kind")
# What fields are called, in the order in which that is looked up.
Names = Sequence[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]]

_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")
_MESSAGE = re.compile(r"^messages\[(\d+)\]")
_KEYED = re.compile(r"\[\.\.\.\]")


def parsed(data: bytes, kind: type[Kind]) -> Kind:
    """Return a body as `kind`. Raises InvalidRequest."""
    if not data.strip():
        raise InvalidRequest([Violation("", "missing request body")])
    try:
        data.decode()  # The decoder does not look into what it leaves as it is (Raw).
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest([_complaint(str(error))]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest([Violation("", f"the body is not valid JSON: {error}")]) from None
    except RecursionError:
        raise InvalidRequest([Violation("", "the body is nested too deeply")]) from None


def _complaint(text: str) -> Violation:
    place = _PLACE.search(text)
    if place is None:
        return Violation("", text)
    return Violation(_KEYED.sub("", place[1]), text[: place.start()])


def wrong(field: str, description: str, rule: str = "") -> InvalidRequest:
    """Return the complaint about one field."""
    return InvalidRequest([Violation(field, description, rule)])


def decoded_image(text: str, *, field: str) -> bytes:
    """Return what base64 holds. Raises InvalidRequest."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise wrong(field, "is not base64") from None


def renamed(error: InvalidRequest, names: Names) -> InvalidRequest:
    """Return the same complaints, each about the field as the caller spells it."""
    return type(error)(
        [
            Violation(_spelled(broken.field, names), broken.description, broken.rule)
            for broken in error.violations
        ]
    )


def _spelled(field: str, names: Names) -> str:
    for pattern, replacement in names:
        field = pattern.sub(replacement, field)
    return field


def messages_at(places: Sequence[int]) -> Names:
    """Name messages by their places in the caller's own list, where not all of them were sent on."""

    def name(found: re.Match[str]) -> str:
        return f"messages[{places[int(found[1])]}]"

    return [(_MESSAGE, name)]


def texts(error: InvalidRequest) -> str:
    """Return every complaint, in one line."""
    return "; ".join(
        f"{broken.field}: {broken.description}" if broken.field else broken.description
        for broken in error.violations
    )
