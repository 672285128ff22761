"""Requests as their proto's rules want them, or InvalidRequest with every violation."""

from collections.abc import Callable
from typing import Any

import protovalidate
from google.protobuf.message import DecodeError, Message

from services.common.errors import InvalidRequest, Violation


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
    if violations := protovalidate.collect_violations(message):
        raise InvalidRequest([_violation(violation.proto) for violation in violations])


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
