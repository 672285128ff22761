"""A trace as rows: whatever came, each span is in one of them, and what is odd is said."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.cli.waterfall import ALIKE_MAX, Folded, Gap, Missing, SpanRow, duration, waterfall
from deploy.local.traces.records import Span

MS = 1_000_000


def span(
    span_id: str,
    parent_id: str = "",
    *,
    ms: tuple[float, float] = (0, 100),
    name: str = "",
    status: str = "ok",
) -> Span:
    start_ns, end_ns = (1_000_000_000 + round(at * MS) for at in ms)
    return Span(
        trace_id="t",
        span_id=span_id,
        parent_id=parent_id,
        name=name or span_id,
        service="s",
        start_ns=start_ns,
        end_ns=end_ns,
        status=status,
    )


def drawn(*spans: Span) -> list[str]:
    """The rows in one line each."""
    lines = []
    for row in waterfall(spans).rows:
        match row:
            case SpanRow():
                lines.append(row.guides + "; ".join((row.span.name, *row.remarks)))
            case Gap():
                lines.append(f"{row.guides}gap of {duration(row.end_ns - row.start_ns)}")
            case Folded():
                lines.append(f"{row.guides}{row.count} {row.name}")
            case Missing():
                lines.append(f"missing {row.span_id}")
    return lines


def test_spans_are_a_tree_in_the_order_in_which_they_began() -> None:
    spans = [
        span("d", "c", ms=(52, 98)),
        span("c", "a", ms=(50, 100)),
        span("a"),
        span("b", "a", ms=(1, 49)),
        span("e", "b", ms=(2, 48)),
    ]
    assert drawn(*spans) == ["a", "├ b", "│ └ e", "└ c", "  └ d"]
    assert drawn(*reversed(spans)) == drawn(*spans)


def test_time_without_a_span_has_a_row_if_it_matters() -> None:
    spans = [span("a"), span("b", "a", ms=(20, 50)), span("c", "a", ms=(30, 40)), span("d", "a", ms=(55, 80))]
    assert drawn(*spans) == ["a", "├ gap of 20.0 ms", "├ b", "├ c", "├ d", "└ gap of 20.0 ms"]


def test_what_is_odd_about_a_span_and_its_parent_is_said() -> None:
    spans = [
        span("a", ms=(10, 90)),
        span("b", "a", ms=(5, 50)),
        span("c", "a", ms=(50, 120)),
        span("d", "a", ms=(60, 0)),
    ]
    assert drawn(*spans) == [
        "a",
        "├ b; began 5.00 ms before its parent",
        "├ c; ended 30.0 ms after its parent",
        "└ d; has no end",
    ]
    assert drawn(span("a"), span("b", "a", ms=(-0.5, 100.5))) == ["a", "└ b"], "clocks differ as much"


def test_orphans_come_last_under_who_is_missing() -> None:
    spans = [span("b", "x", ms=(0, 1)), span("a", ms=(0, 100)), span("c", "x", ms=(2, 3)), span("d", "y")]
    assert drawn(*spans) == ["a", "missing x", "b", "c", "missing y", "d"]
    assert waterfall(spans).missing_count == 2


def test_circles_end() -> None:
    spans = [span("a", "b", ms=(0, 9)), span("b", "a", ms=(0, 9)), span("self", "self", ms=(2, 3))]
    assert drawn(*spans) == ["a; is its own ancestor", "└ b", "self; is its own ancestor"]
    assert waterfall(spans).circle_count == 2


def test_of_many_alike_the_slowest_are_shown_and_failures_always() -> None:
    calls = [span(f"q{n}", "a", ms=(n, n + 1 + 0.001 * n), name="SELECT") for n in range(1, 21)]
    failed = span("bad", "a", ms=(30, 31), name="SELECT", status="error")
    lines = drawn(span("a"), *calls, failed)
    assert Counter(line[2:] for line in lines) == {
        "": 1,
        "SELECT": ALIKE_MAX + 1,
        f"{20 - ALIKE_MAX} more SELECT": 1,
        "gap of 69.0 ms": 1,
    }
    rows = waterfall([span("a"), *calls, failed], folds=False).rows
    assert sum(isinstance(row, SpanRow) for row in rows) == 22


def test_many_short_spans_are_one_row_unless_others_began_in_them() -> None:
    short = [span(f"q{n}", "a", ms=(n, n + 0.5), name=f"SQL {n}") for n in range(1, 9)]
    inner = span("inner", "q8", ms=(8, 8.4))
    lines = drawn(span("a"), *short, inner, span("long", "a", ms=(9, 100)))
    assert lines == ["a", "├ 7 short spans", "├ SQL 8", "│ └ inner", "└ long"]
    few = drawn(span("a"), *short[:ALIKE_MAX], span("long", "a", ms=(5, 100)))
    assert len(few) == 1 + ALIKE_MAX + 1


def test_a_chain_deeper_than_pythons_stack_is_drawn() -> None:
    chain = [span("0"), *(span(str(n), str(n - 1)) for n in range(1, 3000))]
    lines = drawn(*chain)
    assert len(lines) == 3000
    assert len(lines[-1]) < 40, "it is not indented for ever"


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(-1, 14), st.integers(0, 50), st.integers(0, 50)),
        min_size=1,
        unique_by=lambda drawn: drawn[0],
    )
)
def test_each_span_is_in_one_row(edges: list[tuple[int, int, int, int]]) -> None:
    spans = [
        span(str(own), "" if parent < 0 else str(parent), ms=(start, start + length), name="n")
        for own, parent, start, length in edges
    ]
    found = waterfall(spans)
    shown = [row.span.span_id for row in found.rows if isinstance(row, SpanRow)]
    folded_count = sum(row.count for row in found.rows if isinstance(row, Folded))
    assert len(shown) == len(set(shown))
    assert len(shown) + folded_count == len(spans)
    everything = waterfall(spans, folds=False).rows
    assert {row.span.span_id for row in everything if isinstance(row, SpanRow)} == {
        each.span_id for each in spans
    }


@pytest.mark.parametrize(
    ("time_ns", "said"),
    [(0, "0 ns"), (999, "999 ns"), (1_500, "1.50 µs"), (15 * MS, "15.0 ms"), (1_234 * MS, "1.23 s")],
)
def test_times_have_three_digits(time_ns: int, said: str) -> None:
    assert duration(time_ns) == said
