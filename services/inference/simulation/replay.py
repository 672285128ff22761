"""The proof that a recording is whole: a fresh scheduler, given its inputs, decides the same, byte for byte."""

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from math import inf

from services.common.errors import MeshError
from services.inference.core.estimates import Estimates
from services.inference.core.hosts import Capacity
from services.inference.core.jobs import Job
from services.inference.core.recording import OUTPUTS, STOPPED, RecordingScheduler
from services.inference.core.usage import Usage
from services.inference.simulation.fields import Fields, Malformed
from services.inference.simulation.policies import read_policy
from services.inference.simulation.trace import PRIORITIES, header_of, parse_line, prefixes_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a replay."""

    line_count: int  # That are the same.
    difference: str = ""  # The first one; empty if there is none.
    note: str = ""  # Why the recording ends where it does, if that is not the end of what happened.


def verify(lines: Iterable[str]) -> Verdict:
    """Replay a recording and compare. Raises Malformed if it is none."""
    expected: deque[str] = deque()
    scheduler: RecordingScheduler | None = None
    count = 0
    for count, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            return Verdict(line_count=count - 1, note=f"line {count} is cut off")
        if not expected:  # Whatever was called has been compared: this is the next call.
            row = parse_line(line, count)
            if row.text("kind") == STOPPED:
                return Verdict(line_count=count - 1, note=f"it was stopped: {row.text('reason', '')}")
            if scheduler is None:
                scheduler = _scheduler(row, expected)
            elif row.text("kind") in OUTPUTS:
                difference = f"line {count} is\n  {line.strip()}\nand the replay has nothing there"
                return Verdict(line_count=count - 1, difference=difference)
            else:
                _feed(scheduler, row)
        if line != expected[0]:
            difference = f"line {count} is\n  {line.strip()}\nand the replay has\n  {expected[0].strip()}"
            return Verdict(line_count=count - 1, difference=difference)
        expected.popleft()
    if not count:
        raise Malformed("line 1: there is none")
    return Verdict(line_count=count, note="it ends within a call" if expected else "")


def _scheduler(row: Fields, written: deque[str]) -> RecordingScheduler:
    """Return a scheduler as the header says it was made. What it writes goes to `written`, line by line."""
    if not header_of(row):
        raise Malformed(f"{row.where}: the file is no recording, it has arrivals only")
    estimates = Estimates()
    exported = row.table("estimates")
    estimates.restore({name: exported.plain(name) for name in exported.names()})
    return RecordingScheduler(
        read_policy(row.table("policy")),
        estimates,
        write=lambda text: written.extend(text.splitlines(keepends=True)),
        alias=str,  # Names were replaced when it was recorded.
    )


def _feed(scheduler: RecordingScheduler, row: Fields) -> None:
    """Make the call that an input's line stands for."""
    kind = row.text("kind")
    call = _CALLS.get(kind)
    if call is None:
        raise row.wrong("kind", "is not that of an input")
    try:
        with suppress(MeshError):  # A refusal is a decision, and has been written.
            call(scheduler, row)
    except (KeyError, AssertionError) as error:
        raise Malformed(f"{row.where}: the scheduler cannot be told this {kind} here: {error!r}") from error


def _submit(scheduler: RecordingScheduler, row: Fields) -> None:
    deadline_at_s, expires_at_s = row.optional_number("deadline_at_s"), row.optional_number("expires_at_s")
    job = Job(
        ticket=row.whole("ticket"),
        tenant=row.text("tenant"),
        model=row.text("model"),
        priority=PRIORITIES[row.choice("priority", list(PRIORITIES))],
        arrived_at_s=row.number("arrived_at_s"),
        expires_at_s=inf if expires_at_s is None else expires_at_s,
        deadline_at_s=inf if deadline_at_s is None else deadline_at_s,
        prompt_token_count=row.whole("prompt_tokens"),
        output_token_max=row.whole("output_max"),
        prefixes=prefixes_of(row),
        avoid=frozenset(map(str, row.items("avoid"))),
    )
    scheduler.submit(job, row.number("at_s"))


def _withdraw(scheduler: RecordingScheduler, row: Fields) -> None:
    scheduler.withdraw(row.whole("ticket"))


def _end(scheduler: RecordingScheduler, row: Fields) -> None:
    usage = None
    if "usage" in row:
        fields = row.table("usage")
        usage = Usage(
            prompt_token_count=fields.whole("prompt_token_count"),
            prompt_s=fields.number("prompt_s"),
            output_token_count=fields.whole("output_token_count"),
            output_s=fields.number("output_s"),
            load_s=fields.number("load_s"),
        )
    scheduler.end(row.whole("ticket"), usage, row.number("at_s"))


def _observe(scheduler: RecordingScheduler, row: Fields) -> None:
    capacity = Capacity(
        instance=row.text("instance"),
        slots=row.whole("slots"),
        models=row.table("models").wholes(),
        loaded=row.table("loaded").wholes(),
        foreign=frozenset(map(str, row.items("foreign"))),
        slots_of=row.table("slots_of").wholes(),
        vram_bytes=row.whole("vram_bytes"),
        asked_at_s=row.number("asked_at_s"),
        **{
            wishes: frozenset(map(str, row.items(wishes)))
            for wishes in ("pinned", "wanted", "unwanted")
            if wishes in row  # Older recordings have none.
        },
    )
    scheduler.observe(capacity, row.number("at_s"))


def _loaded(scheduler: RecordingScheduler, row: Fields) -> None:
    scheduler.loaded(
        row.text("instance"),
        row.text("model"),
        ok=row.flag("ok"),
        load_s=row.number("load_s"),
        now_s=row.number("at_s"),
    )


def _unloaded(scheduler: RecordingScheduler, row: Fields) -> None:
    scheduler.unloaded(row.text("instance"), row.text("model"), row.number("at_s"))


def _decide(scheduler: RecordingScheduler, row: Fields) -> None:
    scheduler.decide(row.number("at_s"))


_CALLS: dict[str, Callable[[RecordingScheduler, Fields], None]] = {
    "submit": _submit,
    "withdraw": _withdraw,
    "end": _end,
    "observe": _observe,
    "loaded": _loaded,
    "unloaded": _unloaded,
    "decide": _decide,
}
