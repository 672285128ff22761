"""Requests as their proto's rules want them, or InvalidRequest with every violation."""

from collections.abc import Callable
from typing import Any

import protovalidate
from google.protobuf.message import DecodeError, Message

from services.common.errors import InvalidRequest, Violation

# By full name; filled when servicers are imported, and only read afterwards.
_FURTHER: dict[str, Callable[[Any], list[Violation]]] = {}


def further(message: type[Message], rule: Callable[[Any], list[Violation]]) -> None:
    """Have `rule`, which a proto cannot say, hold of such messages; what breaks it is told with all the rest."""
    _FURTHER[message.DESCRIPTOR.full_name] = rule


def parse(deserializer: Callable[[bytes], Any], received: bytes) -> Any:
    """Parse and validate one request."""
    try:
        request = deserializer(received)
    except DecodeError:
        # Also text that is not UTF-8, which protobuf does not let a string field hold.
        raise InvalidRequest([Violation("", "the bytes are not a valid message of this method")]) from None
    if isinstance(request, Message):
        check(request)
    return request


def check(message: Message) -> None:
    """Raise InvalidRequest if `message` breaks rules of its proto."""
    broken = [_violation(violation.proto) for violation in protovalidate.collect_violations(message)]
    if rule := _FURTHER.get(message.DESCRIPTOR.full_name):
        broken += rule(message)
    if broken:
        raise InvalidRequest(broken)


def _violation(broken: Any) -> Violation:
    return Violation(_path(broken.field) if broken.field else "", broken.message or "", broken.rule_id or "")


def _path(field: Any) -> str:
    """`messages[2].content`, as AIP-193 wants field paths."""
    path = ""
    for element in field.elements:
        path += ("." if path else "") + element.field_name
        if element.subscript is not None:
            path += f"[{element.subscript.value!r}]"
    return path
