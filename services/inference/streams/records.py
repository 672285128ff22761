"""What is kept of a stream outside the process: a head, then its frames in pieces, then how it ended."""

from typing import TypeAlias

import msgspec
from msgspec import Struct

from services.common.errors import MeshError
from services.inference import errors
from services.inference.core.asks import Chat, Generate

REQUEST_BYTES_MAX = 256 * 1024  # Of what is kept to answer a request once more.


class Head(Struct, tag="head", frozen=True, kw_only=True, omit_defaults=True):
    """Who makes a stream, and from what.

    A stream that shares another one's frames names it as its `leader`, and has none of its own.
    """

    owner: str  # The process that makes it.
    leader: str = ""
    is_chat: bool = True
    priority: int = 0
    user_id: str = ""  # Who is charged for it.
    project_id: str = ""
    request: bytes = b""  # Empty if it must not be answered once more.
    by_token: bool = False  # A delta for each token.
    linger_s: float = 0.0  # How long it goes on after its last reader has left.
    name: bytes = b""  # Under which others join it; empty if they must not.


class Frames(Struct, tag="frames", frozen=True, kw_only=True):
    """Frames, the first of which has the number `first`."""

    owner: str
    first: int
    frames: list[bytes]


class Heir(Struct, tag="heir", frozen=True, kw_only=True):
    """From here on another process makes the stream; what its former owner may still append does not count."""

    owner: str
    after: int  # The last frame that both agree on.


class End(Struct, tag="end", frozen=True, kw_only=True, omit_defaults=True):
    """It is over: well, or with a failure."""

    owner: str
    failed: bool = False
    reason: str = ""  # Of the failure; empty for a bug.
    facts: dict[str, str] = {}
    retry_after_s: float | None = None


Record: TypeAlias = Frames | Heir | End

_encoder = msgspec.msgpack.Encoder()
_records = msgspec.msgpack.Decoder(Frames | Heir | End)
_heads = msgspec.msgpack.Decoder(Head)

_ERRORS = {
    kind.reason: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, MeshError) and hasattr(kind, "reason")
}


def encode(record: Head | Record) -> bytes:
    return _encoder.encode(record)


def decode_record(data: bytes) -> Record:
    """Raises msgspec.MsgspecError for what is none of ours."""
    record: Record = _records.decode(data)
    return record


def decode_head(data: bytes) -> Head:
    """Raises msgspec.MsgspecError for what is none of ours."""
    return _heads.decode(data)


def request_of(ask: Chat | Generate) -> bytes:
    """Return what an ask can be made from again; nothing if that is too much to keep."""
    data = _encoder.encode(ask)
    return data if len(data) <= REQUEST_BYTES_MAX else b""


def ask_of(head: Head) -> Chat | Generate:
    """Return what was asked for. The head must hold it."""
    if head.is_chat:
        return msgspec.msgpack.decode(head.request, type=Chat)
    return msgspec.msgpack.decode(head.request, type=Generate)


def end_of(owner: str, failure: Exception | None) -> End:
    match failure:
        case None:
            return End(owner=owner)
        case MeshError():
            return End(
                owner=owner,
                failed=True,
                reason=failure.reason,
                facts=failure.facts,
                retry_after_s=failure.retry_after_s,
            )
        case _:
            return End(owner=owner, failed=True)


def failure_of(end: End) -> Exception | None:
    if not end.failed:
        return None
    kind = _ERRORS.get(end.reason)
    if kind is None:
        return RuntimeError("the stream ended with a bug of its maker")
    return kind(retry_after_s=end.retry_after_s, **end.facts)
