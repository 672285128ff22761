"""The store of traces: what it keeps, for how long, and what it makes of anything that may come."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Wire
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from deploy.local.traces import store as store_module
from deploy.local.traces.intake import SPAN_BYTES_MAX, take_in
from deploy.local.traces.reading import NoTracesError, TraceReader, reading
from deploy.local.traces.records import FILE, Span
from deploy.local.traces.store import TraceStore

BYTES_MAX = 1 << 20
AGE_MAX_S = 1000.0
random_bytes = random.Random(1).randbytes


class Clock:
    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


class Place:
    """A store of small bounds that can be closed and opened."""

    def __init__(self, home: Path) -> None:
        self.home, self.clock = home, Clock()
        self.open()

    def open(self) -> None:
        self.store = TraceStore(self.home / FILE, bytes_max=BYTES_MAX, age_max_s=AGE_MAX_S, clock=self.clock)

    def add(self, request: ExportTraceServiceRequest) -> int:
        """How many were rejected."""
        taken, rejected_count = take_in(request)
        self.store.add(taken)
        return rejected_count

    def spans(self, trace_id: bytes) -> dict[str, Span]:
        with reading(self.home) as reader:
            return {span.name: span for span in reader.spans(trace_id.hex())}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.store.close()


def request(*spans: Wire, service: str = "ollamesh-auth") -> ExportTraceServiceRequest:
    made = ExportTraceServiceRequest()
    resource = made.resource_spans.add()
    if service:
        resource.resource.attributes.add(key="service.name").value.string_value = service
    resource.scope_spans.add().spans.extend(spans)
    return made


def wire(trace_id: bytes, name: str = "a", *, parent: bytes = b"", start_s: float = 5.0, **text: str) -> Wire:
    made = Wire(
        trace_id=trace_id,
        span_id=random_bytes(8),
        parent_span_id=parent,
        name=name,
        start_time_unix_nano=round(start_s * 1e9),
        end_time_unix_nano=round((start_s + 1) * 1e9),
    )
    for key, value in text.items():
        made.attributes.add(key=key.replace("__", ".")).value.string_value = value
    return made


def latest(place: Place) -> list[str]:
    with reading(place.home) as reader:
        return [one.trace_id for one in reader.latest(1000)]


def test_what_came_is_read_as_it_was(place: Place) -> None:
    trace_id = random_bytes(16)
    root = wire(trace_id, "root", note="x")
    child = wire(trace_id, "child", parent=root.span_id)
    child.kind, child.status.message = Wire.SPAN_KIND_CLIENT, "no"
    child.status.code = Status.STATUS_CODE_ERROR
    child.attributes.add(key="count").value.int_value = 3
    child.attributes.add(key="share").value.double_value = 0.5
    child.attributes.add(key="raw").value.bytes_value = b"\x01"
    child.attributes.add(key="list").value.array_value.values.add().bool_value = True
    child.attributes.add(key="nothing")
    child.events.add(name="e", time_unix_nano=7)
    child.links.add(trace_id=b"\x02" * 16, span_id=b"\x03" * 8)
    assert place.add(request(root, child)) == 0
    found = place.spans(trace_id)
    assert found["root"].parent_id == ""
    assert found["root"].attributes == {"note": "x"}
    assert found["child"].parent_id == found["root"].span_id
    assert (found["child"].kind, found["child"].status, found["child"].status_message) == (
        "client",
        "error",
        "no",
    )
    assert found["child"].attributes == {
        "count": 3,
        "share": 0.5,
        "raw": "01",
        "list": [True],
        "nothing": None,
    }
    assert (found["child"].events[0].name, found["child"].links[0].trace_id) == ("e", "02" * 16)
    assert {span.service for span in found.values()} == {"ollamesh-auth"}


def test_order_and_repetition_do_not_matter(place: Place) -> None:
    trace_id = random_bytes(16)
    early, late = wire(trace_id, "early", start_s=1), wire(trace_id, "late", start_s=9)
    place.add(request(late))
    place.add(request(early, service="ollamesh-edge"))
    place.add(request(late, early, early))
    with reading(place.home) as reader:
        (summary,) = reader.latest(5)
    assert (summary.name, summary.service, summary.span_count) == ("early", "ollamesh-edge", 2)
    assert (summary.start_ns, summary.end_ns) == (1_000_000_000, 10_000_000_000)


def test_what_is_no_span_is_counted_and_the_rest_is_kept(place: Place) -> None:
    trace_id = random_bytes(16)
    bad = [wire(trace_id) for _ in range(8)]
    bad[0].trace_id = bytes(16)
    bad[1].trace_id = b"short"
    bad[2].span_id = b""
    bad[3].span_id = bytes(8)
    bad[4].parent_span_id = b"abc"
    bad[5].start_time_unix_nano = 0
    bad[6].start_time_unix_nano = 2**64 - 1
    bad[7].end_time_unix_nano = 2**64 - 1
    good = wire(trace_id, "good")
    good.end_time_unix_nano = 0
    assert place.add(request(*bad, good)) == len(bad)
    assert place.spans(trace_id).keys() == {"good"}
    assert place.add(request(wire(random_bytes(16)), service="")) == 0
    assert place.add(ExportTraceServiceRequest()) == 0


def test_a_huge_span_keeps_its_place_and_nothing_more(place: Place) -> None:
    trace_id = random_bytes(16)
    huge = wire(trace_id, "n" * 5000, text="x" * SPAN_BYTES_MAX)
    place.add(request(huge))
    (span,) = place.spans(trace_id).values()
    assert (span.is_reduced, span.attributes, span.name) == (True, {}, "n" * 256)


def test_values_in_values_end_somewhere(place: Place) -> None:
    trace_id = random_bytes(16)
    deep = wire(trace_id, "deep")
    value = deep.attributes.add(key="deep").value
    for _ in range(40):
        value = value.array_value.values.add()
    place.add(request(deep))
    assert "deep" in place.spans(trace_id)["deep"].attributes


def test_a_trace_has_so_many_spans_and_no_more(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SPANS_PER_TRACE_MAX", 10)
    trace_id = random_bytes(16)
    place.add(request(*(wire(trace_id, str(number)) for number in range(13))))
    assert len(place.spans(trace_id)) == 10
    with reading(place.home) as reader:
        (summary,) = reader.latest(5)
    assert (summary.span_count, summary.left_out_count) == (10, 3)


def test_the_traces_that_are_silent_for_longest_go_first_and_whole(place: Place) -> None:
    trace_ids = [random_bytes(16) for _ in range(400)]
    for trace_id in trace_ids:
        place.clock.now_s += 1
        place.add(request(*(wire(trace_id, f"{n}", text="x" * 1000) for n in range(5))))
    kept = latest(place)
    assert 50 < len(kept) < 300
    assert set(kept) == {trace_id.hex() for trace_id in trace_ids[-len(kept) :]}
    assert all(len(place.spans(trace_id)) == 5 for trace_id in trace_ids[-len(kept) :])
    files = sum(path.stat().st_size for path in (place.home / FILE).parent.iterdir())
    assert files < BYTES_MAX * 2 + 5_000_000, "the log of changes has a bound of its own"
    assert place.spans(trace_ids[0]) == {}


def test_a_trace_larger_than_the_store_is_let_go_of(place: Place) -> None:
    place.add(request(*(wire(b"\x07" * 16, str(n), text="x" * 20_000) for n in range(100))))
    assert latest(place) == []
    place.add(request(wire(b"\x08" * 16)))
    assert latest(place) == ["08" * 16]


def test_old_traces_go_also_when_nothing_comes(place: Place) -> None:
    old, young = random_bytes(16), random_bytes(16)
    place.add(request(wire(old)))
    place.clock.now_s += AGE_MAX_S - 1
    place.add(request(wire(young)))
    assert len(latest(place)) == 2
    place.clock.now_s += 2
    place.store.trim()
    assert latest(place) == [young.hex()]


def test_what_was_kept_is_there_after_a_restart_and_after_a_kill(place: Place) -> None:
    first, second = random_bytes(16), random_bytes(16)
    place.add(request(wire(first)))
    place.store.close()
    assert latest(place) == [first.hex()], "readers need no writer"
    place.open()
    place.add(request(wire(second)))
    killed = place.store  # What it has not written into the file itself is in the log beside it.
    place.open()
    assert len(latest(place)) == 2
    killed.close()


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b""])
def test_a_file_that_is_no_store_is_put_aside(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    place = Place(tmp_path)
    place.add(request(wire(b"\x01" * 16)))
    assert latest(place) == ["01" * 16]
    assert file.with_name(f"{file.name}.broken").exists() == bool(content)
    place.store.close()


def test_a_damaged_store_and_one_of_another_version_are_put_aside(place: Place) -> None:
    place.add(request(*(wire(b"\x01" * 16, str(n), text="x" * 500) for n in range(500))))
    place.store.close()
    file = place.home / FILE
    content = bytearray(file.read_bytes())
    content[8192:100_000] = bytes(100_000 - 8192)
    file.write_bytes(content)
    place.open()
    assert latest(place) == []
    place.store.close()
    with sqlite3.connect(file) as base:
        base.execute("PRAGMA user_version = 99")
    base.close()
    place.open()
    assert latest(place) == []


def test_only_its_owner_can_read_it(place: Place) -> None:
    place.add(request(wire(b"\x01" * 16)))
    folder = (place.home / FILE).parent
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def found(place: Place, name: str) -> list[str]:
    with reading(place.home) as reader:
        return [one.trace_id for one in reader.find(name)]


def test_a_trace_is_found_by_its_id_and_by_what_else_people_know(place: Place) -> None:
    one, two = bytes.fromhex("ab" * 16), bytes.fromhex("ab" * 8 + "cd" * 8)
    answered = wire(one)
    answered.attributes.add(key="guid:x-request-id").value.string_value = "D2C3-1"
    place.add(request(answered, wire(one, ollamesh__run__id="run-7")))
    place.add(request(wire(two, ollamesh__run__id="run-7", start_s=1)))
    assert found(place, "AB" * 16) == [one.hex()]
    assert set(found(place, "abab")) == {one.hex(), two.hex()}
    assert found(place, "ab" * 8 + "c") == [two.hex()]
    assert found(place, "d2c3-1") == [one.hex()]
    assert set(found(place, "run-7")) == {one.hex(), two.hex()}
    assert found(place, "run-8") == found(place, "aba") == found(place, "' OR 1=1") == []
    place.clock.now_s += AGE_MAX_S + 1
    place.store.trim()
    assert found(place, "run-7") == []
    assert place.store._base.execute("SELECT count(*) FROM names").fetchone() == (0,), "nothing is left of it"


def test_readers_see_whole_additions_while_another_writes(place: Place) -> None:
    trace_id = random_bytes(16)
    place.add(request(wire(trace_id)))
    with reading(place.home) as reader:
        assert _count(reader, trace_id) == 1
        place.add(request(*(wire(trace_id, str(n)) for n in range(9))))
        assert _count(reader, trace_id) == 10


def _count(reader: TraceReader, trace_id: bytes) -> int:
    return len(reader.spans(trace_id.hex()))


def test_a_home_without_traces_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoTracesError, match="none were ever kept here"), reading(tmp_path):
        pass
    (tmp_path / FILE).parent.mkdir(parents=True)
    (tmp_path / FILE).write_bytes(b"nonsense" * 1000)
    with pytest.raises(NoTracesError, match="cannot be read"), reading(tmp_path) as reader:
        reader.latest(1)


def test_a_failed_write_keeps_nothing_of_it(place: Place) -> None:
    trace_id = random_bytes(16)
    place.store._base.execute("PRAGMA max_page_count = 20")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        place.add(request(*(wire(trace_id, str(n), text="x" * 3000) for n in range(100))))
    assert place.spans(trace_id) == {}
    place.store._base.execute("PRAGMA max_page_count = 100000")
    place.add(request(wire(trace_id)))
    assert len(place.spans(trace_id)) == 1
