"""Ending runs from outside: in every phase, from every replica; and threads that are busy."""

import asyncio
from collections.abc import AsyncIterable
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import grpc
import pytest
from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.agent.v1.run_pb2 import (
    BUSY_POLICY_ENQUEUE,
    BUSY_POLICY_INTERRUPT,
    BUSY_POLICY_REJECT,
    BUSY_POLICY_ROLLBACK,
    DISCONNECT_POLICY_CANCEL,
    RUN_STATUS_CANCELLED,
    RUN_STATUS_PENDING,
    RUN_STATUS_RUNNING,
    RUN_STATUS_SUCCEEDED,
    BusyPolicy,
)
from ollamesh.agent.v1.thread_pb2 import ROLE_TOOL, THREAD_STATE_BUSY, THREAD_STATE_IDLE

from services.agent.core.caps import Caps
from tests.fakes import run_grammar
from tests.fakes.fake_inference import Reply
from tests.fakes.fake_sandbox import Execution
from tests.service.agent_app import App, Mesh, app, around, refusal, until

__all__ = ["app", "around"]

NEVER = asyncio.Event  # Made anew in each test: an event belongs to one loop.
CALL = Reply(texts=["See:"], calls=[("run_python", '{"code": "1"}')])


async def test_cancelling_while_the_model_reads(app: App) -> None:
    app.inference.script = [Reply(hold=NEVER())]
    user = app.user()
    run = await user.start(await user.thread())
    await until(lambda: app.inference.running == 1)
    ended = await user.cancel(run.run_id)
    assert ended.status == RUN_STATUS_CANCELLED
    run_grammar.check(await user.watch(run.run_id))
    await until(lambda: app.inference.running == 0)


async def test_cancelling_while_the_model_writes_keeps_what_it_wrote(app: App) -> None:
    app.inference.script = [Reply(texts=["It is", " 42."], hold=NEVER())]
    user = app.user()
    thread_id = await user.thread()
    run = await user.start(thread_id)
    request = pb.WatchRunRequest(run_id=run.run_id)
    async for response in user.stub.WatchRun(request, **user.options):
        if response.event.HasField("delta"):
            break
    assert (await user.cancel(run.run_id)).status == RUN_STATUS_CANCELLED
    events = await user.watch(run.run_id)
    run_grammar.check(events)
    assert run_grammar.text_of(events) == "It is"
    assert [message.content for message in await user.messages(thread_id)] == ["What is 6 * 7?", "It is"]
    await until(lambda: app.inference.running == 0)


async def test_cancelling_while_a_tool_runs_reaches_the_sandbox_and_answers_the_call(app: App) -> None:
    app.inference.script = [CALL]
    app.sandbox.script = [Execution(stdout=[b"1"], hold=NEVER())]
    user = app.user()
    thread_id = await user.thread()
    run = await user.start(thread_id)
    await until(lambda: app.sandbox.running == 1)
    assert (await user.cancel(run.run_id)).status == RUN_STATUS_CANCELLED
    run_grammar.check(await user.watch(run.run_id))
    last = (await user.messages(thread_id))[-1]
    assert (last.role, last.content) == (ROLE_TOOL, "The run ended before this call did.")
    await until(lambda: app.sandbox.running == 0)


async def test_cancelling_a_run_that_waits(app: App) -> None:
    hold = asyncio.Event()
    app.inference.script = [Reply(texts=["first"], hold=hold)]
    user = app.user()
    thread_id = await user.thread()
    first, second, third = [await user.start(thread_id, text) for text in ("1", "2", "3")]
    await until(lambda: app.inference.running == 1)
    assert (await user.cancel(second.run_id)).status == RUN_STATUS_CANCELLED
    assert (await user.run(first.run_id)).status == RUN_STATUS_RUNNING
    run_grammar.check(await user.watch(second.run_id))
    hold.set()
    assert (await user.watch(third.run_id))[-1].finished.status == RUN_STATUS_SUCCEEDED
    questions = [message.content for message in await user.messages(thread_id)]
    assert questions == ["1", "first", "3", "ok"], "what never began was never asked"


async def test_cancelling_again_or_too_late_tells_how_it_ended(app: App) -> None:
    user = app.user()
    run = await user.start(await user.thread())
    await user.watch(run.run_id)
    for _ in range(2):
        assert (await user.cancel(run.run_id)).status == RUN_STATUS_SUCCEEDED


async def test_many_may_cancel_at_once(app: App) -> None:
    app.inference.script = [Reply(hold=NEVER())]
    user = app.user()
    run = await user.start(await user.thread())
    ended = await asyncio.gather(*(user.cancel(run.run_id) for _ in range(8)))
    assert {run.status for run in ended} == {RUN_STATUS_CANCELLED}
    run_grammar.check(await user.watch(run.run_id))


async def test_any_replica_can_cancel(app: App, around: Mesh) -> None:
    app.inference.script = [Reply(hold=NEVER())]
    user = app.user()
    run = await user.start(await user.thread())
    async with around.replica() as other:
        assert (await other.user().cancel(run.run_id)).status == RUN_STATUS_CANCELLED
    await until(lambda: app.inference.running == 0)


async def test_deleting_a_thread_ends_its_runs_and_forgets_them(app: App) -> None:
    app.inference.script = [Reply(texts=["a", "b"], hold=NEVER())]
    user = app.user()
    thread_id = await user.thread()
    runs = [await user.start(thread_id) for _ in range(3)]
    watch = asyncio.create_task(refusal(user.watch(runs[1].run_id)))
    await until(lambda: app.inference.running == 1)
    for _ in range(2):
        await user.stub.DeleteThread(pb.DeleteThreadRequest(thread_id=thread_id), **user.options)
    await until(lambda: app.inference.running == 0)
    for run in runs:
        assert (await refusal(user.run(run.run_id)))[1] == "RUN_NOT_FOUND"
    watch.cancel()


async def test_runs_of_a_thread_wait_their_turn(app: App) -> None:
    hold = asyncio.Event()
    app.inference.script = [Reply(texts=["1"], hold=hold), Reply(texts=["2"]), Reply(texts=["3"])]
    user = app.user()
    thread_id = await user.thread()
    runs = [await user.start(thread_id, busy_policy=BUSY_POLICY_ENQUEUE) for _ in range(3)]
    await until(lambda: app.inference.running == 1)
    assert (await user.run(runs[1].run_id)).status == RUN_STATUS_PENDING
    thread = await user.find_thread(thread_id)
    assert (thread.state, thread.active_run_id) == (THREAD_STATE_BUSY, runs[0].run_id)
    hold.set()
    answers = [(await user.watch(run.run_id))[-1].finished.answer for run in runs]
    assert answers == ["1", "2", "3"]
    thread = await user.find_thread(thread_id)
    assert (thread.state, thread.active_run_id, thread.message_count) == (THREAD_STATE_IDLE, "", 6)


async def test_two_replicas_never_work_on_one_thread_at_once(app: App, around: Mesh) -> None:
    user = app.user()
    thread_id = await user.thread()
    async with around.replica() as other:
        users = [user, other.user()]
        runs = await asyncio.gather(*(users[n % 2].start(thread_id, str(n)) for n in range(30)))
        ends = [(await user.watch(run.run_id))[-1] for run in runs]
    assert {end.finished.status for end in ends} == {RUN_STATUS_SUCCEEDED}
    said = await user.messages(thread_id)
    assert [message.content for message in said[1::2]] == ["ok"] * 30, "no two conversations mix"
    assert sorted(message.content for message in said[::2]) == sorted(str(n) for n in range(30))


async def test_a_busy_thread_can_be_refused(app: App) -> None:
    app.inference.script = [Reply(hold=NEVER())]
    user = app.user()
    thread_id = await user.thread()
    first = await user.start(thread_id, busy_policy=BUSY_POLICY_REJECT)
    assert await refusal(user.start(thread_id, busy_policy=BUSY_POLICY_REJECT)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "THREAD_BUSY",
        {"run_id": first.run_id},
    )
    await user.cancel(first.run_id)
    await user.start(thread_id, busy_policy=BUSY_POLICY_REJECT)


@pytest.mark.parametrize(
    ("policy", "kept"), [(BUSY_POLICY_INTERRUPT, ["first", "It is"]), (BUSY_POLICY_ROLLBACK, [])]
)
async def test_a_new_run_may_end_the_one_before(app: App, policy: BusyPolicy, kept: list[str]) -> None:
    app.inference.script = [Reply(texts=["It is", " 42."], hold=NEVER())]
    user = app.user()
    thread_id = await user.thread()
    before = await user.start(thread_id, "first")
    await until(lambda: app.inference.running == 1)
    async for response in user.stub.WatchRun(pb.WatchRunRequest(run_id=before.run_id), **user.options):
        if response.event.delta.text:
            break
    waiting = await user.start(thread_id, "second")
    after = await user.start(thread_id, "third", busy_policy=policy)
    assert (await user.watch(after.run_id))[-1].finished.status == RUN_STATUS_SUCCEEDED
    for ended in (before, waiting):
        run_grammar.check(await user.watch(ended.run_id))
        assert (await user.run(ended.run_id)).status == RUN_STATUS_CANCELLED
    said = await user.messages(thread_id)
    assert [message.content for message in said] == [*kept, "third", "ok"]
    assert (await user.find_thread(thread_id)).message_count == len(said)


async def test_what_is_rolled_back_was_never_said(app: App) -> None:
    user = app.user()
    thread_id = await user.thread()
    runs = [await user.start(thread_id, text) for text in ("first", "second")]
    for run in runs:
        await user.watch(run.run_id)

    async def back(run_id: str) -> None:
        request = pb.CancelRunRequest(run_id=run_id, rollback=True)
        run = (await user.stub.CancelRun(request, **user.options)).run
        assert run.status == RUN_STATUS_SUCCEEDED, "it ended before"

    assert (await refusal(back(runs[0].run_id)))[:2] == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "RUN_BUILT_UPON",
    )
    for _ in range(2):
        await back(runs[1].run_id)
    assert [message.content for message in await user.messages(thread_id)] == ["first", "ok"]
    await back(runs[0].run_id)
    assert list(await user.messages(thread_id)) == []


async def test_a_run_that_works_can_be_rolled_back(app: App) -> None:
    app.inference.script = [Reply(texts=["It is", " 42."], hold=NEVER())]
    user = app.user()
    thread_id = await user.thread()
    run = await user.start(thread_id)
    await until(lambda: app.inference.running == 1)
    request = pb.CancelRunRequest(run_id=run.run_id, rollback=True)
    assert (await user.stub.CancelRun(request, **user.options)).run.status == RUN_STATUS_CANCELLED
    assert list(await user.messages(thread_id)) == []
    run_grammar.check(await user.watch(run.run_id))


async def test_a_run_that_nobody_watches_may_end(around: Mesh) -> None:
    around.inference.script = [Reply(texts=["It is", " 42."], hold=NEVER())]
    async with around.replica(watched_for_s=3.0, lease_s=1) as app:
        user = app.user()
        request = pb.StartRunRequest(
            thread_id=await user.thread(), input="?", disconnect_policy=DISCONNECT_POLICY_CANCEL
        )
        run = (await user.stub.StartRun(request, **user.options)).run
        watching = user.stub.WatchRun(pb.WatchRunRequest(run_id=run.run_id), **user.options)
        watched = asyncio.create_task(_events_of(watching))
        accepted = await _watched_until(around, run.run_id)
        async with asyncio.timeout(20):
            while await _watched_until(around, run.run_id) < accepted + timedelta(seconds=3):
                await asyncio.sleep(0.05)
        # It has lived for longer than it may without a watcher.
        assert (await user.run(run.run_id)).status == RUN_STATUS_RUNNING
        watching.cancel()
        await asyncio.wait({watched})
        async with asyncio.timeout(20):
            while (await user.run(run.run_id)).status == RUN_STATUS_RUNNING:
                await asyncio.sleep(0.05)
        assert (await user.run(run.run_id)).status == RUN_STATUS_CANCELLED


async def _watched_until(around: Mesh, run_id: str) -> datetime:
    connection = await asyncpg.connect(around.dsn)
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('ollamesh.system', 'on', true)")
            found: datetime = await connection.fetchval(
                "SELECT watched_until FROM runs WHERE run_id = $1", UUID(run_id)
            )
            return found
    finally:
        await connection.close()


async def _events_of(stream: AsyncIterable[pb.WatchRunResponse]) -> list[pb.WatchRunResponse]:
    return [response async for response in stream]


async def test_what_waits_and_works_is_bounded(around: Mesh) -> None:
    around.inference.otherwise = Reply(hold=NEVER())
    async with around.replica(workers_max=2, runs_max=4, caps=Caps(runs=3)) as app:
        ann, bob = app.user("ann"), app.user("bob")
        runs = [await ann.start(await ann.thread()) for _ in range(3)]
        code, reason, facts = await refusal(ann.start(await ann.thread()))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_RUNS")
        assert facts == {"runs_max": "3"}
        await bob.start(await bob.thread())
        assert (await refusal(bob.start(await bob.thread())))[2] == {"runs_max": "4"}
        await until(lambda: around.inference.running == 2)
        assert (await ann.run(runs[2].run_id)).status == RUN_STATUS_PENDING, "no worker is free"
        await ann.cancel(runs[0].run_id)
        await bob.start(await bob.thread())


async def test_a_caller_that_leaves_loses_nothing_that_was_accepted(app: App) -> None:
    user = app.user()
    thread_id = await user.thread()
    for n in range(20):
        request = pb.StartRunRequest(thread_id=thread_id, input="?", request_id=f"r{n}")
        call = user.stub.StartRun(request, **user.options)
        await asyncio.sleep(n / 4000)
        call.cancel()
    runs = [
        (await user.stub.StartRun(request, **user.options)).run
        for request in (
            pb.StartRunRequest(thread_id=thread_id, input="?", request_id=f"r{n}") for n in range(20)
        )
    ]
    for run in runs:
        assert (await user.watch(run.run_id))[-1].finished.status == RUN_STATUS_SUCCEEDED
    assert len({run.run_id for run in runs}) == 20
    assert len(await user.messages(thread_id)) == 40, "each was done once"
