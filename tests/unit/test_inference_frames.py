"""What is put together by hand is what protobuf would have written, for whichever response carries it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ollamesh.inference.v1 import completion_pb2 as pb

from services.inference.arrived import Delta
from services.inference.completion import Body, Event, Finished, Opened, Queued, Started
from services.inference.core.asks import ToolCall
from services.inference.ports import EndReason, Outcome, TokenLogprob
from services.inference.wire.events import event
from services.inference.wire.frames import frame

CARRIERS = (pb.ChatResponse, pb.GenerateResponse, pb.ResumeStreamResponse)
# Each number of bytes in a length, and what UTF-8 makes of text.
texts = st.text(max_size=200) | st.integers(0, 20_000).map(lambda count: "é" * count)
calls = st.lists(st.builds(ToolCall, id=st.text(), name=st.text(), arguments_json=st.text()), max_size=2)
logprobs = st.lists(st.builds(TokenLogprob, st.text(), st.floats(allow_nan=False), st.binary()), max_size=2)
deltas = st.builds(
    Delta, texts, texts, calls.map(tuple), st.integers(0, 2**31 - 1), logprobs.map(tuple)
) | st.builds(Delta, texts, texts, st.just(()), st.integers(0, 2**31 - 1))


@given(st.integers(1, 2**63 - 1), deltas)
def test_a_delta_s_bytes_are_protobuf_s_own(sequence: int, delta: Delta) -> None:
    numbered = Event(sequence, delta)
    expected = pb.ChatResponse(event=event(numbered))
    assert frame(numbered) == expected.SerializeToString(deterministic=True)


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize(
    "body",
    [
        Opened("s1"),
        Queued(3, 1.5),
        Started(model="tiny:latest", model_digest="d", instance="gpu"),
        Delta("a", "", (), 1),
        Finished(
            outcome=Outcome(reason=EndReason.STOP, context=(1, 2)),
            called_tools=False,
            queue_s=0.5,
            total_s=1.0,
        ),
    ],
    ids=lambda body: type(body).__name__,
)
def test_one_event_s_bytes_serve_every_response_that_carries_it(body: Body, carrier: Any) -> None:
    sealed = frame(Event(7, body))
    response = carrier.FromString(sealed)
    assert response.event.sequence == 7
    assert response.event.WhichOneof("event") == type(body).__name__.lower()
    assert response.SerializeToString(deterministic=True) == sealed
