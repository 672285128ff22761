"""Reads a stream that another replica makes into one of this replica's own."""

import asyncio
from collections.abc import Callable

import structlog

from services.inference.completion import Completion
from services.inference.errors import (
    DeadlineUnreachable,
    QueueTimeout,
    ReaderTooSlow,
    StreamCancelled,
    StreamExpired,
    StreamUnreachable,
)
from services.inference.streams.ports import Away, News, SharedLog, Sign
from services.inference.streams.records import End, Frames, Head, Heir, Record, failure_of

POLL_EVERY_S = 0.05
AWAY_MAX_S = 5.0  # After that its readers are told; they may try again.
HEIR_WITHIN_S = 5.0
# So long an owner may be silent in what can be reached: if that was away, or was flushed, it has to find out first.
SILENT_MAX_S = 2.0
HEAD_WITHIN_S = 2.0  # It is written soon after a stream was opened.

# Ends that say something of the owner's readers, and nothing of ours.
_OF_OWNER = frozenset(
    kind.reason for kind in (StreamCancelled, QueueTimeout, DeadlineUnreachable, ReaderTooSlow)
)

log = structlog.get_logger(__name__)


class OwnerLost(Exception):
    """Who makes the stream does so no longer, and it has not ended."""


async def find_head(
    shared: SharedLog, tenant: str, stream_id: str, *, unless: Callable[[], bool] = lambda: False
) -> Head | None:
    """Return the head of a stream that may just have been opened; None if there is none, or `unless`.

    Raises Away.
    """
    ends_at_s = _now_s() + HEAD_WITHIN_S
    while not unless():
        head = await shared.head(tenant, stream_id)
        if head is not None or _now_s() > ends_at_s:
            return head
        await asyncio.sleep(POLL_EVERY_S)
    return None


class Follower:
    """Follows one stream. Nothing is believed of a process but what it says as the stream's owner."""

    def __init__(
        self,
        shared: SharedLog,
        completion: Completion,
        *,
        tenant: str,
        stream_id: str,
        owner: str,
        may_outlive_owner: bool,
    ) -> None:
        """`may_outlive_owner`: if the owner's readers leave it, ours have not."""
        self.owner = owner
        self.heir_count = 0
        self._is_heard = False
        self._is_current = False  # Once all was taken that had been told before.
        self._may_outlive_owner = may_outlive_owner
        self._shared = shared
        self._completion = completion
        self._tenant = tenant
        self._stream_id = stream_id
        self._place = ""
        self._heard_at_s = _now_s()
        self._silent_since_s: float | None = None
        self._was_gone = False

    async def follow(self) -> None:
        """Return when the stream has ended. Raises OwnerLost; `follow` again goes on where this ended."""
        self._silent_since_s, self._was_gone = None, False
        while not self._completion.ended:
            try:
                news = await self._shared.news(
                    self._tenant, self._stream_id, after=self._place, owner=self.owner
                )
            except Away:
                self._silent_since_s = None  # It may have been away for the owner, too.
                if _now_s() - self._heard_at_s > AWAY_MAX_S:
                    self._completion.fail(StreamUnreachable())
                await asyncio.sleep(POLL_EVERY_S)
                continue
            self._heard_at_s = _now_s()
            self._place = news.place
            self._completion.look()  # Not after: nobody can have read what comes now.
            for record in news.records:
                self._take(record)
            self._is_current = self._is_current or not news.records
            if not self._is_current:
                self._completion.forgive()
            if news.records:
                self._silent_since_s, self._was_gone = None, False
                continue
            if self._is_lost(news):
                raise OwnerLost
            await asyncio.sleep(POLL_EVERY_S)

    def _is_lost(self, news: News) -> bool:
        """Whether the owner is gone, going by news in which there was nothing from it."""
        if news.owner is Sign.GONE:  # It may have written its last words between two looks.
            was_gone, self._was_gone = self._was_gone, True
            return was_gone
        if news.owner is Sign.ALIVE and news.is_kept:
            self._silent_since_s = None
            return False
        self._silent_since_s = self._silent_since_s or self._heard_at_s
        if self._heard_at_s - self._silent_since_s <= SILENT_MAX_S:
            return False
        if news.owner is Sign.ALIVE:  # It would have written it again, if it still had it.
            self._completion.fail(StreamExpired())
            return False
        return True

    def _take(self, record: Record) -> None:
        if not self._is_heard:  # The head names who makes it now, and others may have begun it.
            self._is_heard, self.owner = True, record.owner
        match record:
            case Heir(owner=owner, after=after):
                self.owner = owner
                self.heir_count += 1
                self._completion.log.cut(after)  # What the former owner said since does not count.
                self._completion.tell_anew(after)
            case Frames(owner=self.owner, first=first, frames=frames):
                for number, frame in enumerate(frames, first):
                    self._append(number, frame)
            case End(owner=self.owner, reason=reason) if self._may_outlive_owner and reason in _OF_OWNER:
                raise OwnerLost
            case End(owner=self.owner) as end:
                self._completion.end(failure_of(end))
            case _:
                log.info("stream_fenced", stream_id=self._stream_id)

    def _append(self, number: int, frame: bytes) -> None:
        log_ = self._completion.log
        if log_.last == 0:  # What came before may be forgotten. Who wants that is told when they read.
            log_.begin(number)
        last = log_.last
        if number == last + 1:
            self._completion.adopt()
            self._completion.append(frame)
        elif number > last:  # What came before was forgotten.
            self._completion.fail(StreamExpired())


def _now_s() -> float:
    return asyncio.get_running_loop().time()
