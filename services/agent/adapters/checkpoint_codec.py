"""How a checkpoint is written down: strict msgpack, sealed, and bound to where it stands.

Whoever can write to the database cannot have us run code (only the types of messages are ever made from what is read,
and nothing is pickled), read what a run knows (AES-GCM by the organisation's own key), or give a run another's past: a
payload opens only for the organisation, thread, namespace, checkpoint or version, and kind that it was sealed for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ormsgpack
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata
from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from services.agent.errors import CheckpointUnreadable
from services.common.seals import Seals

KINDS = frozenset({"null", "bytes", "bytearray", "msgpack"})  # All that the serializer writes without pickle.
# Small values are in the checkpoint itself: a row for each would cost more than it saves.
INLINE_CHARS_MAX = 256

# Only the types that LangGraph itself lists as harmless: messages, times, and the like.
STRICT = JsonPlusSerializer(pickle_fallback=False, allowed_json_modules=None, allowed_msgpack_modules=None)


@dataclass(frozen=True, slots=True)
class Sealed:
    kind: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Body:
    """A checkpoint less the values that are blobs of their own."""

    checkpoint: dict[str, Any]
    metadata: dict[str, Any]
    blob_channels: Sequence[str]  # Whose values are elsewhere.


class Codec:
    """Writes and reads payloads of one organisation. Reading raises CheckpointUnreadable."""

    def __init__(self, seals: Seals, organization_id: str) -> None:
        self._seals, self._organization_id = seals, organization_id

    def seal(self, value: object, *place: str) -> Sealed:
        """`place` is all that tells where the payload stands; the kind is added to it."""
        kind, data = STRICT.dumps_typed(value)
        return Sealed(kind, self._seal(data, kind, place))

    def open(self, sealed: Sealed, *place: str) -> object:
        if sealed.kind not in KINDS:
            raise CheckpointUnreadable
        data = self._open(sealed.payload, sealed.kind, place)
        return _loaded(sealed.kind, data)

    def moved(self, sealed: Sealed, source: Sequence[str], target: Sequence[str]) -> bytes:
        """The payload, sealed for another place."""
        return self._seal(self._open(sealed.payload, sealed.kind, source), sealed.kind, target)

    def seal_body(self, body: Body, *place: str) -> bytes:
        return self.seal(
            [body.checkpoint, body.metadata, list(body.blob_channels)], "checkpoint", *place
        ).payload

    def open_body(self, payload: bytes, *place: str) -> Body:
        opened = self.open(Sealed("msgpack", payload), "checkpoint", *place)
        assert isinstance(opened, list)
        return Body(*opened)

    def _seal(self, data: bytes, kind: str, place: Sequence[str]) -> bytes:
        return self._seals.seal(data, tenant=self._organization_id, name=_name(kind, place))

    def _open(self, payload: bytes, kind: str, place: Sequence[str]) -> bytes:
        data = self._seals.open(payload, tenant=self._organization_id, name=_name(kind, place))
        if data is None:
            raise CheckpointUnreadable
        return data


def body_of(checkpoint: Checkpoint, metadata: CheckpointMetadata) -> Body:
    values, versions = checkpoint["channel_values"], checkpoint["channel_versions"]
    inline = {
        channel: value for channel, value in values.items() if channel not in versions or _is_small(value)
    }
    return Body(
        checkpoint={**checkpoint, "channel_values": inline},
        metadata=dict(metadata),
        blob_channels=[channel for channel in values if channel not in inline],
    )


def _is_small(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= INLINE_CHARS_MAX
    return value is None or isinstance(value, bool | int | float)


def _name(kind: str, place: Sequence[str]) -> bytes:
    # No part holds a NUL: PostgreSQL refuses it in text.
    return "\0".join((*place, kind)).encode()


def _loaded(kind: str, data: bytes) -> object:
    blocked: list[SerdeEvent] = []
    # A type that is not allowed is otherwise replaced by its fields, which a run would take for what it knew.
    forget = register_serde_event_listener(blocked.append)
    try:
        value = STRICT.loads_typed((kind, data))
    except (ormsgpack.MsgpackDecodeError, ValueError, TypeError) as error:
        raise CheckpointUnreadable from error
    finally:
        forget()
    if blocked:
        raise CheckpointUnreadable
    return value
