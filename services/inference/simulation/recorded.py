"""A recording as a trace: who came, and what it took.

What a recording cannot say is filled in. An answer that never came is taken to be as long as the average for
its model, within its limit; a caller whose answer was cut off is taken to have left then.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf
from statistics import fmean

from services.inference.simulation.fields import Fields, Malformed
from services.inference.simulation.trace import ARRIVALS_MAX, PRIORITIES, TOKENS_MAX, Arrival, prefixes_of

OUTPUT_TOKENS = 200  # Of an answer of a model that never gave one.


@dataclass(slots=True)
class _Story:
    """What the recording says of one request."""

    arrival: Arrival
    answered: bool = False  # If so, the arrival has the counts of its answer.
    over: bool = False  # Answered, or turned away: what is withdrawn now has not left.
    gone_at_s: float | None = None


def arrivals_of(rows: Iterable[Fields]) -> list[Arrival]:
    """Return the arrivals of a recording, whose header was read already; times begin with the first."""
    stories: dict[int, _Story] = {}
    now_s = 0.0
    for row in rows:
        now_s = row.number("at_s", now_s)
        match row.text("kind"):
            case "submit":
                _submitted(row, stories)
            case "end":
                _ended(row, stories, now_s)
            case "refuse" | "expire" | "displace" | "fail":
                _story(row, stories).over = True
            case "withdraw":
                story = _story(row, stories)
                if not story.over:
                    story.gone_at_s = now_s
            case _:
                pass
    return _told(stories)


def _submitted(row: Fields, stories: dict[int, _Story]) -> None:
    ticket = row.whole("ticket")
    if ticket in stories:  # It comes back from an instance that failed it.
        stories[ticket].over, stories[ticket].gone_at_s = False, None
        return
    if len(stories) >= ARRIVALS_MAX:
        raise Malformed(f"{row.where}: more than {ARRIVALS_MAX:,} arrivals")
    at_s = row.number("arrived_at_s")
    deadline_at_s = row.optional_number("deadline_at_s")
    stories[ticket] = _Story(
        Arrival(
            at_s=at_s,
            model=row.text("model"),
            prompt_tokens=row.whole("prompt_tokens", high=TOKENS_MAX),
            output_tokens=0,
            tenant=row.text("tenant"),
            priority=PRIORITIES[row.choice("priority", list(PRIORITIES))],
            output_max=row.whole("output_max", high=TOKENS_MAX),
            deadline_s=None if deadline_at_s is None else max(0.0, deadline_at_s - at_s),
            queue_timeout_s=max(0.0, row.number("expires_at_s", inf) - at_s),
            prefixes=prefixes_of(row),
        )
    )


def _ended(row: Fields, stories: Mapping[int, _Story], now_s: float) -> None:
    story = _story(row, stories)
    if "usage" not in row:
        story.gone_at_s = now_s
        return
    usage = row.table("usage")
    story.answered, story.over, story.gone_at_s = True, True, None
    story.arrival = replace(
        story.arrival,
        prompt_tokens=usage.whole("prompt_token_count", high=TOKENS_MAX),
        output_tokens=usage.whole("output_token_count", high=TOKENS_MAX),
    )


def _story(row: Fields, stories: Mapping[int, _Story]) -> _Story:
    story = stories.get(row.whole("ticket"))
    if story is None:
        raise row.wrong("ticket", "was never submitted")
    return story


def _told(stories: Mapping[int, _Story]) -> list[Arrival]:
    lengths: defaultdict[str, list[int]] = defaultdict(list)
    for story in stories.values():
        if story.answered:
            lengths[story.arrival.model].append(story.arrival.output_tokens)
    means = {model: round(fmean(counts)) for model, counts in lengths.items()}
    arrivals = []
    for story in sorted(stories.values(), key=lambda story: story.arrival.at_s):
        arrival = story.arrival
        if not story.answered:
            expected = means.get(arrival.model, OUTPUT_TOKENS)
            arrival = replace(arrival, output_tokens=min(expected, arrival.output_max or expected))
        if story.gone_at_s is not None:
            arrival = replace(arrival, leaves_after_s=max(0.0, story.gone_at_s - arrival.at_s))
        if not arrival.prompt_tokens and not arrival.output_tokens:
            arrival = replace(arrival, prompt_tokens=1)
        arrivals.append(arrival)
    began_s = arrivals[0].at_s if arrivals else 0.0
    return [replace(arrival, at_s=arrival.at_s - began_s) for arrival in arrivals]
