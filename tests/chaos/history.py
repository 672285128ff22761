"""What clients sent and saw, and whether that is what the service wrote down.

Every client appends to a History. Afterwards `faults` compares it with itself (grammar, numbers, texts), with the usage
ledger, with what a resume gives, and with the tables of batches. It returns what it finds wrong, in words.

What may be missing is stated by the service, and is passed in: rows of what a process was making, or had ended within
`lost_s`, when it was killed. Nothing may be there twice, and nothing may be there that nobody asked for.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from uuid import UUID, uuid5

from ollamesh.client import CallError, chats

# What a caller can ask for again. A stream is expired, too, if who made it was killed before anything of it was kept.
RETRIABLE = {"UNAVAILABLE", "ABORTED", "RESOURCE_EXHAUSTED", "STREAM_EXPIRED"}


@dataclass(slots=True, kw_only=True)
class Chat:
    """One chat of a caller. `answer` is what it is to be told."""

    caller: str
    answer: str
    began_at_s: float
    events: list[chats.Event] = field(default_factory=list)
    came_at_s: list[float] = field(default_factory=list)  # When each event did.
    ended_at_s: float | None = None
    error: CallError | None = None

    @property
    def stream_id(self) -> str:
        """As it was told; empty if it was not."""
        return next((event.stream_id for event in self.events if isinstance(event, chats.Opened)), "")

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, chats.Delta))

    @property
    def finished(self) -> chats.Finished | None:
        last = self.events[-1] if self.events else None
        return last if isinstance(last, chats.Finished) else None


@dataclass(slots=True, kw_only=True)
class Batch:
    """A batch that was accepted, and the results that its reader saw: sequence, index, and tokens (-1: it failed)."""

    batch_id: UUID
    item_count: int
    results: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass(slots=True)
class History:
    """Append-only."""

    chats: list[Chat] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    killed_at_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the ledger."""

    entry_id: UUID
    caller: str
    stream_id: str
    output_token_count: int
    is_cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What the service wrote down."""

    ledger: Sequence[Row] = ()
    # By stream; None: it was not kept.
    resumed: Mapping[str, Sequence[chats.Event] | None] = field(default_factory=dict)
    batch_results: Mapping[UUID, Sequence[tuple[int, int]]] = field(
        default_factory=dict
    )  # Sequence and index.


def faults(history: History, written: Written, *, lost_s: float) -> list[str]:
    """Return what is wrong."""
    batch_entries = {
        uuid5(batch.batch_id, str(index)): batch
        for batch in history.batches
        for index in range(batch.item_count)
    }
    rows = [row for row in written.ledger if row.entry_id not in batch_entries]
    paid = [row for row in written.ledger if row.entry_id in batch_entries]
    return [
        *(fault for chat in history.chats for fault in _grammar(chat)),
        *_charged(history, rows, lost_s=lost_s),
        *_resumed(history, written.resumed, lost_s=lost_s),
        *_batched(history, written.batch_results),
        *_paid(history, paid),
    ]


def failed(chats_: Iterable[Chat]) -> list[CallError]:
    """Return the failures that a caller could not just try again."""
    return [
        chat.error
        for chat in chats_
        if chat.error is not None and not RETRIABLE & {chat.error.code.name, chat.error.reason}
    ]


def _grammar(chat: Chat) -> Iterator[str]:
    name = f"{chat.caller} ({chat.stream_id or 'not opened'})"
    numbers = [event.sequence for event in chat.events]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"{name}: events are numbered {numbers}"
    order = "".join(type(event).__name__[0] for event in chat.events)
    stripped = order.lstrip("O").lstrip("Q").lstrip("S").lstrip("D")
    if order.count("O") > 1 or order.count("S") > 1 or stripped not in {"", "F"}:
        yield f"{name}: events come as {order}"
    if chat.finished is None and chat.error is None:
        yield f"{name}: it ended with neither Finished nor a failure"
    if chat.finished is not None and chat.error is not None:
        yield f"{name}: it finished, and failed with {chat.error}"
    if chat.finished is not None and chat.text != chat.answer:
        yield f"{name}: it was told {chat.text!r} instead of {chat.answer!r}"
    if not chat.answer.startswith(chat.text):
        yield f"{name}: {chat.text!r} is not how {chat.answer!r} begins"


def _charged(history: History, rows: Sequence[Row], *, lost_s: float) -> Iterator[str]:
    for entry_id, count in Counter(row.entry_id for row in rows).items():
        if count > 1:
            yield f"entry {entry_id} is there {count} times"
    for stream_id, count in Counter(row.stream_id for row in rows).items():
        if count > 1:
            yield f"stream {stream_id} is charged {count} times"
    by_caller: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_caller[row.caller].append(row)
    for caller in {chat.caller for chat in history.chats} | by_caller.keys():
        asked = [chat for chat in history.chats if chat.caller == caller]
        yield from _charged_to(caller, asked, by_caller[caller], history.killed_at_s, lost_s)


def _charged_to(
    caller: str, asked: Sequence[Chat], rows: Sequence[Row], killed_at_s: Sequence[float], lost_s: float
) -> Iterator[str]:
    """A stream whose request was sent again has another name than its reader was told."""
    by_stream = {row.stream_id: row for row in rows}
    uncharged = [chat for chat in asked if chat.stream_id not in by_stream]
    nameless = [row for row in rows if row.stream_id not in {chat.stream_id for chat in asked}]
    for chat in asked:
        row = by_stream.get(chat.stream_id)
        if row is None or chat.finished is None:
            continue
        if (row.output_token_count, row.is_cancelled) != (chat.finished.output_token_count, False):
            yield f"{caller}: {row} for an answer of {chat.finished.output_token_count} tokens"
    if len(nameless) > len(uncharged):
        yield f"{caller}: {len(nameless)} rows of streams that nobody has opened: {nameless}"
    for chat in uncharged[len(nameless) :] if uncharged else ():
        if chat.finished is not None and not _may_be_lost(chat, killed_at_s, lost_s):
            yield f"{caller}: {chat.stream_id} is finished and was not charged"


def _may_be_lost(chat: Chat, killed_at_s: Sequence[float], lost_s: float) -> bool:
    """Whether who has made it may have been killed before it had written down that it was over."""
    assert chat.ended_at_s is not None, "it finished"
    return any(chat.began_at_s <= at_s <= chat.ended_at_s + lost_s for at_s in killed_at_s)


def _untimed(event: chats.Event) -> chats.Event:
    if not isinstance(event, chats.Finished):
        return event
    return replace(event, queue_s=0.0, load_s=0.0, prompt_s=0.0, output_s=0.0, total_s=0.0)


def _resumed(
    history: History, resumed: Mapping[str, Sequence[chats.Event] | None], *, lost_s: float
) -> Iterator[str]:
    """It takes another time if its end was told and not kept, and who takes it over makes that anew."""
    for seen in history.chats:
        if seen.stream_id not in resumed or seen.finished is None:
            continue
        chat, again = seen, resumed[seen.stream_id]
        may_be_lost = _may_be_lost(chat, history.killed_at_s, lost_s)
        if again is None:
            if not may_be_lost:
                yield f"{chat.caller}: {chat.stream_id} is finished and was not kept"
            continue
        if may_be_lost:
            again = [_untimed(event) for event in again]
            chat = replace(chat, events=[_untimed(event) for event in chat.events])
        if list(again) != chat.events:
            first = next(
                (pair for pair in zip_longest(chat.events, again) if pair[0] != pair[1]), (None, None)
            )
            yield f"{chat.caller}: {chat.stream_id} is told otherwise when it is read again: {first}"


def _batched(history: History, rows: Mapping[UUID, Sequence[tuple[int, int]]]) -> Iterator[str]:
    for batch in history.batches:
        stored = list(rows.get(batch.batch_id, ()))
        seen = [(sequence, index) for sequence, index, _ in batch.results]
        if sorted(index for _, index in seen) != list(range(batch.item_count)):
            yield f"batch {batch.batch_id}: results for {sorted(index for _, index in seen)}"
        if [sequence for sequence, _ in seen] != list(range(1, len(seen) + 1)):
            yield f"batch {batch.batch_id}: results are numbered {[sequence for sequence, _ in seen]}"
        if sorted(stored) != sorted(seen):
            yield f"batch {batch.batch_id}: what was seen is not what is stored"


def _paid(history: History, rows: Sequence[Row]) -> Iterator[str]:
    charged = Counter(row.entry_id for row in rows)
    tokens = {row.entry_id: row.output_token_count for row in rows}
    for batch in history.batches:
        for _, index, token_count in batch.results:
            entry_id = uuid5(batch.batch_id, str(index))
            if charged[entry_id] != (token_count >= 0):
                yield f"batch {batch.batch_id}: item {index} is charged {charged[entry_id]} times"
            elif token_count >= 0 and tokens[entry_id] != token_count:
                yield (
                    f"batch {batch.batch_id}: item {index} is charged {tokens[entry_id]} tokens for {token_count}"
                )
