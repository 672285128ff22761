"""What came when: a trace is one JSON object a line, the first of which says what the file is.

    {"kind": "header", "version": 1}
    {"at_s": 0.0, "model": "llama3.2:3b", "prompt_tokens": 200, "output_tokens": 150}
    {"at_s": 0.7, "model": "llama3.2:3b", "prompt_tokens": 9, "output_tokens": 40, "tenant": "a", "deadline_s": 30}

A recording (core/recording.py) is one too, with "recorded": true: recorded.py finds the arrivals in it. Times are
seconds from any beginning, and do not fall. No prompts: an arrival says how many tokens, and which of them it has
in common with others (`conversation`, `prefixes`).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.inference.core.jobs import Priority
from services.inference.core.names import key
from services.inference.core.prefixes import Prefix
from services.inference.core.recording import VERSION
from services.inference.simulation.fields import Fields, Malformed

TOKENS_MAX = 10_000_000
QUEUE_TIMEOUT_S = 60.0
PRIORITIES = {priority.name.lower(): priority for priority in Priority}
ARRIVALS_MAX = 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request as the simulation needs it."""

    at_s: float
    model: str  # A key, see core/names.py.
    prompt_tokens: int
    output_tokens: int  # What the answer will have; 0 is an embedding. The scheduler is not told.
    tenant: str = "anonymous"
    priority: Priority = Priority.DEFAULT
    output_max: int = 0  # The request's own limit, which the scheduler is told; 0 is none.
    deadline_s: float | None = None  # From its arrival; later its caller has gone, and it counts as missed.
    queue_timeout_s: float = QUEUE_TIMEOUT_S
    leaves_after_s: float | None = None  # When its caller leaves whatever happens.
    conversation: str = ""  # Its prompt begins with all that was said in it before.
    prefixes: tuple[Prefix, ...] = ()  # Or these are its beginnings, the longest first.


def parse_arrivals(rows: Iterable[Fields]) -> list[Arrival]:
    """Return the arrivals of a trace, whose header was read already."""
    arrivals: list[Arrival] = []
    for row in rows:
        arrival = _arrival(row)
        if arrivals and arrival.at_s < arrivals[-1].at_s:
            raise row.wrong("at_s", f"is before that of the line above, {arrivals[-1].at_s:g}")
        if len(arrivals) >= ARRIVALS_MAX:
            raise Malformed(f"{row.where}: more than {ARRIVALS_MAX:,} arrivals")
        arrivals.append(arrival)
    return arrivals


def parse_lines(lines: Iterable[str]) -> Iterator[Fields]:
    return (parse_line(line, number) for number, line in enumerate(lines, 1))


def parse_line(line: str, number: int) -> Fields:
    where = f"line {number}"
    try:
        row: object = json.loads(line)
    except (ValueError, RecursionError):
        raise Malformed(f"{where}: is not JSON") from None
    return Fields(row, where=where)


def header_of(row: Fields) -> bool:
    """Check a header, and return whether it is that of a recording."""
    row.choice("kind", ["header"])
    version = row.whole("version")
    if version != VERSION:
        raise row.wrong("version", f"is not {VERSION}, the only one that is understood")
    recorded = "recorded" in row and row.flag("recorded")
    if not recorded:
        row.plain("recorded")
        row.done()
    return recorded


def _arrival(row: Fields) -> Arrival:
    row.choice("kind", ["arrival"], "arrival")
    output_tokens = row.whole("output_tokens", high=TOKENS_MAX)
    prompt_tokens = row.whole("prompt_tokens", high=TOKENS_MAX)
    arrival = Arrival(
        at_s=row.number("at_s"),
        tenant=row.text("tenant", "anonymous"),
        model=key(row.text("model")),
        priority=PRIORITIES[row.choice("priority", list(PRIORITIES), "default")],
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        output_max=row.whole("output_max", 0, high=TOKENS_MAX),
        deadline_s=row.optional_number("deadline_s"),
        queue_timeout_s=row.number("queue_timeout_s", QUEUE_TIMEOUT_S),
        leaves_after_s=row.optional_number("leaves_after_s"),
        conversation=row.text("conversation", ""),
        prefixes=prefixes_of(row),
    )
    row.done()
    if not prompt_tokens and not output_tokens:
        raise Malformed(f"{row.where}: prompt_tokens and output_tokens are both 0")
    return arrival


def prefixes_of(row: Fields) -> tuple[Prefix, ...]:
    """Return the beginnings of a prompt, the longest first."""
    found: list[Prefix] = []
    for place, value in enumerate(row.items("prefixes")):
        fields = Fields(value, where=f"{row.where}: prefixes[{place}]")
        found.append(Prefix(key=fields.text("key"), token_count=fields.whole("tokens", high=TOKENS_MAX)))
        fields.done()
    counts = [prefix.token_count for prefix in found]
    if counts != sorted(counts, reverse=True):
        raise row.wrong("prefixes", "is not ordered, the longest first")
    return tuple(found)
