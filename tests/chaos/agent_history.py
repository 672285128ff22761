"""What was seen of runs while things failed, and whether that is what the agent service promises.

Pure: whoever makes trouble gathers a History, and `faults` says in words what is wrong with it. Nothing may be missing
and nothing may be there twice: events, messages, or what tools did.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ollamesh.agent.v1.run_pb2 import Run, RunEvent
from ollamesh.agent.v1.thread_pb2 import ROLE_ASSISTANT, ROLE_TOOL, ROLE_USER, Message

from tests.fakes import run_grammar


@dataclass(slots=True, kw_only=True)
class Watched:
    """What one watcher saw, over as many streams as it took; `after` is where it began."""

    after: int = 0
    events: list[RunEvent] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Worked:
    """A run that was accepted, as it is told in the end."""

    run: Run
    events: Sequence[RunEvent]
    watched: Sequence[Watched] = ()


@dataclass(slots=True, kw_only=True)
class History:
    runs: Sequence[Worked]
    threads: Mapping[str, Sequence[Message]] = field(default_factory=dict)
    effects: Sequence[str] = ()  # What tools did, each as "RUN:CALL".
    keyed_tool: str = "run_python"  # Whose effects they are.


def faults(history: History) -> list[str]:
    """Return what is wrong."""
    return [
        *(fault for worked in history.runs for fault in _told(worked)),
        *(fault for worked in history.runs for fault in _seen(worked)),
        *_overlapping(history.runs),
        *(fault for thread_id in history.threads for fault in _said(history, thread_id)),
        *_done(history),
    ]


def _told(worked: Worked) -> Iterator[str]:
    """By the grammar, to one end, which is the run's."""
    name, events = worked.run.run_id, worked.events
    try:
        run_grammar.check(events)
    except (AssertionError, KeyError) as error:
        yield f"{name}: {error or type(error).__name__}"
        return
    finished = events[-1].finished
    if (finished.status, finished.usage) != (worked.run.status, worked.run.usage):
        yield f"{name}: it ended as {finished}, and is told as {worked.run}"
    if worked.run.last_sequence != events[-1].sequence:
        yield f"{name}: its last event is {events[-1].sequence}, and not {worked.run.last_sequence}"


def _seen(worked: Worked) -> Iterator[str]:
    """The same, from wherever and whenever."""
    for watched in worked.watched:
        expected = list(worked.events[watched.after :])
        if watched.events != expected:
            numbers = [event.sequence for event in watched.events]
            yield f"{worked.run.run_id}: a watcher after {watched.after} saw {numbers} of {len(worked.events)}"


def _overlapping(runs: Sequence[Worked]) -> Iterator[str]:
    """No two runs of a thread work at the same time. One that was ended while it waited has not worked."""
    by_thread: dict[str, list[Worked]] = {}
    for worked in runs:
        if not any(event.HasField("step_started") for event in worked.events):
            continue
        by_thread.setdefault(worked.run.thread_id, []).append(worked)
    for of_thread in by_thread.values():
        of_thread.sort(key=_begun_ns)
        for one, other in pairwise(of_thread):
            if _begun_ns(other) < one.events[-1].event_time.ToNanoseconds():
                yield f"{other.run.run_id} began before {one.run.run_id} had ended"


def _begun_ns(worked: Worked) -> int:
    return worked.events[0].event_time.ToNanoseconds()


def _said(history: History, thread_id: str) -> Iterator[str]:
    """Run after run, each call with its result behind it, and as the events tell it."""
    messages = history.threads[thread_id]
    runs = [
        each.run_id
        for place, each in enumerate(messages)
        if place == 0 or messages[place - 1].run_id != each.run_id
    ]
    if len(set(runs)) != len(runs):
        yield f"thread {thread_id}: messages of runs are mixed: {runs}"
    worked = {each.run.run_id: each for each in history.runs}
    for run_id in dict.fromkeys(runs):
        own = [message for message in messages if message.run_id == run_id]
        yield from _formed(run_id, own)
        if run_id in worked:
            yield from _agreeing(worked[run_id], own)


def _formed(run_id: str, messages: Sequence[Message]) -> Iterator[str]:
    if messages[0].role != ROLE_USER or any(each.role == ROLE_USER for each in messages[1:]):
        yield f"{run_id}: it does not begin with the question, or goes on with another"
    open_calls: list[str] = []
    for message in messages:
        if message.role == ROLE_TOOL:
            if message.tool_call_id not in open_calls:
                yield f"{run_id}: a result of {message.tool_call_id}, which nobody called"
            else:
                open_calls.remove(message.tool_call_id)
        elif open_calls:
            yield f"{run_id}: {open_calls} have no result"
            open_calls = []
        if message.role == ROLE_ASSISTANT:
            open_calls = [call.tool_call_id for call in message.tool_calls]
            if not message.content and not open_calls:
                yield f"{run_id}: an empty message"
    if open_calls:
        yield f"{run_id}: {open_calls} have no result"


def _agreeing(worked: Worked, messages: Sequence[Message]) -> Iterator[str]:
    """What was said is what was told."""
    told = run_grammar.text_of(worked.events)
    said = "".join(message.content for message in messages if message.role == ROLE_ASSISTANT)
    if told != said:
        yield f"{worked.run.run_id}: {told!r} was told, and {said!r} said"
    returned = {
        event.tool_returned.tool_call_id: event.tool_returned.content
        for event in worked.events
        if event.HasField("tool_returned")
    }
    results = {each.tool_call_id: each.content for each in messages if each.role == ROLE_TOOL}
    if returned != results:
        yield f"{worked.run.run_id}: calls returned {returned}, and the thread has {results}"


def _done(history: History) -> Iterator[str]:
    """Each call acts once at most, once if it is told to have succeeded, and nothing acts that was not called."""
    counts = Counter(history.effects)
    called: dict[str, bool] = {}
    for worked in history.runs:
        for event in worked.events:
            if event.HasField("tool_called") and event.tool_called.call.tool_name == history.keyed_tool:
                called[f"{worked.run.run_id}:{event.tool_called.call.tool_call_id}"] = False
            if event.HasField("tool_returned") and not event.tool_returned.failed:
                key = f"{worked.run.run_id}:{event.tool_returned.tool_call_id}"
                if key in called:
                    called[key] = True
    for key, succeeded in called.items():
        if counts[key] > 1 or (succeeded and counts[key] != 1):
            yield f"{key}: it was done {counts[key]} times"
    for key in counts.keys() - called.keys():
        yield f"{key}: it was done, and nobody has called it"
