"""Spans as bytes: what the wire's own classes read of them, and their bounds."""

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Told
from opentelemetry.trace import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.trace.span import NonRecordingSpan, SpanContext, TraceFlags

from services.common.errors import Kind as Failure
from services.common.errors import MeshError
from services.common.grpc.traced import begun
from services.common.policy import POLICY
from services.common.tracing import encode, w3c
from services.common.tracing.current import bare_context, current, enter, inner, note, noted, recorded, within
from services.common.tracing.spans import DETAILS_MAX, EVENTS_MAX, Kind, Remote, Shape, Span
from services.common.tracing.tracer import Tracer
from tests.fakes.otlp_collector import Seen

SHAPE = Shape("work", Kind.CLIENT, {"db.system.name": "redis"})
TRACE, PARENT = bytes(range(1, 17)), bytes(range(1, 9))


class Kept:
    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def take(self, span: bytes) -> None:
        self.seen.append(Seen("test", Told.FromString(span)))

    def begin(self) -> Span:
        span = Tracer(self.take).begin(SHAPE)
        assert isinstance(span, Span)
        return span


def test_all_that_is_told_can_be_read_by_opentelemetrys_own_classes() -> None:
    kept = Kept()
    parent = Remote(TRACE, PARENT, is_sampled=True, state="vendor=1")
    span = Tracer(kept.take).begin(SHAPE, parent, started_ns=1_000)
    assert isinstance(span, Span)
    values: dict[str, encode.Value] = {
        "text": "grüße",
        "long": "x" * 10_000,
        "yes": True,
        "no": False,
        "one": 1,
        "less": -5,
        "large": 1 << 40,
        "half": 0.5,
        "several": ["a", "b"],
        "none": [],
    }
    span.set(values)
    span.event("happened", {"one": 1}, at_ns=1_500)
    span.link(Remote(TRACE[::-1], PARENT[::-1], is_sampled=True))
    span.fail("REASON")
    span.end(2_000)
    (seen,) = kept.seen
    told = seen.span
    assert (told.trace_id, told.parent_span_id, len(told.span_id)) == (TRACE, PARENT, 8)
    assert (told.name, seen.kind, told.trace_state) == ("work", "CLIENT", "vendor=1")
    assert (told.start_time_unix_nano, told.end_time_unix_nano) == (1_000, 2_000)
    assert seen.attributes == {"db.system.name": "redis", **values, "error.type": "REASON"}
    assert (told.events[0].name, told.events[0].time_unix_nano) == ("happened", 1_500)
    assert (told.links[0].trace_id, told.links[0].span_id) == (TRACE[::-1], PARENT[::-1])
    assert (seen.failed, told.status.message) == (True, "REASON")
    assert told.flags == 0x301, "sampled, and its parent is known to be remote"
    request = encode.request(
        encode.resource_spans({"service.name": "s"}, "scope"), [told.SerializeToString()]
    )
    (resource,) = ExportTraceServiceRequest.FromString(request).resource_spans
    assert resource.resource.attributes[0].value.string_value == "s"
    assert resource.scope_spans[0].scope.name == "scope"
    assert resource.scope_spans[0].spans[0] == told


def test_numbers_and_truths_that_are_equal_are_not_the_same() -> None:
    kept = Kept()
    for value in (1, True, 0, False):
        span = kept.begin()
        span.set({"same": value})
        span.end()
    assert [type(seen.attributes["same"]) for seen in kept.seen] == [int, bool, int, bool]


def test_contexts_travel_as_opentelemetrys_do() -> None:
    theirs = TraceContextTextMapPropagator()
    for flags in (0, 1):
        context = SpanContext(
            int.from_bytes(TRACE, "big"),
            int.from_bytes(PARENT, "big"),
            is_remote=True,
            trace_flags=TraceFlags(flags),
        )
        carrier: dict[str, str] = {}
        theirs.inject(carrier, set_span_in_context(NonRecordingSpan(context)))
        ours = w3c.read(carrier.items())
        assert ours is not None
        assert (ours.trace_id, ours.span_id, ours.is_sampled) == (TRACE, PARENT, bool(flags))
        assert dict(w3c.written(ours)) == {"traceparent": carrier["traceparent"]}


def test_a_context_that_comes_twice_is_none() -> None:
    parent = w3c.header(Remote(TRACE, PARENT, is_sampled=True))
    assert w3c.read([("traceparent", parent), ("traceparent", parent)]) is None
    both = w3c.read([("traceparent", parent), ("tracestate", "a=1"), ("tracestate", "b=2")])
    too_long = w3c.parse(parent, "x" * 513)
    assert both is not None
    assert too_long is not None
    assert (both.state, too_long.state) == ("a=1,b=2", "")


def test_a_span_ends_once_and_not_before_it_began() -> None:
    kept = Kept()
    span = Tracer(kept.take).begin(SHAPE, started_ns=2_000)
    assert isinstance(span, Span)
    span.end(1_000)
    span.end()
    (seen,) = kept.seen
    assert seen.span.start_time_unix_nano == seen.span.end_time_unix_nano


def test_events_and_questions_to_stores_have_a_bound() -> None:
    kept = Kept()
    span = kept.begin()
    for _ in range(EVENTS_MAX + 5):
        span.event("again")
    details = [span.detail(SHAPE) for _ in range(DETAILS_MAX + 7)]
    span.end()
    assert len(kept.seen[0].events) == EVENTS_MAX
    assert sum(detail is not None for detail in details) == DETAILS_MAX
    assert kept.seen[0].attributes["ollamesh.untold_count"] == 7


def test_a_block_is_a_child_of_what_is_under_way() -> None:
    def block() -> None:
        kept = Kept()
        with inner(SHAPE) as none:
            assert none is None
        root = kept.begin()
        enter(root)
        with inner(SHAPE) as one:
            assert recorded() is one
        assert current() is root
        with within(None), inner(SHAPE) as none:
            assert none is None
        assert [seen.parent_id for seen in kept.seen] == [root.span_id.hex()]

    bare_context(None).run(block)


class Full(MeshError):
    kind, reason, message = Failure.EXHAUSTED, "QUEUE_FULL", "the secret is hunter2"


def test_a_failure_is_told_by_its_reason_and_never_by_its_words() -> None:
    def block() -> None:
        kept = Kept()
        enter(kept.begin())
        for error in (Full(), ValueError("hunter2"), GeneratorExit()):
            try:
                with inner(SHAPE):
                    raise error
            except BaseException:
                pass
        assert [(seen.attributes["error.type"], seen.failed) for seen in kept.seen] == [
            ("QUEUE_FULL", True),
            ("ValueError", True),
            ("CANCELLED", False),
        ]
        assert "hunter2" not in "".join(str(seen.span) for seen in kept.seen)

    bare_context(None).run(block)


def test_what_is_noted_goes_before_what_a_status_says() -> None:
    def block() -> None:
        kept = Kept()
        span = kept.begin()
        enter(span)
        note("QUEUE_FULL")
        noted("joined", to=Remote(TRACE, PARENT, is_sampled=True))
        span.fail("UNAVAILABLE")
        span.end()
        (seen,) = kept.seen
        assert seen.span.status.message == seen.attributes["error.type"] == "QUEUE_FULL"
        assert (seen.events, len(seen.span.links)) == (["joined"], 1)

    bare_context(None).run(block)


def test_roots_are_recorded_by_their_percentage_and_others_follow() -> None:
    kept = Kept()
    tracer = Tracer(kept.take, percent=25)
    count = sum(isinstance(tracer.begin(SHAPE), Span) for _ in range(4000))
    assert 700 < count < 1300
    assert isinstance(Tracer(kept.take, percent=0).begin(SHAPE, Remote(TRACE, PARENT, is_sampled=True)), Span)
    unsampled = Remote(TRACE, PARENT, is_sampled=False)
    assert Tracer(kept.take).begin(SHAPE, unsampled) is unsampled


def test_what_parts_ask_by_the_clock_has_no_trace_of_its_own() -> None:
    def block() -> None:
        tracer = Tracer(Kept().take)
        for method in (
            "/ollamesh.auth.v1.OAuthService/GetJwks",
            "/ollamesh.auth.v1.AuthService/RecordAuditEvents",
            "/ollamesh.auth.v1.AuthService/SettleQuota",
        ):
            assert method in POLICY
            assert begun(tracer, method, ()) is None
            assert recorded() is None
        # Asked within a call, it belongs to that; and what people ask always is told.
        header = f"00-{TRACE.hex()}-{PARENT.hex()}-01"
        assert isinstance(begun(tracer, method, [("traceparent", header)]), Span)
        assert isinstance(begun(tracer, "/ollamesh.auth.v1.AuthService/Login", ()), Span)

    bare_context(None).run(block)
