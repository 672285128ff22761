"""Events as the bytes of a response, made once each.

`ChatResponse`, `GenerateResponse` and `ResumeStreamResponse` hold one CompletionEvent as their field 1, so one event's
bytes serve them all (tests/unit/test_inference_frames.py holds them to that). Nearly all events are deltas of text: theirs
are put together by hand, in a third of the time that building and serialising three nested messages takes. Everything
else goes through protobuf.
"""

from ollamesh.inference.v1.completion_pb2 import ChatResponse

from services.inference.arrived import Delta
from services.inference.completion import Event
from services.inference.wire.events import event
from services.inference.wire.varints import varint

# A field's number and how its value is encoded, in one byte (protobuf.dev/programming-guides/encoding).
_RESPONSE_EVENT = b"\x0a"
_EVENT_SEQUENCE = b"\x08"
_EVENT_DELTA = b"\x2a"
_DELTA_TEXT = b"\x0a"
_DELTA_THINKING = b"\x12"
_DELTA_TOKEN_COUNT = b"\x20"


def frame(numbered: Event) -> bytes:
    """Return the serialised response that carries an event."""
    match numbered.body:
        case Delta(tool_calls=(), logprobs=()) as delta:
            return _text_frame(numbered.sequence, delta)
        case _:
            return ChatResponse(event=event(numbered)).SerializeToString()


def _text_frame(sequence: int, delta: Delta) -> bytes:
    content = b""
    if delta.text:
        text = delta.text.encode()
        content = _DELTA_TEXT + varint(len(text)) + text
    if delta.thinking:
        thinking = delta.thinking.encode()
        content += _DELTA_THINKING + varint(len(thinking)) + thinking
    if delta.token_count:
        content += _DELTA_TOKEN_COUNT + varint(delta.token_count)
    whole = _EVENT_SEQUENCE + varint(sequence) + _EVENT_DELTA + varint(len(content)) + content
    return _RESPONSE_EVENT + varint(len(whole)) + whole
