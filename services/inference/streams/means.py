"""What streams are made of, and what is asked for."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from services.inference.answer_cache import AnswerCache
from services.inference.broadcast import Reader
from services.inference.charging import Record
from services.inference.completion import Bounds, Completion, Durability, Opened, Seal
from services.inference.core.admission import Order
from services.inference.core.asks import Chat, Generate
from services.inference.core.callers import Principal, Wishes
from services.inference.core.canonical import canonical
from services.inference.core.secret_names import Names
from services.inference.desk import Desk
from services.inference.engine import Terms
from services.inference.streams.ids import StreamIds
from services.inference.streams.limits import Limits
from services.inference.streams.live import Live
from services.inference.streams.metrics import StreamMetrics
from services.inference.streams.ports import SharedLog

LAGS_KEPT = 4  # Of a stream that is not kept: enough for its slowest reader.

Readmit = Callable[[Chat | Generate, str], Order]


@dataclass(frozen=True, slots=True)
class Stream:
    """An accepted stream, for one reader. Whoever has it must close it, however reading ends."""

    stream_id: str
    live: Live
    _reader: Reader
    flagged: bool = False  # Its prompt has a phrase that its caller is told of.
    left: Callable[[], None] | None = None  # Is called, at least once, when it is read no more.

    async def read(self) -> bytes | None:
        """Return the next frame, None after the last; raise how it failed."""
        return await self._reader.read()

    def close(self) -> None:
        """Read no more. Idempotent and synchronous."""
        self.live.leave(self._reader)
        if self.left is not None:
            self.left()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An accepted request: by whom, how, and for the answer of which weights."""

    order: Order
    terms: Terms
    principal: Principal
    wishes: Wishes
    model_digest: str

    @cached_property
    def canonical(self) -> bytes:
        """Its canonical form, by which it is joined and found in the cache; a prompt may be long, so it is made once."""
        return canonical(self.order, model_digest=self.model_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What streams are made and kept with."""

    desk: Desk
    seal: Seal
    ids: StreamIds
    names: Names
    shared: SharedLog | None
    cache: AnswerCache | None
    replay_tokens_per_s: float  # Of what is told from the cache; 0: at once.
    limits: Limits
    metrics: StreamMetrics
    lag_bytes_max: int
    process_id: str
    record: Record  # Is given what each stream used.
    readmit: Readmit  # Accepts what another replica had accepted.

    def completion(self, opened: Opened, *, is_kept: bool, by_token: bool = False) -> Completion:
        log_bytes_max = self.limits.log_bytes_max if is_kept else 0
        return Completion(
            opened,
            seal=self.seal,
            opened_at_s=_now_s(),
            bounds=Bounds(
                log_bytes_max=max(log_bytes_max, LAGS_KEPT * self.lag_bytes_max),
                lag_bytes_max=self.lag_bytes_max,
            ),
            by_token=by_token,
        )

    def durability(self, *, is_kept: bool) -> Durability:
        if not is_kept:
            return Durability.NONE
        return Durability.SHARED if self.shared is not None and self.shared.up else Durability.GATEWAY


def _now_s() -> float:
    return asyncio.get_running_loop().time()
