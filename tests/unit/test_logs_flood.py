"""A log is bounded in lines and in what a line holds, and says what it left out."""

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
import structlog

from services.common.logs.counts import LogCounts
from services.common.logs.flood import (
    ALL_BURST,
    EVENT_BURST,
    EVENT_PER_S,
    EVENTS_MAX,
    LEFT_OUT,
    TELL_AFTER_S,
    FloodFilter,
)
from services.common.logs.lines import LINE_CHARS_MAX, Lines
from services.common.logs.redaction import Redactor


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counts() -> LogCounts:
    return LogCounts()


@pytest.fixture
def flood(clock: Clock, counts: LogCounts) -> FloodFilter:
    return FloodFilter(clock=clock, counts=counts)


def record(event: str, logger: str = "x") -> logging.LogRecord:
    made = logging.LogRecord(logger, logging.WARNING, "", 0, "", (), None)
    made.msg = {"event": event}  # As structlog hands it on.
    return made


def let_through(flood: FloodFilter, event: str, count: int) -> int:
    return sum(flood.filter(record(event)) for _ in range(count))


def test_an_event_has_a_budget_and_others_keep_theirs(flood: FloodFilter, counts: LogCounts) -> None:
    assert let_through(flood, "store_failed", 10 * EVENT_BURST) == EVENT_BURST
    assert let_through(flood, "redis_away", 1) == 1
    assert counts.repeated_count == 9 * EVENT_BURST


def test_the_budget_fills_again_and_the_next_line_says_what_was_left_out(
    flood: FloodFilter, clock: Clock
) -> None:
    let_through(flood, "store_failed", EVENT_BURST + 7)
    clock.now_s += 1.0
    line = record("store_failed")
    assert flood.filter(line)
    assert getattr(line, LEFT_OUT) == 7
    assert let_through(flood, "store_failed", 100) == int(EVENT_PER_S) - 1


def test_what_is_not_followed_by_another_is_told_all_the_same(flood: FloodFilter, clock: Clock) -> None:
    let_through(flood, "store_failed", EVENT_BURST + 7)
    assert flood.untold() == {}, "not at once"
    clock.now_s += TELL_AFTER_S
    assert flood.untold() == {"store_failed": 7}
    assert flood.untold() == {}
    let_through(flood, "store_failed", 1000)
    assert sum(flood.rest().values()) > 0


def test_all_events_together_have_a_budget(flood: FloodFilter, counts: LogCounts) -> None:
    told = sum(flood.filter(record(f"event-{number}")) for number in range(2 * ALL_BURST))
    assert told == ALL_BURST
    assert counts.flood_count == ALL_BURST
    assert len(flood._events) <= EVENTS_MAX


def test_a_library_repeats_its_text_whatever_it_puts_into_it(flood: FloodFilter) -> None:
    told = 0
    for number in range(10 * EVENT_BURST):
        told += flood.filter(logging.LogRecord("lib", logging.WARNING, "", 0, "retry %d", (number,), None))
    assert told == EVENT_BURST


@pytest.fixture
def render(counts: LogCounts) -> Iterator[Callable[..., dict[str, object]]]:
    lines = Lines("auth", Redactor(), counts=counts)

    def rendered(**event: object) -> dict[str, object]:
        line = lines.render(None, "info", dict(event))
        assert "\n" not in line
        assert len(line) <= LINE_CHARS_MAX
        found: dict[str, object] = json.loads(line)
        return found

    yield rendered
    structlog.reset_defaults()


def test_a_line_is_cut_to_what_matters(render: Callable[..., dict[str, object]], counts: LogCounts) -> None:
    wide = {f"field_{number}": "a b " * 400 for number in range(40)}
    line = render(event="bug", level="error", trace_id="t", **wide)
    assert line["event"] == "bug"
    assert line["trace_id"] == "t"
    assert line["service"] == "auth"
    assert int(str(line["cut_from_chars"])) > LINE_CHARS_MAX
    assert "field_0" not in line
    assert counts.cut_count == 1
    assert counts.lines["error"] == 1


def test_what_was_taken_out_is_counted(render: Callable[..., dict[str, object]], counts: LogCounts) -> None:
    assert render(event="x", password="hunter2")["password"] == "[redacted]"
    assert counts.redacted_count == 1
    render(event="x", reason="QUEUE_FULL")
    assert counts.redacted_count == 1


def test_a_line_break_does_not_make_two_lines() -> None:
    out = io.StringIO()
    out.write(
        Lines("auth", Redactor(), counts=LogCounts()).render(None, "info", {"event": "a\nb", "x": "\r\n"})
    )
    assert len(out.getvalue().splitlines()) == 1
