"""Sessions whose interpreter is lost: it is told, and replaced, and never silently."""

import asyncio

import pytest

from services.sandbox.core.limits import LimitKind
from services.sandbox.core.sessions import IDLE_LOSSES_MAX, Aftermath, Cause, Loss, State
from services.sandbox.errors import SessionBusy, SessionNotFound
from tests.unit.sandbox_sessions import ADA, begin, until, world


async def test_a_crash_is_told_and_the_session_begins_anew() -> None:
    async with world() as here:
        session = await here.create()
        turn = begin(session)
        assert not turn.tell_loss()
        here.jail.end(-11)
        assert await turn.over() == Aftermath(restarted=True, files_lost=True)
        assert (session.life.restart_count, session.life.state) == (1, State.IDLE)
        assert here.told == ["created", Loss.CRASHED]
        assert not begin(session).tell_loss()  # It was told already.


async def test_a_kill_restarts_it_as_well() -> None:
    async with world() as here:
        session = await here.create()
        turn = begin(session)
        turn.kill()
        assert (await turn.over()).restarted
        assert here.told[-1] == Loss.KILLED
        turn = begin(session)
        here.jail.end(None, LimitKind.MEMORY)
        assert (await turn.over()).restarted
        assert here.told == ["created", Loss.KILLED, Loss.LIMIT]


async def test_a_loss_that_nobody_saw_is_told_to_the_next() -> None:
    async with world() as here:
        session = await here.create()
        here.jail.end(None)
        while len(here.jails.opened) < 2:
            await asyncio.sleep(0.001)
        await until(session, State.IDLE)
        assert session.life.restart_count == 1
        turn = begin(session)
        assert turn.tell_loss()
        turn.leave()
        assert not begin(session).tell_loss()


async def test_it_waits_for_its_engine_to_come_back() -> None:
    async with world() as here:
        session = await here.create()
        here.jails.problem = "the engine restarts"
        here.jail.end(None)
        await until(session, State.STARTING)
        with pytest.raises(SessionBusy):
            begin(session)
        here.jails.problem = None
        await until(session, State.IDLE)


async def test_what_cannot_be_restarted_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.sandbox.session.OPEN_WITHIN_S", 0.1)
    async with world() as here:
        session = await here.create()
        turn = begin(session)
        here.jails.problem = "the kernel is gone"
        here.jail.end(-9)
        assert await turn.over() == Aftermath(ended=True, files_lost=True)
        await here.nothing_is_left()
        assert here.told == ["created", Cause.LOST]
        with pytest.raises(SessionNotFound):
            here.sessions.get(ADA, session.session_id)


async def test_what_ends_again_and_again_is_given_up() -> None:
    async with world() as here:
        session = await here.create()
        for _ in range(IDLE_LOSSES_MAX + 1):
            await until(session, State.IDLE)
            here.jail.end(None)
            while session.life.state is State.IDLE:
                await asyncio.sleep(0)
        await here.nothing_is_left()
        assert session.cause is Cause.LOST
