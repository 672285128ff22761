"""Keeps streams for those who read them again: outside, where all replicas see them, or here while that is away."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from services.inference.streams.limits import Limits
from services.inference.streams.live import Live
from services.inference.streams.ports import Away, SharedLog, Writing
from services.inference.streams.records import Frames, Head, Heir, Record, end_of

AT_ONCE_MAX = 64  # Streams that are written with one question.
ALIASES_MAX = 4096  # That wait to be written.


@dataclass(slots=True, eq=False)
class _Kept:
    live: Live
    head_is_written: bool = False
    written_count: int = 0  # Frames.
    end_is_written: bool = False
    ended_at_s: float | None = None


class Keeper:
    """Writes what is new of every stream, all of them together, every so often.

    What is not written when a process is killed is lost to the others: at most the last `write_every_s`.
    """

    def __init__(
        self, shared: SharedLog | None, limits: Limits, *, process_id: str, forget: Callable[[Live], None]
    ) -> None:
        """`forget` hears that a stream is kept here no longer."""
        self._shared = shared
        self._limits = limits
        self._process_id = process_id
        self._forget = forget
        self._kept: dict[
            str, _Kept
        ] = {}  # By the stream's name; those that ended first come first among the ended.
        self._aliases: deque[tuple[str, str, Head]] = deque(maxlen=ALIASES_MAX)
        self.failed_count = 0  # Writings, since the start.

    def keep(self, live: Live, *, written_count: int = 0) -> None:
        """Keep a stream that is made here. `written_count` of its frames are written already."""
        self._kept[live.stream_id] = _Kept(live, written_count=written_count)

    def alias(self, tenant: str, stream_id: str, head: Head) -> None:
        """Let a stream be found that shares another one's frames."""
        if self._shared is not None:
            self._aliases.append((tenant, stream_id, head))

    def drop(self, live: Live) -> None:
        """Keep it no longer."""
        self._kept.pop(live.stream_id, None)

    async def run(self, cancelled: Callable[[str], None]) -> None:
        """Write until cancelled. `cancelled` hears which streams another replica was asked to cancel."""
        while True:
            await asyncio.sleep(self._limits.write_every_s)
            self._forget_old()
            if self._shared is None or not self._shared.up:
                continue
            try:
                for stream_id in await self._shared.alive():
                    cancelled(stream_id)
                await self.write()
            except Away:
                self.failed_count += 1

    async def close(self) -> None:
        """Write what is left, if that is possible at once, and say that this process is gone."""
        if self._shared is not None:
            with suppress(Away):
                await self.write()
            with suppress(Away):
                await self._shared.farewell()

    async def write(self) -> None:
        """Write all that is new. Raises Away."""
        assert self._shared is not None, "nothing is shared"
        aliases = [self._aliases.popleft() for _ in range(len(self._aliases))]
        await self._shared.write(
            [
                Writing(tenant=tenant, stream_id=name, head=head, records=(), first=1, last=0, heir_count=0)
                for tenant, name, head in aliases
            ]
        )
        fresh = [(kept, writing) for kept in list(self._kept.values()) if (writing := self._news(kept))]
        for start in range(0, len(fresh), AT_ONCE_MAX):
            some = fresh[start : start + AT_ONCE_MAX]
            await self._shared.write([writing for _, writing in some])
            for kept, writing in some:
                self._written(kept, writing)

    def _news(self, kept: _Kept) -> Writing | None:
        """What of a stream is not written yet; all that has arrived is told by that."""
        live, completion = kept.live, kept.live.completion
        while completion.pull():
            pass
        completion.look()
        log, keeping = completion.log, live.keeping
        records: list[Record] = []
        if keeping.heir_count and not kept.head_is_written:
            records.append(Heir(owner=self._process_id))
        if frames := log.after(kept.written_count):
            records.append(Frames(owner=self._process_id, first=log.last - len(frames) + 1, frames=frames))
        if completion.ended and not kept.end_is_written:
            records.append(end_of(self._process_id, completion.failure))
        if not records:
            return None
        return Writing(
            tenant=keeping.tenant,
            stream_id=live.stream_id,
            head=None if kept.head_is_written else keeping.head,
            records=records,
            first=log.first,
            last=log.last,
            heir_count=keeping.heir_count,
        )

    def _written(self, kept: _Kept, writing: Writing) -> None:
        kept.head_is_written = True
        kept.written_count = writing.last
        if any(not isinstance(record, Frames | Heir) for record in writing.records):
            self._drop_ended(kept)

    def _forget_old(self) -> None:
        """Forget what ended long ago, and the oldest of that if it is too much."""
        now_s = asyncio.get_running_loop().time()
        ended = [kept for kept in self._kept.values() if kept.live.completion.ended]
        for kept in ended:
            kept.ended_at_s = kept.ended_at_s or now_s
        held_bytes = sum(kept.live.completion.log.held_bytes for kept in ended)
        for kept in sorted(ended, key=lambda each: each.ended_at_s or 0.0):
            if (
                now_s - (kept.ended_at_s or 0.0) < self._limits.kept_s
                and held_bytes <= self._limits.memory_bytes_max
            ):
                break
            held_bytes -= kept.live.completion.log.held_bytes
            self._drop_ended(kept)

    def _drop_ended(self, kept: _Kept) -> None:
        self._kept.pop(kept.live.stream_id, None)
        self._forget(kept.live)
