"""An event as it travels: named, dated, and cut to what its proto allows."""

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from services.common.audit import Action, Happened, Outcome

NAME_CHARS_MAX = 128
OBJECT_CHARS_MAX = 256
REASON_CHARS_MAX = 64
DETAILS_MAX = 32
KEY_CHARS_MAX = 64
VALUE_CHARS_MAX = 1024
RECORD_BYTES_MAX = 256 * 1024  # Of all of these in UTF-8, with room to spare.


@dataclass(frozen=True, slots=True)
class Record:
    """One event. Its id is what makes it count once, however often it is sent."""

    event_id: uuid.UUID
    time_us: int  # Since the epoch.
    service: str
    happened: Happened


class _Line(msgspec.Struct, array_like=True, frozen=True):
    """A record in the spool. A new field goes to the end, with a default: a spool may be older than its reader."""

    event_id: uuid.UUID
    time_us: int
    service: str
    action: str
    outcome: str
    user_id: str
    organization_id: str
    object: str
    reason: str
    details: dict[str, str]


def record_of(happened: Happened, *, service: str, time_ns: int) -> Record:
    return Record(event_id(time_ns), time_ns // 1000, service, fitted(happened))


def event_id(time_ns: int) -> uuid.UUID:
    """A random id that begins with its time (UUID version 7), so that an index of them grows at its end."""
    value = (time_ns // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    return uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def fitted(happened: Happened) -> Happened:
    """The same, as a store can hold it: no longer than its fields, in Unicode, without NUL."""
    return Happened(
        action=happened.action,
        outcome=happened.outcome,
        user_id=_fitted(happened.user_id, NAME_CHARS_MAX),
        organization_id=_fitted(happened.organization_id, NAME_CHARS_MAX),
        object=_fitted(happened.object, OBJECT_CHARS_MAX),
        reason=_fitted(happened.reason, REASON_CHARS_MAX),
        details=_details(happened.details) if happened.details else {},
    )


def encoded(record: Record) -> bytes:
    happened = record.happened
    line = _Line(
        record.event_id,
        record.time_us,
        record.service,
        happened.action.name,
        happened.outcome.name,
        happened.user_id,
        happened.organization_id,
        happened.object,
        happened.reason,
        dict(happened.details),
    )
    return msgspec.json.encode(line)


def decoded(data: bytes) -> Record | None:
    """None for what is no record."""
    try:
        line = msgspec.json.decode(data, type=_Line)
        action, outcome = Action[line.action], Outcome[line.outcome]
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError):
        return None
    happened = Happened(
        action=action,
        outcome=outcome,
        user_id=line.user_id,
        organization_id=line.organization_id,
        object=line.object,
        reason=line.reason,
        details=line.details,
    )
    return Record(line.event_id, line.time_us, line.service, happened)


def _details(details: Mapping[str, str]) -> dict[str, str]:
    pairs = list(details.items())[:DETAILS_MAX]
    return {_fitted(key, KEY_CHARS_MAX): _fitted(value, VALUE_CHARS_MAX) for key, value in pairs if key}


def _fitted(text: str, chars_max: int) -> str:
    text = text[:chars_max]
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()  # Lone surrogates.
    return text.replace("\0", "\ufffd") if "\0" in text else text
