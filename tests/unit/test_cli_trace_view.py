"""How a trace looks on terminals of all widths, and what a terminal is not sent."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from clients.cli.trace_view import TraceView, title
from clients.cli.waterfall import waterfall
from deploy.local.traces.records import Event, Link, Span

MS = 1_000_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CHAT = "/ollamesh.inference.v1.InferenceService/Chat"


def span(span_id: str, parent_id: str, name: str, service: str, ms: tuple[int, int], **more: object) -> Span:
    start_ns, end_ns = (1_796_040_901_594_000_000 + at * MS for at in ms)
    given = {"name": name, "service": service, "start_ns": start_ns, "end_ns": end_ns, **more}
    return Span(trace_id=TRACE, span_id=span_id * 16, parent_id=parent_id * 16, **given)  # type: ignore[arg-type]


SPANS = [
    span("1", "", CHAT, "ollamesh-edge", (0, 1000), attributes={"http.status_code": "200"}),
    span("2", "1", CHAT, "ollamesh-inference", (100, 1000), attributes={"gen_ai.usage.output_tokens": 40}),
    span("3", "2", "SELECT usage", "ollamesh-inference", (110, 112)),
    span(
        "4",
        "2",
        "execute",
        "ollamesh-sandbox",
        (500, 1100),
        status="error",
        status_message="the deadline\x1b[2J has\npassed",
        attributes={"error.type": "DEADLINE_EXCEEDED", "grpc.status_code": 4, "thread.id": 7},
        events=(Event(name="killed", time_ns=1_796_040_902_094_000_000, attributes={"signal": 9}),),
        links=(Link(trace_id="b" * 32, span_id="c" * 16),),
    ),
    span("6", "5", "late", "ollamesh-agent", (900, 950)),
]
HEADING = """\
trace 4bf92f3577b34da6a3ce929d0e0e4736
{began} · 1.10 s · 5 spans · 4 services · 1 error
"""
PAPER = """\
incomplete: 1 span that others began in did not come: the caller's own, still under way, not sampled, or lost

                                             0                       1.10 s
InferenceService/Chat    edge        1.00 s  ███████████████████████████
└ InferenceService/Chat  inference   900 ms    █████████████████████████
  │   gen_ai.usage.output_tokens=40
  ├ SELECT usage         inference  2.00 ms     ▏
  ├ (no span)                        388 ms     ┄┄┄┄┄┄┄┄┄┄┄
  └ ✗ execute            sandbox     600 ms               ████████████████
        the deadline\\x1b[2J has passed
        ended 100 ms after its parent
        error.type=DEADLINE_EXCEEDED · grpc.status_code=4 · killed at 500 ms
not here: span 5555555555555555, in which 1 span began
late                     agent      50.0 ms                          █
"""
ALL_OF_ONE = """\
  └ ✗ execute            sandbox     600 ms               ████████████████
        the deadline\\x1b[2J has passed
        ended 100 ms after its parent
        span 4444444444444444 · internal · ollamesh-sandbox
        error.type = DEADLINE_EXCEEDED
        grpc.status_code = 4
        thread.id = 7
        at 500 ms: killed · signal=9
        see trace bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb, span cccccccccccccccc
"""
NARROW = """\
InferenceService/C…   1.00 s
└ InferenceService…   900 ms
  │   gen_ai.usage.output_t…
  ├ SELECT usage     2.00 ms
  ├ (no span)         388 ms
  └ ✗ execute         600 ms
"""


def shown(*, width: int | None = None, shows_all: bool = False, left_out_count: int = 0) -> str:
    written = io.StringIO()
    console = Console(
        file=written,
        width=width or 10_000,
        force_terminal=width is not None,
        color_system=None,
        highlight=False,
        markup=False,
        emoji=False,
    )
    view = TraceView(console, shows_all=shows_all)
    view.show(TRACE, SPANS, waterfall(SPANS), left_out_count=left_out_count)
    return written.getvalue()


def test_on_paper_nothing_is_cut_off() -> None:
    first, when, rest = shown().split("\n", 2)
    assert f"{first}\n{when}\n" == HEADING.format(began=when.partition(" · ")[0])
    assert rest == PAPER


def test_all_that_is_known_of_a_span_is_shown_on_demand() -> None:
    assert ALL_OF_ONE in shown(shows_all=True)


def test_on_a_narrow_terminal_the_bars_go_first() -> None:
    assert NARROW in shown(width=28)


@pytest.mark.parametrize("width", [20, 30, 47, 48, 69, 70, 100])
@pytest.mark.parametrize("shows_all", [False, True])
def test_no_line_is_longer_than_the_terminal_and_no_control_character_gets_through(
    width: int,
    shows_all: bool,  # noqa: FBT001 - pytest's.
) -> None:
    text = shown(width=width, shows_all=shows_all)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert "✗" in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (CHAT, "InferenceService/Chat"),
        ("ollamesh.compat.ollama.v1.OllamaService/Chat", "OllamaService/Chat"),
        ("async envoy.service.auth.v3.Authorization.Check egress", "async Authorization.Check egress"),
        ("POST /api/chat", "POST /api/chat"),
        ("chat qwen2.v1.Q4", "chat qwen2.v1.Q4"),
        ("SELECT a\nFROM\x1b[0m", "SELECT a FROM\\x1b[0m"),
    ],
)
def test_methods_are_called_by_service_and_name(name: str, said: str) -> None:
    assert title(name) == said


def test_spans_that_were_left_out_are_said() -> None:
    assert "incomplete: 3 spans more came than a trace may have" in shown(left_out_count=3)
