"""All streams of this process: opened, joined, read again, followed, taken over, cancelled."""

import asyncio
from dataclasses import dataclass, replace

import structlog

from services.common.tracing.current import noted
from services.inference.broadcast import Dress
from services.inference.completion import Completion, Durability, Opened
from services.inference.core.asks import Chat, Embed
from services.inference.core.caching import may_look
from services.inference.core.callers import Principal
from services.inference.errors import StreamCancelled, StreamExpired, StreamNotFound, StreamUnreachable
from services.inference.streams.charges import Charges, account_of
from services.inference.streams.follower import AWAY_MAX_S, find_head
from services.inference.streams.following import Following
from services.inference.streams.identity import body_hash, is_shareable, join_name
from services.inference.streams.keeper import Keeper
from services.inference.streams.live import Keeping, Live
from services.inference.streams.means import Asked, Means, Stream
from services.inference.streams.metrics import Kept, Where
from services.inference.streams.ports import Away
from services.inference.streams.records import Head, request_of
from services.inference.streams.replay import tell_again
from services.inference.streams.requests import Claim, Requests
from services.inference.streams.tasks import Tasks
from services.inference.wire.told import joined

FOLLOWED_CHECK_S = 1.0
CLAIMS_MAX = 3  # Of one request, if who has claimed it cannot be found.

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Record:
    live: Live
    dress: Dress | None
    is_cancelled: bool = False


class Streams:
    """The streams of one process."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._shared = means.shared
        self._keeper = Keeper(
            means.shared, means.limits, means.metrics, process_id=means.process_id, forget=self._forget
        )
        self._following = Following(means, self._keeper, taken_over=self._taken_over)
        self._requests = Requests(means.names, means.shared, kept_s=means.limits.kept_s)
        self._records: dict[str, _Record] = {}  # By name.
        self._joinable: dict[bytes, Live] = {}
        self._followed: dict[str, Live] = {}  # By the name of the stream that another replica makes.
        self._charges = Charges(means.record)
        self._tasks = Tasks()

    async def run(self) -> None:
        """Keep what is to be kept, until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._tasks.group = group
            try:
                await self._keeper.run(self._cancel_here)
            finally:
                self._tasks.group = None  # It takes no more.

    async def close(self) -> None:
        """Write what is left. To be called when no stream is read any more."""
        for live in {record.live for record in self._records.values()}:
            self._charges.made(live)  # Who goes on with it charges what they do.
        await self._keeper.close()

    async def open(self, asked: Asked) -> Stream:
        """Accept a request, or raise why not."""
        stream_id = self._means.ids.make(asked.principal)
        if not asked.wishes.request_id:
            return await self._open(asked, stream_id)
        claim = Claim(asked.principal, asked.wishes.request_id, body_hash(asked), stream_id)
        claim, stream = await self._requests.answered(claim, lambda one: self.resume(asked.principal, one))
        if stream is not None:
            return stream
        try:
            return await self._open(asked, stream_id)
        except BaseException:
            await self._requests.forget(claim)
            raise

    async def resume(self, principal: Principal, stream_id: str, *, after: int = 0) -> Stream:
        """Read a stream of the principal's again, from after the event `after`."""
        if not self._means.ids.is_of(principal, stream_id):
            raise StreamNotFound
        live, dress = await self._found(principal.organization_id, stream_id)
        self._means.metrics.resumed(Kept.HERE if live.is_made_here else Kept.SHARED)
        reader = live.attach(stream_id, wait_max_s=0.0, after=after, dress=dress)
        return Stream(stream_id, live, reader)

    async def cancel(self, principal: Principal, stream_id: str) -> None:
        """End a stream of the principal's for all who read it, wherever it is made."""
        if not self._means.ids.is_of(principal, stream_id):
            raise StreamNotFound
        try:
            head = await self._head(principal.organization_id, stream_id)
            if stream_id in self._records:
                self._cancel_here(stream_id)
            elif head is not None and self._shared is not None:
                await self._shared.cancel(stream_id, owner=head.owner)
        except Away:
            raise StreamUnreachable from None

    # Opening

    async def _open(self, asked: Asked, stream_id: str) -> Stream:
        name = join_name(asked, self._means.names)
        if name is not None and (live := self._joinable.get(name)) is not None and live.is_open:
            return await self._join(live, asked, stream_id)
        live = self._live(asked, stream_id, name)
        reader = live.attach(
            stream_id,
            wait_max_s=asked.terms.wait_max_s,
            linger_s=asked.wishes.linger_s,
            leaves=self._charges.of_another(asked, stream_id, live),
        )
        try:
            if name is None and not self._looks(asked):
                await live.make(asked.order, asked.terms)
            else:
                if name is not None:
                    live.name, self._joinable[name] = name, live
                live.is_decided = False
                live.begin(self._begin(live, asked))
                await live.until_accepted(reader)
        except BaseException:
            live.keeping = replace(live.keeping, account=None)  # It was refused.
            live.leave(reader)
            if live.is_deserted:
                live.abandon()
                if self._keeper.drop_unseen(live):
                    self._forget(live)
            raise
        return Stream(stream_id, live, reader)

    async def _join(self, live: Live, asked: Asked, stream_id: str) -> Stream:
        dress = joined(stream_id, self._means.durability(is_kept=True))
        reader = live.attach(
            stream_id,
            wait_max_s=asked.terms.wait_max_s,
            dress=dress,
            linger_s=asked.wishes.linger_s,
            leaves=self._charges.of_another(asked, stream_id, live),
        )
        self._means.metrics.joined(Where.HERE)
        noted("joined", to=live.asked_by)
        self._note(live, stream_id, dress)
        self._keeper.alias(live.keeping.tenant, stream_id, self._alias_of(live))
        try:
            await live.until_accepted(reader)
        except BaseException:
            live.leave(reader)
            raise
        return Stream(stream_id, live, reader)

    def _looks(self, asked: Asked) -> bool:
        """Whether the answer may be one that was given before."""
        ask, cache = asked.order.ask, self._means.cache
        if cache is None or isinstance(ask, Embed):
            return False
        if may_look(ask, asked.wishes.cache_policy):
            return True
        cache.passed_by(ask)
        return False

    async def _begin(self, live: Live, asked: Asked) -> None:
        """Answer a request from the cache, by following who answers it elsewhere, or by asking for a slot."""
        cache = self._means.cache
        if cache is not None and self._looks(asked):
            found = await cache.find(
                asked.terms.tenant,
                asked.order,
                canonical=asked.canonical,
                model_digest=asked.model_digest,
                wishes=asked.wishes,
            )
            live.completion.keeping = found.keeping
            if found.cached is not None:
                await tell_again(live, found.cached, tokens_per_s=self._means.replay_tokens_per_s)
                return
        if await self._is_answered_elsewhere(live):
            return
        await live.make(asked.order, asked.terms)

    async def _is_answered_elsewhere(self, live: Live) -> bool:
        """Follow who answers the same request in another replica, to the end; false if nobody does."""
        if live.name is None or self._shared is None or not self._shared.up:
            return False
        live.is_claimed = True  # Whatever comes of it, even if nobody waits for that.
        try:
            for _ in range(CLAIMS_MAX):
                leader_id = await self._shared.claim(live.name, live.stream_id)
                if leader_id == live.stream_id:
                    return False
                if await self._follow_leader(live, leader_id):
                    return True
                await self._shared.release(live.name, leader_id)  # It died before anybody could know of it.
        except Away:
            log.info("join_unshared")
        return False

    def _live(self, asked: Asked, stream_id: str, name: bytes | None) -> Live:
        ask, wishes = asked.order.ask, asked.wishes
        assert not isinstance(ask, Embed), "vectors do not stream"
        shareable = is_shareable(ask)
        is_kept = wishes.is_kept or shareable
        opened = Opened(stream_id, self._means.durability(is_kept=is_kept))
        completion = self._means.completion(opened, is_kept=is_kept, by_token=wishes.by_token)
        completion.is_repeatable = shareable
        head = Head(
            owner=self._means.process_id,
            is_chat=isinstance(ask, Chat),
            priority=asked.terms.priority.value,
            user_id=asked.principal.user_id,
            project_id=asked.principal.project_id,
            request=request_of(ask) if shareable and is_kept else b"",
            by_token=wishes.by_token,
            linger_s=wishes.linger_s,
            name=name or b"",
        )
        account = account_of(asked, stream_id) if wishes.is_charged else None
        live = self._made(
            completion,
            Keeping(tenant=asked.terms.tenant, head=head, is_kept=is_kept, account=account),
        )
        if is_kept:
            self._keeper.keep(live)
            self._note(live, stream_id, None)
        return live

    def _made(self, completion: Completion, keeping: Keeping) -> Live:
        live = Live(
            completion, keeping, desk=self._means.desk, spawn=self._tasks.spawn, deserted=self._deserted
        )
        completion.on_end = lambda: self._ended(live)
        self._means.metrics.opened()
        return live

    # Streams of other replicas

    async def _follow_leader(self, live: Live, leader_id: str) -> bool:
        """Follow who answers the request already, to the end; false if that cannot be found."""
        assert self._shared is not None, "it named the leader"
        tenant = live.keeping.tenant
        head = await find_head(self._shared, tenant, leader_id)
        # What has ended is no answer that is being made: whether it is given again is for the cache to say.
        made_here = self._records.get(leader_id)
        if made_here is not None and made_here.live.completion.ended:
            return False
        if head is None or await self._shared.has_ended(tenant, leader_id):
            return False
        self._keeper.drop(live)
        live.is_made_here, live.is_claimed, live.stream_id = False, False, leader_id
        durability = self._means.durability(is_kept=True)
        live.dress(lambda stream_id: joined(stream_id, durability))
        for stream_id in live.stream_ids:
            self._records[stream_id].dress = joined(stream_id, durability)
            self._keeper.alias(tenant, stream_id, self._alias_of(live))
        live.completion.adopt()
        live.accept()
        self._means.metrics.joined(Where.REPLICA)
        noted("joined_replica")
        await self._following.follow(live, head, may_outlive_owner=True)
        return True

    # Reading again

    async def _head(self, tenant: str, stream_id: str) -> Head | None:
        """Return the head of a stream that is none of ours, though it may just have been opened."""
        if self._shared is None:
            return None
        return await find_head(self._shared, tenant, stream_id, unless=lambda: stream_id in self._records)

    async def _found(self, tenant: str, stream_id: str) -> tuple[Live, Dress | None]:
        try:
            head = await self._head(tenant, stream_id)
            if (record := self._records.get(stream_id)) is not None:
                if record.is_cancelled:
                    raise StreamCancelled
                return record.live, record.dress
            if self._shared is None or head is None:
                raise StreamExpired
            dress = joined(stream_id, Durability.SHARED) if head.leader else None
            leader_id = head.leader or stream_id
            if head.leader:
                head = await self._shared.head(tenant, leader_id)
        except Away:
            raise StreamUnreachable from None
        if (record := self._records.get(leader_id)) is not None:
            return record.live, dress
        if head is None:
            raise StreamExpired
        return self._follower_of(tenant, leader_id, head, may_outlive_owner=dress is not None), dress

    def _follower_of(self, tenant: str, leader_id: str, head: Head, *, may_outlive_owner: bool) -> Live:
        if (live := self._followed.get(leader_id)) is not None:
            return live
        completion = self._means.completion(Opened(leader_id), is_kept=True, by_token=head.by_token)
        completion.adopt()
        live = self._made(completion, Keeping(tenant=tenant, head=head, is_kept=True, account=None))
        live.is_made_here, live.linger_s = False, head.linger_s
        self._followed[leader_id] = live
        live.begin(self._following.follow(live, head, may_outlive_owner=may_outlive_owner))
        return live

    def _taken_over(self, live: Live) -> None:
        """It is made here from now on: found, cancelled and released as one that was opened here."""
        self._followed.pop(live.stream_id, None)
        self._note(live, live.stream_id, None)
        live.name = live.keeping.head.name or None
        live.is_claimed = live.name is not None

    # Ends

    def _deserted(self, live: Live) -> None:
        """Nobody here reads it any more. Others may: then it is theirs."""
        if live.is_made_here and live.keeping.is_kept and self._shared is not None and self._shared.up:
            self._tasks.spawn(self._leave_to_followers(live))
        else:
            live.abandon()

    async def _leave_to_followers(self, live: Live) -> None:
        shared = self._shared
        assert shared is not None, "there may be followers"
        if live.name is not None and live.is_claimed:  # Nobody else shall come; who came before has said so.
            if self._joinable.get(live.name) is live:
                del self._joinable[live.name]
            self._keeper.release(live.name, live.stream_id)
            await self._keeper.try_to_let_go()
        live.completion.lingers = True  # For those who are not here.
        heard_at_s = _now_s()
        while live.is_deserted and live.is_open:
            try:
                if not await shared.is_followed(live.stream_id):
                    break
                heard_at_s = _now_s()
            except Away:
                if _now_s() - heard_at_s > AWAY_MAX_S:
                    log.info("followers_unknown")
                    break
            await asyncio.sleep(FOLLOWED_CHECK_S)
        if live.is_deserted:
            live.abandon()

    def _ended(self, live: Live) -> None:
        self._means.metrics.ended()
        self._charges.made(live)
        live.settle()
        if live.name is not None:
            if self._joinable.get(live.name) is live:
                del self._joinable[live.name]
            if live.is_claimed and live.is_made_here:
                self._keeper.release(live.name, live.stream_id)
                self._tasks.spawn(self._keeper.try_to_let_go())
        if not live.is_made_here:
            self._followed.pop(live.stream_id, None)
            self._forget(live)
        elif not live.keeping.is_kept or (
            self._shared is None and isinstance(live.completion.failure, StreamCancelled)
        ):
            self._forget(live)

    def _cancel_here(self, stream_id: str) -> None:
        if (record := self._records.get(stream_id)) is None:
            return
        record.is_cancelled = not record.live.completion.ended
        if record.is_cancelled:
            record.live.drop(stream_id, StreamCancelled())

    def _forget(self, live: Live) -> None:
        self._keeper.drop(live)
        if live.name is not None and self._joinable.get(live.name) is live:
            del self._joinable[live.name]
        for stream_id in live.stream_ids:
            if (record := self._records.get(stream_id)) is not None and record.live is live:
                del self._records[stream_id]

    def _note(self, live: Live, stream_id: str, dress: Dress | None) -> None:
        live.stream_ids.append(stream_id)
        self._records[stream_id] = _Record(live, dress)

    def _alias_of(self, live: Live) -> Head:
        return Head(owner=self._means.process_id, leader=live.stream_id)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
