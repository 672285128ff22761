"""What the engine makes of a store that answers when, and in the order in which, it likes."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from services.agent.agents import Assignment, Recorder
from services.agent.core.conversation import ToolCall
from services.agent.core.events import Delta, Started, Status, StepStarted, ToolReturned
from services.agent.core.run import Answer
from services.agent.errors import TooManyRuns
from services.agent.ports import ToolResult
from services.agent.worker import ATTEMPTS_MAX
from services.common.errors import AuthUnavailable, StoreUnavailable
from tests.unit.agent_engine_rig import Auth, Parrot, Store, engine, has_ended, orphan, start


async def test_a_run_that_is_heard_of_late_still_goes_first() -> None:
    """Its acceptance was committed first, and its reply overtaken: the later one must let it by."""
    store, late = Store(), asyncio.Event()
    store.before_reply = lambda position: late if position == 1 else None
    async with engine(store, Parrot()) as made:
        first = asyncio.create_task(start(made))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = await start(made)
        assert store.order.index(second.run_id) == 1
        await asyncio.sleep(0.02)
        late.set()
        assert (await has_ended(store, (await first).run_id)).status is Status.SUCCEEDED
        assert (await has_ended(store, second.run_id)).status is Status.SUCCEEDED


async def test_a_run_whose_turn_does_not_come_can_be_cancelled() -> None:
    store, never = Store(), asyncio.Event()
    store.before_reply = lambda position: never if position == 1 else None
    async with engine(store, Parrot()) as made:
        first = asyncio.create_task(start(made))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = await start(made)
        await store.request_cancel(second.run_id, rollback=False)
        assert (await has_ended(store, second.run_id)).status is Status.CANCELLED
        never.set()
        await first


async def test_a_run_that_is_cancelled_just_before_it_asks_never_asks() -> None:
    store = Store()
    store.readable.clear()
    async with engine(store, Parrot()) as made:
        run = await start(made)
        await store.request_cancel(run.run_id, rollback=False)
        renewals = len(store.renewed)
        async with asyncio.timeout(30):
            while len(store.renewed) < renewals + 3:
                await asyncio.sleep(0.005)
        store.readable.set()
        assert (await has_ended(store, run.run_id)).status is Status.CANCELLED
        assert not any(isinstance(event, Delta) for event in store.events[run.run_id])


async def test_a_failed_acceptance_gives_its_place_back() -> None:
    store = Store()
    async with engine(store, Parrot(), runs_max=1) as made:
        store.failure = StoreUnavailable()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await start(made)
        store.failure = None
        run = await start(made)
        await has_ended(store, run.run_id)


async def test_a_caller_that_leaves_during_acceptance_leaves_a_run_that_is_worked_on() -> None:
    store, slow = Store(), asyncio.Event()
    store.before_reply = lambda _: slow
    async with engine(store, Parrot()) as made:
        leaving = asyncio.create_task(start(made))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        leaving.cancel()
        slow.set()
        assert (await has_ended(store, store.order[0])).status is Status.SUCCEEDED


async def test_leases_are_renewed_while_a_run_works_and_places_are_bounded() -> None:
    store, agent = Store(), Parrot()
    agent.let.clear()
    async with engine(store, agent, runs_max=1) as made:
        run = await start(made)
        with pytest.raises(TooManyRuns):
            await start(made)
        async with asyncio.timeout(30):
            while [run.run_id] not in store.renewed:
                await asyncio.sleep(0.005)
        agent.let.set()
        await has_ended(store, run.run_id)


async def test_stopping_gives_back_what_works_and_what_waits() -> None:
    store, agent = Store(), Parrot()
    agent.let.clear()
    async with engine(store, agent) as made:
        runs = [await start(made) for _ in range(3)]
    assert {lease.run_id for lease in store.given_back} == {run.run_id for run in runs}
    assert not any(store.ended(run.run_id) for run in runs)


async def test_stopping_waits_a_moment_for_a_call_that_nobody_could_make_again() -> None:
    store, agent = Store(), Payer()
    agent.let.clear()
    async with asyncio.timeout(20), engine(store, agent) as made:
        run = await start(made)
        await agent.paying.wait()
        stopping = asyncio.create_task(made.stop())
        await asyncio.wait({stopping}, timeout=0.2)
        assert not stopping.done()
        agent.let.set()
        await stopping
    assert [lease.run_id for lease in store.given_back] == [run.run_id]
    returned = [event for event in store.events[run.run_id] if isinstance(event, ToolReturned)]
    assert [event.content for event in returned] == ["paid"]


class Payer(Parrot):
    """Makes one call that may not be repeated, when it is let, and then waits for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.paying = asyncio.Event()

    async def work(self, assignment: Assignment, recorder: Recorder) -> str:
        recorder.ask()
        call = ToolCall(call_id="call_1_0", name="pay", arguments_json="{}")
        await recorder.answer(
            Answer(calls=(call,), prompt_token_count=1, output_token_count=1, truncated=False)
        )
        assert await recorder.claim(call.call_id)
        self.paying.set()
        await self.let.wait()
        await recorder.tool_returned(call.call_id, ToolResult(content="paid", failed=False), duration_s=0.0)
        await asyncio.Event().wait()
        return ""


async def test_a_mandate_is_kept_for_others_and_ends_with_its_run() -> None:
    store, agent, auth = Store(), Parrot(), Auth()
    auth.failures = [AuthUnavailable()]
    agent.let.clear()
    async with engine(store, agent, auth=auth) as made:
        run = await start(made)
        async with asyncio.timeout(30):
            while not store.mandates:
                await asyncio.sleep(0.005)
        assert store.mandates == {run.run_id: "mandate 1"}
        assert auth.ended == []
        agent.let.set()
        await has_ended(store, run.run_id)
    assert auth.ended == ["mandate 1"]


async def test_what_others_left_is_gone_on_with() -> None:
    store, auth = Store(), Auth()
    begun = orphan(store, told=[Started("tiny"), StepStarted(1), Delta("o")])
    store.orphans = [begun]
    async with engine(store, Parrot(), auth=auth):
        run_id = begun.lease.run_id
        assert (await has_ended(store, run_id)).answer == "ok"
        told = store.events[run_id]
        assert told[:4] == [Started("tiny"), StepStarted(1), Delta("o"), Delta("k")]
    assert auth.ended == ["old"]


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"mandate": None}, Status.FAILED, "RUN_LOST"),
        ({"attempt_count": ATTEMPTS_MAX + 1}, Status.FAILED, "RUN_LOST"),
        ({"is_cancelled": True}, Status.CANCELLED, ""),
    ],
)
async def test_what_nobody_can_or_should_go_on_with_is_ended(
    fields: Mapping[str, object], status: Status, reason: str
) -> None:
    store = Store()
    left = orphan(store, told=[Started("tiny"), StepStarted(1), Delta("o")], **fields)
    store.orphans = [left]
    async with engine(store, Parrot()):
        end = await has_ended(store, left.lease.run_id)
    assert (end.status, end.reason) == (status, reason)


async def test_no_more_is_taken_over_than_there_are_places_for() -> None:
    store, agent = Store(), Parrot()
    agent.let.clear()
    store.orphans = [orphan(store) for _ in range(5)]
    async with engine(store, agent, runs_max=2):
        async with asyncio.timeout(30):
            while len(store.orphans) > 3 or len(store.renewed) < 5:
                await asyncio.sleep(0.005)
        assert len(store.orphans) == 3


async def test_an_answer_that_comes_while_a_run_is_being_let_go_is_left_for_who_looks_next() -> None:
    """Whether the run is still at work, or suspended and only not gone from here, the store alone can tell."""
    store, parrot = Store(), Parrot()
    parrot.let.clear()
    async with engine(store, parrot) as made:
        run = await start(made)
        await made.decided(run.run_id)
        assert store.woken == [run.run_id]
        parrot.let.set()
        await has_ended(store, run.run_id)


@pytest.mark.timed
async def test_whoever_comes_to_watch_is_seen_at_once() -> None:
    """A run that ends unwatched may have little time left, less than until watchers are counted next."""
    store, agent = Store(), Parrot()
    agent.let.clear()
    async with engine(store, agent) as made:
        run = replace(await start(made), is_watched=True)
        leave = made.watching(run)
        async with asyncio.timeout(1):
            while run.run_id not in store.watched_runs:
                await asyncio.sleep(0.005)
        leave()
