"""Keeps streams for those who read them again: outside, where all replicas see them, or here while that is away."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from services.inference.errors import InstanceLost
from services.inference.streams.limits import Limits
from services.inference.streams.live import Live
from services.inference.streams.metrics import StreamMetrics, Takeover
from services.inference.streams.ports import Away, SharedLog, Writing, Written
from services.inference.streams.records import End, Frames, Head, Heir, Record, end_of

AT_ONCE_MAX = 64  # Streams that are written with one question,
AT_ONCE_BYTES = 256 * 1024  # or so many bytes of one or more, for an answer has to come in time.
WAITING_MAX = 4096  # Of names and releases each; the oldest are dropped first.
# What an ended stream takes beside its frames: some ten objects. A bound of bytes would be none without it.
STREAM_BYTES = 4096
LAST_ROUNDS_MAX = 64  # When the process ends.


@dataclass(slots=True, eq=False)
class _Kept:
    live: Live
    is_seen: bool = False  # By others, perhaps: something was sent to be written.
    head_is_written: bool = False
    written_count: int = 0  # Frames.
    ended_at_s: float | None = None

    @property
    def held_bytes(self) -> int:
        return self.live.completion.log.held_bytes + STREAM_BYTES


class Keeper:
    """Writes what is new of every stream, all of them together, every so often.

    What is not written when a process is killed is lost to the others: at most the last `write_every_s`.
    """

    def __init__(
        self,
        shared: SharedLog | None,
        limits: Limits,
        metrics: StreamMetrics,
        *,
        process_id: str,
        forget: Callable[[Live], None],
    ) -> None:
        """`forget` hears that a stream is kept here no longer."""
        self._shared = shared
        self._limits = limits
        self._metrics = metrics
        self._process_id = process_id
        self._forget = forget
        self._kept: dict[str, _Kept] = {}  # By the stream's name.
        self._aliases: deque[tuple[str, str, Head]] = deque(maxlen=WAITING_MAX)
        self._releases: deque[tuple[bytes, str]] = deque(maxlen=WAITING_MAX)

    def keep(self, live: Live, *, written_count: int = 0) -> None:
        """Keep a stream that is made here. `written_count` of its frames are written already."""
        self._kept[live.stream_id] = _Kept(live, written_count=written_count)

    def alias(self, tenant: str, stream_id: str, head: Head) -> None:
        """Let a stream be found that shares another one's frames."""
        if self._shared is not None:
            self._aliases.append((tenant, stream_id, head))

    def release(self, name: bytes, stream_id: str) -> None:
        """Let others make what a stream was claimed to be made by."""
        if self._shared is not None:
            self._releases.append((name, stream_id))

    async def try_to_let_go(self) -> None:
        """Release at once, if that is possible."""
        with suppress(Away):
            await self.let_go()

    async def let_go(self) -> None:
        """Release at once what is to be released; what cannot be is released later. Raises Away."""
        assert self._shared is not None, "nothing is shared"
        while self._releases:
            name, stream_id = self._releases.popleft()
            try:
                await self._shared.release(name, stream_id)
            except Away:
                self._releases.appendleft((name, stream_id))
                raise

    def has_another(self, live: Live) -> bool:
        """Whether another one that is made here has the same name."""
        kept = self._kept.get(live.stream_id)
        return kept is not None and kept.live is not live

    def drop(self, live: Live) -> None:
        """Keep it no longer. One that is only followed may have the name of another that is made here."""
        kept = self._kept.get(live.stream_id)
        if kept is not None and kept.live is live:
            del self._kept[live.stream_id]

    def drop_unseen(self, live: Live) -> bool:
        """Keep it no longer, if nobody else can have seen it; return whether it is so."""
        kept = self._kept.get(live.stream_id)
        if kept is not None and kept.live is live and kept.is_seen:
            return False
        self.drop(live)
        return True

    async def run(self, cancelled: Callable[[str], None]) -> None:
        """Write until cancelled. `cancelled` hears which streams another replica was asked to cancel."""
        while True:
            await asyncio.sleep(self._limits.write_every_s)
            self._forget_old()
            self._metrics.held(sum(kept.live.completion.log.held_bytes for kept in self._kept.values()))
            if self._shared is None or not self._shared.up:
                continue
            try:
                for stream_id in await self._shared.alive():
                    cancelled(stream_id)
                await self.write()
            except Away:
                self._metrics.write_failed()

    async def close(self) -> None:
        """Write what is left, if that is possible at once, and say that this process is gone."""
        if self._shared is None:
            return
        with suppress(Away):
            for _ in range(LAST_ROUNDS_MAX):
                if not await self.write():
                    break
        with suppress(Away):
            await self._shared.farewell()

    async def write(self) -> bool:
        """Write what is new; return whether something was. Raises Away: then it is as new as before."""
        assert self._shared is not None, "nothing is shared"
        await self.let_go()
        while some := list(islice(self._aliases, AT_ONCE_MAX)):
            await self._shared.write([_alias(*one) for one in some])
            for _ in some:
                self._aliases.popleft()
        fresh = [(kept, writing) for kept in list(self._kept.values()) if (writing := self._news(kept))]
        for some_fresh in _batches(fresh):
            outcomes = await self._shared.write([writing for _, writing in some_fresh])
            for (kept, writing), outcome in zip(some_fresh, outcomes, strict=True):
                self._written(kept, writing, outcome)
        return bool(fresh)

    def _news(self, kept: _Kept) -> Writing | None:
        """What of a stream is not written yet, or a part of it; all that has arrived is told by that."""
        live, completion = kept.live, kept.live.completion
        if not live.is_decided and not completion.ended:
            return None
        while completion.pull():
            pass
        completion.look()
        log, keeping = completion.log, live.keeping
        records: list[Record] = []
        if keeping.heir_count and not kept.head_is_written:
            records.append(Heir(owner=self._process_id, after=keeping.heir_after))
        frames, last = log.after(kept.written_count, bytes_max=AT_ONCE_BYTES), log.last
        if frames:
            first = max(kept.written_count + 1, log.first)
            last = first + len(frames) - 1
            records.append(Frames(owner=self._process_id, first=first, frames=frames))
        if completion.ended and last == log.last:
            records.append(end_of(self._process_id, completion.failure))
        if not records:
            return None
        kept.is_seen = True
        return Writing(
            tenant=keeping.tenant,
            stream_id=live.stream_id,
            head=None if kept.head_is_written else keeping.head,
            records=records,
            first=log.first,
            last=last,
            heir_count=keeping.heir_count,
            heir_after=keeping.heir_after,
            is_new=kept.written_count == 0,
        )

    def _written(self, kept: _Kept, writing: Writing, outcome: Written) -> None:
        match outcome:
            case Written.LOST:
                kept.head_is_written, kept.written_count = False, 0
            case Written.FENCED:
                self._drop_ended(kept)
                kept.live.abandon(InstanceLost())
                self._metrics.taken_over(Takeover.FENCED)
            case Written.KEPT:
                kept.head_is_written, kept.written_count = True, writing.last
                if any(isinstance(record, End) for record in writing.records):
                    self._drop_ended(kept)

    def _forget_old(self) -> None:
        """Forget what ended long ago, and the oldest of that if it is too much."""
        now_s = asyncio.get_running_loop().time()
        ended = [kept for kept in self._kept.values() if kept.live.completion.ended]
        for kept in ended:
            kept.ended_at_s = kept.ended_at_s or now_s
        held_bytes = sum(kept.held_bytes for kept in ended)
        for kept in sorted(ended, key=lambda each: each.ended_at_s or 0.0):
            age_s = now_s - (kept.ended_at_s or 0.0)
            if age_s < self._limits.kept_s and held_bytes <= self._limits.memory_bytes_max:
                break
            held_bytes -= kept.held_bytes
            self._drop_ended(kept)

    def _drop_ended(self, kept: _Kept) -> None:
        self.drop(kept.live)
        self._forget(kept.live)


def _alias(tenant: str, stream_id: str, head: Head) -> Writing:
    return Writing(tenant=tenant, stream_id=stream_id, head=head, records=(), first=1, last=0, heir_count=0)


def _batches(fresh: Sequence[tuple[_Kept, Writing]]) -> Iterator[list[tuple[_Kept, Writing]]]:
    """Part what is to be written, so that each part is written in time."""
    some: list[tuple[_Kept, Writing]] = []
    size_bytes = 0
    for kept, writing in fresh:
        own_bytes = sum(
            len(frame) for record in writing.records if isinstance(record, Frames) for frame in record.frames
        )
        if some and (len(some) == AT_ONCE_MAX or size_bytes + own_bytes > AT_ONCE_BYTES):
            yield some
            some, size_bytes = [], 0
        some.append((kept, writing))
        size_bytes += own_bytes
    if some:
        yield some
