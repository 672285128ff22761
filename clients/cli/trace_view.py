"""Draws a trace for people: a tree of its spans, and beside it a bar for the time of each."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from clients.cli.output import quantity
from clients.cli.printable import printable
from clients.cli.waterfall import Folded, Gap, Missing, Row, SpanRow, Waterfall, duration
from deploy.local.traces.records import Event, Span

PAPER_WIDTH = 100  # Where there is no terminal.
WIDTH_MIN, BAR_FROM_WIDTH, SERVICE_FROM_WIDTH = 20, 48, 70
DURATION_WIDTH, SERVICE_WIDTH_MAX, BAR_PART = 8, 12, 0.3
COLOURS = ("cyan", "green", "magenta", "blue", "yellow")
# What is shown of a span unless all is wanted: what it was about and what became of it.
KEY_PREFIXES = ("error.type", "ollamesh.", "gen_ai.request.model", "gen_ai.tool.name", "gen_ai.usage.")
STATUS_KEYS = (
    "grpc.status_code",
    "http.status_code",
    "http.response.status_code",
    "rpc.grpc.status_code",
)
WELL = ("0", "200", "OK", "")
KEY_COUNT_MAX, VALUE_CHARACTERS_MAX = 6, 60
PACKAGE = re.compile(r"/?\b(?:[a-z]\w*\.)+v\d+\.(?=[A-Z]\w*[./]\w)")  # Of a service.
OUR_SERVICE = "ollamesh-"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    name: int
    service: int  # 0: it is not shown, nor is its column.
    bar: int


class TraceView:
    def __init__(self, console: Console, *, shows_all: bool = False) -> None:
        self._console, self._shows_all = console, shows_all

    def show(self, trace_id: str, spans: Sequence[Span], drawn: Waterfall, *, left_out_count: int) -> None:
        services = sorted({span.service for span in spans})
        colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(services)}
        columns = self._columns(drawn, services)
        for line in _heading(trace_id, spans, drawn, left_out_count):
            self._console.print(line)
        self._console.print()
        self._print(_scale(drawn, columns))
        for row in drawn.rows:
            for line in self._lines(row, drawn, columns, colours):
                self._print(line)

    def _print(self, line: Text) -> None:
        line.rstrip()
        if self._console.is_terminal:
            line.truncate(self._console.width, overflow="ellipsis")
        self._console.print(line, soft_wrap=True)

    def _columns(self, drawn: Waterfall, services: Sequence[str]) -> _Columns:
        width = max(WIDTH_MIN, self._console.width if self._console.is_terminal else PAPER_WIDTH)
        names = max(cell_len(_label(row)) for row in drawn.rows)
        bar = round(width * BAR_PART) if width >= BAR_FROM_WIDTH else 0
        service = 0
        if len(services) > 1 and width >= SERVICE_FROM_WIDTH:
            service = min(SERVICE_WIDTH_MAX, max(cell_len(_service(name)) for name in services))
        taken = DURATION_WIDTH + 1 + (bar + 2 if bar else 0) + (service + 2 if service else 0)
        name = min(names, max(10, width - taken)) if self._console.is_terminal else names
        return _Columns(name=name, service=service, bar=bar)

    def _lines(
        self, row: Row, drawn: Waterfall, columns: _Columns, colours: Mapping[str, str]
    ) -> Iterator[Text]:
        match row:
            case Missing(span_id=span_id, child_count=count):
                yield Text(f"not here: span {span_id}, in which {quantity(count, 'span')} began", "yellow")
                return
            case Gap():
                bar = Text(_bar(row.start_ns, row.end_ns, drawn, columns.bar, "┄"), "dim")
                yield _line(row, columns, "", row.end_ns - row.start_ns, bar, "dim")
            case Folded():
                bar = Text(_bar(row.start_ns, row.end_ns, drawn, columns.bar, "░"), colours[row.service])
                yield _line(row, columns, row.service, row.total_ns, bar, "dim")
            case SpanRow(span=span):
                colour = "red" if span.is_error else colours[span.service]
                bar = Text(_bar(span.start_ns, span.end_ns, drawn, columns.bar, "█"), colour)
                yield _line(row, columns, span.service, span.duration_ns, bar, "red" if span.is_error else "")
                yield from self._details(row, drawn)

    def _details(self, row: SpanRow, drawn: Waterfall) -> Iterator[Text]:
        span = row.span
        if span.status_message:
            yield _detail(row, span.status_message, "red")
        for remark in row.remarks:
            yield _detail(row, remark, "yellow")
        if not self._shows_all:
            told = [_pair(key, value) for key, value in span.attributes.items() if _is_key(key, value)]
            told += [f"{event.name} at {_after(event, drawn)}" for event in span.events]
            if told:
                yield _detail(row, " · ".join(told[:KEY_COUNT_MAX]), "dim")
            return
        yield _detail(row, f"span {span.span_id} · {span.kind} · {span.service}", "dim")
        for key, value in span.attributes.items():
            yield _detail(row, f"{key} = {value}", "dim")
        for event in span.events:
            facts = " · ".join(_pair(key, value) for key, value in event.attributes.items())
            said = f"at {_after(event, drawn)}: {event.name}"
            yield _detail(row, said + (f" · {facts}" if facts else ""), "dim")
        for link in span.links:
            yield _detail(row, f"see trace {link.trace_id}, span {link.span_id}", "dim")


def _heading(trace_id: str, spans: Sequence[Span], drawn: Waterfall, left_out_count: int) -> Iterator[Text]:
    yield Text(f"trace {trace_id}", "bold")
    began = datetime.fromtimestamp(drawn.start_ns / 1e9).astimezone()
    facts = [
        f"{began:%Y-%m-%d %H:%M:%S}.{began.microsecond // 1000:03d}",
        duration(drawn.duration_ns),
        quantity(len(spans), "span"),
        quantity(len({span.service for span in spans}), "service"),
    ]
    error_count = sum(span.is_error for span in spans)
    yield Text(" · ".join(facts), "dim").append(
        f" · {quantity(error_count, 'error')}" if error_count else "", "red"
    )
    if drawn.missing_count:
        yield Text(
            f"incomplete: {quantity(drawn.missing_count, 'span')} that others began in did not come: "
            "the caller's own, still under way, not sampled, or lost",
            "yellow",
        )
    if drawn.circle_count:
        yield Text("wrong: some spans are their own ancestors", "yellow")
    if left_out_count:
        yield Text(
            f"incomplete: {quantity(left_out_count, 'span')} more came than a trace may have", "yellow"
        )


def _scale(drawn: Waterfall, columns: _Columns) -> Text:
    line = Text(" " * columns.name, "dim")
    if columns.service:
        line.append(" " * (columns.service + 2))
    line.append(" " * (DURATION_WIDTH + 1))
    if columns.bar:
        end = duration(drawn.duration_ns)
        line.append("  0" + end.rjust(columns.bar - 1))
    return line


def _line(
    row: SpanRow | Gap | Folded, columns: _Columns, service: str, time_ns: int, bar: Text, style: str
) -> Text:
    label = _label(row)
    line = Text(_cut(label, columns.name), style)
    line.stylize("dim", 0, len(row.guides))
    if columns.service:
        line.append("  " + _cut(_service(service), columns.service), "dim")
    line.append(" " + duration(time_ns).rjust(DURATION_WIDTH))
    if columns.bar:
        line.append("  ").append_text(bar)
    return line


def _label(row: Row) -> str:
    match row:
        case SpanRow(span=span):
            mark = "✗ " if span.is_error else ""
            return f"{row.guides}{mark}{title(span.name)}"
        case Folded():
            return f"{row.guides}{row.count} {_one_line(row.name)}"
        case Gap():
            return f"{row.guides}(no span)"
        case Missing():
            return ""


def _detail(row: SpanRow, text: str, style: str) -> Text:
    return Text(row.below, "dim").append(f"  {_one_line(text)}", style)


def _after(event: Event, drawn: Waterfall) -> str:
    """Since the beginning of the trace."""
    return duration(max(0, event.time_ns - drawn.start_ns))


def _is_key(key: str, value: Any) -> bool:  # noqa: ANN401 - JSON's values.
    """Whether it is worth a reader's time. That a call went well is not."""
    if key in STATUS_KEYS:
        return str(value) not in WELL
    return key.startswith(KEY_PREFIXES) and value not in ("", False, None)


def _pair(key: str, value: Any) -> str:  # noqa: ANN401 - JSON's values.
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    short = text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…"
    return f"{key}={short}"


def title(name: str) -> str:
    """A method without the package of its service."""
    return _one_line(PACKAGE.sub("", name))


def _one_line(text: str) -> str:
    return printable(text).replace("\n", " ").replace("\t", " ")


def _service(name: str) -> str:
    return _one_line(name.removeprefix(OUR_SERVICE))


def _cut(text: str, width: int) -> str:
    return set_cell_size(text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…", width)


def _bar(start_ns: int, end_ns: int, drawn: Waterfall, width: int, block: str) -> str:
    if not width:
        return ""
    whole_ns = max(1, drawn.duration_ns)
    begin = min(width - 1, (start_ns - drawn.start_ns) * width // whole_ns)
    count = round((max(start_ns, end_ns) - start_ns) * width / whole_ns)
    return " " * begin + (block * min(count, width - begin) or "▏")
