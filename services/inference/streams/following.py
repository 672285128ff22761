"""Following a stream that another replica makes, and going on with it when that one is lost."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import msgspec
import structlog

from services.common.errors import MeshError
from services.inference.charging import Account
from services.inference.completion import Event, Opened
from services.inference.core.callers import Principal
from services.inference.core.jobs import Priority
from services.inference.engine import Terms
from services.inference.errors import InstanceLost
from services.inference.streams.follower import HEIR_WITHIN_S, Follower, OwnerLost
from services.inference.streams.keeper import Keeper
from services.inference.streams.live import Live
from services.inference.streams.means import Means
from services.inference.streams.metrics import Takeover
from services.inference.streams.ports import Away
from services.inference.streams.records import Head, ask_of
from services.inference.wire.told import told

RUN_MAX_S = 300.0  # Of a stream that is taken over.

log = structlog.get_logger(__name__)


class Following:
    """Follows streams into this process."""

    def __init__(self, means: Means, keeper: Keeper, *, taken_over: Callable[[Live], None]) -> None:
        """`taken_over` hears of streams that are made here from now on."""
        self._means = means
        self._keeper = keeper
        self._taken_over = taken_over

    async def follow(self, live: Live, head: Head, *, may_outlive_owner: bool) -> None:
        shared = self._means.shared
        assert shared is not None, "somebody else makes it"
        follower = Follower(
            shared,
            live.completion,
            tenant=live.keeping.tenant,
            stream_id=live.stream_id,
            owner=head.owner,
            may_outlive_owner=may_outlive_owner,
        )
        lost_at_s, lost_owner = _now_s(), ""
        while True:
            try:
                await follower.follow()
            except OwnerLost:
                if follower.owner != lost_owner:
                    lost_at_s, lost_owner = _now_s(), follower.owner
                if _now_s() - lost_at_s > HEIR_WITHIN_S:
                    live.completion.fail(InstanceLost())
                elif await self._is_heir(live, head, follower.owner):
                    await self._take_over(live, head, heir_count=follower.heir_count + 1)
                    return
            else:
                return

    async def _is_heir(self, live: Live, head: Head, lost_owner: str) -> bool:
        """Whether it is this process that goes on with a stream. If nobody can, or need, it is ended."""
        assert self._means.shared is not None, "somebody else made it"
        log_ = live.completion.log
        found = told(log_)
        if found.is_whole:  # Only its last word was lost.
            live.completion.end(None)
            self._means.metrics.taken_over(Takeover.WHOLE)
            return False
        if not head.request or log_.first > 1 or found.has_calls:
            live.completion.fail(InstanceLost())
            self._means.metrics.taken_over(Takeover.LOST)
            return False
        try:
            is_heir = await self._means.shared.inherit(live.stream_id, owner=lost_owner)
        except Away:
            return False  # Nobody goes on with it who may not be the only one.
        # Some here may follow it under a name of their own.
        return is_heir and not self._keeper.has_another(live)

    async def _take_over(self, live: Live, head: Head, *, heir_count: int) -> None:
        """Go on with a stream whose maker is lost: its request is answered once more, and compared."""
        completion, keeping = live.completion, live.keeping
        heir_after = completion.log.last
        completion.tell_anew(heir_after)
        log.info("stream_taken_over", stream_id=live.stream_id, told_count=completion.log.last)
        try:
            order = self._means.readmit(ask_of(head), keeping.tenant)
        except MeshError:
            completion.fail(InstanceLost())
            return
        if completion.log.last == 0:
            opened = Opened(live.stream_id, self._means.durability(is_kept=True))
            completion.append(self._means.seal(Event(1, opened)))
        completion.adopt(told(completion.log).started)
        completion.is_repeatable = live.is_made_here = True
        account = Account(
            principal=Principal(
                organization_id=keeping.tenant, project_id=head.project_id, user_id=head.user_id
            ),
            stream_id=live.stream_id,
            model=order.model,
            operation="chat" if head.is_chat else "text_completion",
        )
        live.keeping = replace(
            keeping,
            account=account,
            head=msgspec.structs.replace(head, owner=self._means.process_id),
            heir_count=heir_count,
            heir_after=heir_after,
        )
        self._keeper.keep(live, written_count=heir_after)
        self._taken_over(live)
        self._means.metrics.taken_over(Takeover.CONTINUED)
        wait_s = max(live.wait_left_s, HEIR_WITHIN_S)
        terms = Terms(
            tenant=keeping.tenant,
            priority=Priority(head.priority),
            wait_max_s=wait_s,
            total_max_s=RUN_MAX_S,
            run_max_s=RUN_MAX_S,
        )
        await live.make(order, terms)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
