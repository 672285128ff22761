"""Sessions, with jails that do as they are told."""

import asyncio

import pytest

from services.sandbox.core.limits import Limits
from services.sandbox.core.owners import Owner
from services.sandbox.core.sessions import Aftermath, Cause, State
from services.sandbox.errors import (
    ProfileUnknown,
    QueueFull,
    RequestIdReused,
    SandboxUnavailable,
    SessionBusy,
    SessionNotFound,
    SessionsNotSupported,
    TooManySessions,
)
from services.sandbox.session import FILE_USES_MAX, Session
from services.sandbox.sessions import Request, Wish
from tests.fakes.fake_jails import FakeJails
from tests.unit.sandbox_sessions import ADA, BOB, WISH, begin, world


async def test_a_session_is_found_by_its_owner_alone() -> None:
    async with world() as here:
        session = await here.create()
        assert here.sessions.get(ADA, session.session_id) is session
        assert session.life.state is State.IDLE
        for stranger in (BOB, Owner("elsewhere", "ada")):
            with pytest.raises(SessionNotFound):
                here.sessions.get(stranger, session.session_id)
            assert here.sessions.page(stranger, before=None, count_max=9) == ([], False)
            await here.sessions.delete(stranger, session.session_id)
        assert here.sessions.get(ADA, session.session_id) is session
        assert here.places[0].held_bytes == WISH.limits.memory_bytes


async def test_a_request_is_carried_out_once() -> None:
    async with world() as here:
        request = Request("r", b"1")
        one, other = await asyncio.gather(here.create(request=request), here.create(request=request))
        assert one is other is await here.create(request=Request("r", b"1"))
        with pytest.raises(RequestIdReused):
            await here.create(request=Request("r", b"2"))
        assert await here.create(BOB, Request("r", b"2")) is not one
        await here.sessions.delete(ADA, one.session_id)
        assert await here.create(request=Request("r", b"2")) is not one


async def test_users_have_no_more_than_their_share_and_get_it_back() -> None:
    async with world(per_user_max=2, total_max=3) as here:
        first = await here.create()
        await here.create()
        with pytest.raises(TooManySessions) as refused:
            await here.create()
        assert refused.value.facts == {"sessions_max": "2"}
        await here.create(BOB)
        with pytest.raises(QueueFull):
            await here.create(BOB)
        await here.sessions.delete(ADA, first.session_id)
        await here.create()


async def test_those_that_are_opening_count_too() -> None:
    async with world(per_user_max=2) as here:
        made = await asyncio.gather(*(here.create() for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(each, Session) for each in made) == 2
        assert sum(isinstance(each, TooManySessions) for each in made) == 3


async def test_without_memory_there_is_no_session() -> None:
    async with world() as here:
        here.is_full = True
        with pytest.raises(QueueFull):
            await here.create()
        assert here.sessions.count == 0
        assert here.told == []


async def test_what_cannot_be_opened_leaves_nothing() -> None:
    async with world() as here:
        with pytest.raises(ProfileUnknown):
            await here.sessions.create(ADA, Wish(limits=Limits(), profile="cobol"))
        here.jails.keeps_sessions = False
        request = Request("r", b"1")
        with pytest.raises(SessionsNotSupported):
            await here.create(request=request)
        await here.nothing_is_left()
        assert here.told == []
        here.jails.keeps_sessions = True
        assert await here.create(request=request)


async def test_the_first_engine_that_keeps_sessions_is_taken() -> None:
    async with world(FakeJails(engine="first", keeps_sessions=False)) as here:
        assert (await here.create()).engine == "fake"


async def test_who_leaves_while_it_opens_leaves_nothing() -> None:
    async with world() as here:
        leaving = asyncio.create_task(here.create())
        await asyncio.sleep(0)
        assert here.sessions.count == 1
        leaving.cancel()
        await here.nothing_is_left()


async def test_delete_ends_what_runs_and_all_that_it_holds() -> None:
    async with world() as here:
        session = await here.create()
        closed = asyncio.Event()
        turn = begin(session, closed.set)
        await here.sessions.delete(ADA, session.session_id)
        assert closed.is_set()
        assert not here.jail.alive
        await here.nothing_is_left()
        assert here.told == ["created", Cause.DELETED]
        assert await turn.over() == Aftermath(ended=True, files_lost=True)
        await here.sessions.delete(ADA, session.session_id)
        with pytest.raises(SessionNotFound):
            begin(session)


async def test_one_execution_at_a_time() -> None:
    async with world() as here:
        session = await here.create()
        turn = begin(session)
        with pytest.raises(SessionBusy) as refused:
            begin(session)
        assert refused.value.retry_after_s
        assert await turn.over() == Aftermath()
        begin(session).leave()
        begin(session)


async def test_a_turn_that_is_over_disturbs_no_other() -> None:
    async with world() as here:
        session = await here.create()
        first = begin(session)
        first.leave()
        begin(session)
        first.leave()
        assert session.life.state is State.BUSY


async def test_memory_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.sandbox.session.OPEN_WITHIN_S", 0.05)
    async with world() as here:
        here.is_slow = True
        with pytest.raises(QueueFull):
            await here.create()
        await here.nothing_is_left()


async def test_idleness_ends_it_and_use_does_not() -> None:
    async with world(idle_s=0.05) as here:
        busy, idle = await here.create(), await here.create()
        turn = begin(busy)
        await idle.gone()
        assert idle.cause is Cause.IDLE
        assert busy.life.state is State.BUSY
        await turn.over()
        await busy.gone()
        assert busy.cause is Cause.IDLE


async def test_its_life_ends_however_busy_it_is() -> None:
    async with world(life_s=0.05) as here:
        session = await here.create()
        closed = asyncio.Event()
        begin(session, closed.set)
        await closed.wait()
        await session.gone()
        assert session.cause is Cause.LIFE


async def test_a_caller_may_shorten_idleness_only() -> None:
    async with world(idle_s=100, life_s=1000) as here:
        now_s = asyncio.get_running_loop().time()
        short = await here.sessions.create(ADA, Wish(limits=Limits(), idle_s=5))
        long = await here.sessions.create(ADA, Wish(limits=Limits(), idle_s=5000))
        assert short.life.expires_s - now_s < 50 < long.life.expires_s - now_s <= 200


async def test_files_can_be_used_while_something_runs_so_many_at_once() -> None:
    async with world() as here:
        session = await here.create()
        begin(session)
        uses = [session.files() for _ in range(FILE_USES_MAX)]
        for use in uses:
            use.__enter__()
        with pytest.raises(SessionBusy), session.files():
            pass
        for use in uses:
            use.__exit__(None, None, None)
        with session.files() as files:
            assert files is here.jail.files


async def test_files_of_a_session_that_ends_meanwhile_are_not_found() -> None:
    async with world() as here:
        session = await here.create()
        use = session.files()
        files = use.__enter__()
        await here.sessions.delete(ADA, session.session_id)
        with pytest.raises(SandboxUnavailable) as lost:
            await files.delete("a")
        with pytest.raises(SessionNotFound):
            use.__exit__(SandboxUnavailable, lost.value, None)
        with pytest.raises(SessionNotFound), session.files():
            pass


async def test_a_jail_that_is_lost_under_a_file_says_so() -> None:
    async with world() as here:
        session = await here.create()
        here.jail.end(None)
        with pytest.raises(SandboxUnavailable), session.files() as files:
            await files.delete("a")


async def test_pages_hold_the_newest_first() -> None:
    async with world(per_user_max=5, total_max=9) as here:
        made = [await here.create() for _ in range(5)]
        await here.create(BOB)
        first, more = here.sessions.page(ADA, before=None, count_max=3)
        rest, no_more = here.sessions.page(ADA, before=first[-1].position, count_max=3)
        assert [*first, *rest] == sorted(made, key=lambda each: each.position, reverse=True)
        assert (more, no_more) == (True, False)


async def test_the_end_of_the_service_ends_all() -> None:
    async with world() as here:
        session = await here.create()
        await here.create(BOB)
    await here.nothing_is_left()
    assert session.cause is Cause.SHUTDOWN
