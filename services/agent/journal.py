"""Commits what happens to one run, in order, and shows it once it is committed.

The run never waits for the store: while a batch is being committed the next one gathers, and neighbouring
pieces of text in it become one event. So a slow store means fewer, longer events, and no timer is
needed. Only a store that is far behind makes the run wait, so that memory is bounded.
"""

import asyncio
from collections.abc import Callable, Iterable

from services.agent.core.budget import Usage
from services.agent.core.conversation import Message
from services.agent.core.events import CallWritten, Delta, Finished, ToolOutput, joined
from services.agent.core.run import Entries, Entry
from services.agent.feed import Feed, Signal
from services.agent.leases import Lease
from services.agent.patience import patiently
from services.agent.ports import Batch, Events

GATHERED_CHARS_MAX = 65_536


def batch_of(entries: Iterable[Entry], *, first_sequence: int, time_s: float, usage: Usage) -> Batch:
    """What is to be committed at once, in as few events as tell it."""
    entries = list(entries)
    return Batch(
        first_sequence=first_sequence,
        time_s=time_s,
        events=joined(entry for entry in entries if not isinstance(entry, Message)),
        messages=[entry for entry in entries if isinstance(entry, Message)],
        usage=usage,
    )


def _chars(entry: Entry) -> int:
    """How much text an entry holds that gathers while the store is slow."""
    match entry:
        case Delta(text) | ToolOutput(text=text) | CallWritten(arguments_json=text):
            return len(text)
        case _:
            return 0


class Journal:
    """The writer of one run. `run` must be running while others write."""

    def __init__(
        self,
        lease: Lease,
        events: Events,
        feed: Feed,
        *,
        clock: Callable[[], float],
        patience_s: float,
        last_sequence: int = 0,
    ) -> None:
        """`last_sequence` is of what others told of the run."""
        self._lease, self._events, self._feed = lease, events, feed
        self._clock, self._patience_s = clock, patience_s
        self._entries: list[Entry] = []
        self._usage = Usage()
        self._chars = 0
        self._sequence = last_sequence
        self._written, self._committed = 0, 0
        self._closed = False
        self._changed, self._progress = asyncio.Event(), Signal()

    def write(self, entries: Entries, *, usage: Usage) -> None:
        """Entries of one call are committed together. Never waits."""
        if not entries:
            return
        self._entries += entries
        self._usage = usage
        self._chars += sum(map(_chars, entries))
        self._written += 1
        self._changed.set()

    def close(self) -> None:
        """Nothing more will be written; `run` returns when everything is committed."""
        self._closed = True
        self._changed.set()

    async def committed(self) -> None:
        """Wait until everything written so far is."""
        mark = self._written
        while self._committed < mark:
            await self._progress.next().wait()

    async def room(self) -> None:
        """Wait while the store is far behind."""
        if self._chars > GATHERED_CHARS_MAX:
            await self.committed()

    async def run(self) -> None:
        """Commit until closed. Raises LeaseLost."""
        while self._entries or not self._closed:
            await self._changed.wait()
            self._changed.clear()
            if self._entries:
                await self._commit()

    async def _commit(self) -> None:
        entries, self._entries, self._chars, mark = self._entries, [], 0, self._written
        batch = batch_of(entries, first_sequence=self._sequence + 1, time_s=self._clock(), usage=self._usage)
        stored = await patiently(lambda: self._events.append(self._lease, batch), for_s=self._patience_s)
        self._sequence += len(stored)
        self._committed = mark
        self._feed.publish(stored, ended=isinstance(batch.events[-1], Finished))
        self._progress.fire()
