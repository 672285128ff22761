"""One use of a slot as spans, however it goes."""

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Told

from services.common.tracing.current import current
from services.common.tracing.spans import Kind, Remote, Shape, Span
from services.common.tracing.tracer import Tracer
from services.inference.errors import QueueTimeout
from services.inference.ports import Fault, Trouble
from services.inference.tracing import SlotTrace
from tests.fakes.otlp_collector import Seen


class Kept:
    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._tracer = Tracer(lambda span: self.seen.append(Seen("inference", Told.FromString(span))))

    def call(self) -> Span:
        span = self._tracer.begin(Shape("call", Kind.SERVER))
        assert isinstance(span, Span)
        return span


def test_a_wait_in_vain_says_why() -> None:
    kept = Kept()
    call = kept.call()
    trace = SlotTrace("chat", [call])
    trace.fail(QueueTimeout())
    trace.fail(QueueTimeout())
    (wait,) = kept.seen
    assert (wait.name, wait.parent_id, wait.failed) == ("queue", call.span_id.hex(), True)
    assert wait.attributes == {"error.type": "QUEUE_TIMEOUT"}


def test_an_instance_that_fails_is_told_and_so_is_the_next() -> None:
    kept = Kept()
    trace = SlotTrace("chat", [kept.call()])
    with pytest.raises(Trouble), trace.asking("tiny:latest", "gpu-0:11434"):
        raise Trouble(Fault.STALLED, "words of somebody else")
    with trace.asking("tiny:latest", "[::1]:11435") as span:
        assert current() is span
    trace.fail(QueueTimeout())  # It has had its slot.
    first, second = (one for one in kept.seen if one.name != "queue")
    assert (first.failed, first.span.status.message, second.failed) == (True, "STALLED", False)
    assert second.attributes["ollamesh.queue_s"] == 0, "it waited once"
    assert (second.attributes["server.address"], second.attributes["server.port"]) == ("::1", 11435)
    assert "words" not in str(first.span)


def test_nobody_who_is_not_recorded_is_told_of() -> None:
    kept = Kept()
    unsampled = Remote(bytes(range(16)), bytes(range(8)), is_sampled=False)
    for asked_by in ([], [None], [unsampled]):
        trace = SlotTrace("chat", asked_by)
        with trace.asking("tiny:latest", "gpu-0") as span:
            assert span is None
        trace.fail(QueueTimeout())
        assert trace.exemplar() is None
    assert kept.seen == []


def test_those_who_asked_together_are_linked() -> None:
    kept = Kept()
    calls = [kept.call() for _ in range(3)]
    with SlotTrace("embeddings", [None, *calls]).asking("tiny:latest", "gpu-0"):
        pass
    (made,) = (one for one in kept.seen if one.name != "queue")
    assert made.parent_id == calls[0].span_id.hex()
    assert [link.span_id for link in made.span.links] == [call.span_id for call in calls[1:]]
