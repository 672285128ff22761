"""What is left of runs when parts are lost: the process, the store, the services behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from urllib.request import urlopen

import grpc
import grpc.aio
import pytest
from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.agent.v1.assistant_pb2 import RunConfig
from ollamesh.agent.v1.error_reason_pb2 import ErrorReason
from ollamesh.agent.v1.run_pb2 import (
    RUN_STATUS_CANCELLED,
    RUN_STATUS_SUCCEEDED,
    Run,
    RunEvent,
)

from tests.contract.agent_replica import execute
from tests.fakes import run_grammar
from tests.fakes.fake_inference import Reply
from tests.fakes.fake_sandbox import Execution
from tests.fakes.scripted_mesh import Unavailable
from tests.fakes.severable import Severable
from tests.service.agent_app import App, Mesh, User, mesh, refusal, until
from tests.service.agent_process import READY, process, readiness
from tests.stack import Database

CALL = Reply(texts=["See:"], calls=[("run_python", '{"code": "1"}')])


@pytest.fixture
async def around(database: Database) -> AsyncIterator[Mesh]:
    async with mesh(database("agent")) as made:
        yield made


def assert_done(events: list[RunEvent], ended: Run) -> None:
    run_grammar.check(events)
    assert ended.status == events[-1].finished.status == RUN_STATUS_SUCCEEDED


async def test_another_goes_on_with_what_a_killed_process_left(around: Mesh) -> None:
    """One run in a tool, one in the middle of an answer, one that waits, one that was to be cancelled."""
    hold = asyncio.Event()
    async with around.replica() as alive, process(around) as dying:
        there = dying.user()
        around.inference.script = [CALL]
        around.sandbox.script = [Execution(stdout=[b"1"], hold=hold)]
        acting = await there.start(await there.thread())
        await until(lambda: around.sandbox.running == 1)
        around.inference.script = [Reply(texts=["half", ""], hold=hold), Reply(hold=hold)]
        thread_id = await there.thread()
        writing, waiting = await there.start(thread_id), await there.start(thread_id)
        await shows(there, writing.run_id, "half")
        unwanted = await there.start(await there.thread())

        here = alive.user()
        around.inference.script = []
        watching = [asyncio.create_task(here.watch(run.run_id)) for run in (acting, writing, waiting)]
        dying.running.send_signal(signal.SIGKILL)
        dying.running.wait()
        hold.set()  # The sandbox has gone on with what was asked of it.
        assert (await here.cancel(unwanted.run_id)).status == RUN_STATUS_CANCELLED
        told = [await events for events in watching]
        for run, events in zip((acting, writing, waiting), told, strict=True):
            assert_done(events, await here.run(run.run_id))
        assert [event.WhichOneof("event") for event in told[0]].count("tool_called") == 1
        assert any(event.HasField("step_restarted") for event in told[1]), "what it says now is another text"
        said = [message.content for message in await here.messages(thread_id)]
        assert said == ["What is 6 * 7?", "ok", "What is 6 * 7?", "ok"]


async def test_a_process_that_is_told_to_stop_gives_its_runs_back(around: Mesh) -> None:
    around.inference.script = [Reply(texts=["o", ""], hold=asyncio.Event())]
    async with process(around) as stopping:
        there = stopping.user()
        run = await there.start(await there.thread())
        await shows(there, run.run_id, "o")
        stopping.running.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(stopping.running.wait, 20) == 0
    async with around.replica(lease_s=60) as alive:
        events = await alive.user().watch(run.run_id)
        assert_done(events, await alive.user().run(run.run_id))
        assert run_grammar.text_of(events) == "ok"
        assert not any(event.HasField("step_restarted") for event in events), "it says the same again"


async def shows(user: User, run_id: str, text: str) -> None:
    shown = ""
    async for response in user.stub.WatchRun(pb.WatchRunRequest(run_id=run_id), **user.options):
        shown += response.event.delta.text
        if shown == text:
            return


async def test_a_replica_that_was_given_up_stops_what_it_does(around: Mesh, database: Database) -> None:
    """It was only slow: somebody else has its run, and nothing it does counts any more."""
    around.inference.script = [Reply(texts=["half", ""], hold=asyncio.Event())]
    async with around.replica(lease_s=0.5) as slow:
        user = slow.user()
        run = await user.start(await user.thread())
        await shows(user, run.run_id, "half")
        await execute(
            database,
            "UPDATE runs SET holder = gen_random_uuid(), fence = fence + 1, lease_until = now()",
        )
        assert_done(await user.watch(run.run_id), await user.run(run.run_id))
        assert around.inference.running == 0


async def test_a_run_whose_user_may_not_any_more_ends(around: Mesh, database: Database) -> None:
    around.inference.script = [Reply(texts=["half", ""], hold=asyncio.Event())]
    async with around.replica(lease_s=0.5) as replica:
        user = replica.user()
        run = await user.start(await user.thread())
        await shows(user, run.run_id, "half")
        await until(lambda: len(around.identity.mandates) == 1)
        around.identity.mandates.clear()
        await execute(database, "UPDATE runs SET holder = gen_random_uuid(), lease_until = now()")
        run_grammar.check(await user.watch(run.run_id))
        ended = await user.run(run.run_id)
    assert ended.failure_reason == ErrorReason.ERROR_REASON_ACCESS_ENDED


async def becomes(channel: grpc.aio.Channel, *, ready: bool) -> None:
    async with asyncio.timeout(20):
        while (await readiness(channel) == READY) != ready:
            await asyncio.sleep(0.05)


@asynccontextmanager
async def severable(database: Database) -> AsyncIterator[tuple[Severable, str]]:
    """The database behind a cable, and the DSN that goes through it."""
    dsn = database("agent")
    port = urlsplit(dsn).port
    assert port
    async with Severable.to(port) as cable:
        yield cable, dsn.replace(f":{port}/", f":{cable.port}/")


async def test_without_its_store_it_is_not_ready_and_accepts_nothing(database: Database) -> None:
    async with severable(database) as (cable, dsn), mesh(dsn) as around, around.replica() as app:
        user = app.user()
        thread_id = await user.thread()
        await becomes(app.channel, ready=True)
        await cable.cut()
        for call in (user.thread(), user.start(thread_id), user.find_thread(thread_id)):
            code, reason, _ = await refusal(call)
            assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        await becomes(app.channel, ready=False)
        assert await readiness(app.channel, "liveness") == READY
        await cable.mend()
        await becomes(app.channel, ready=True)
        events = await user.watch((await user.start(thread_id)).run_id)
        assert events[-1].finished.status == RUN_STATUS_SUCCEEDED


async def test_a_run_outlives_a_short_absence_of_the_store(database: Database) -> None:
    async with severable(database) as (cable, dsn), mesh(dsn) as around, around.replica(lease_s=20) as app:
        hold = asyncio.Event()
        around.inference.script = [Reply(texts=["It is", " 42."], hold=hold)]
        user = app.user()
        run = await user.start(await user.thread())
        await shows(user, run.run_id, "It is")
        await cable.cut()
        hold.set()
        await until(lambda: around.inference.running == 0)
        await cable.mend()
        events = await user.watch(run.run_id)
        run_grammar.check(events)
        assert events[-1].finished.answer == "It is 42."


async def test_a_run_goes_on_once_the_store_is_back(database: Database) -> None:
    async with severable(database) as (cable, dsn), mesh(dsn) as around, around.replica(lease_s=1) as app:
        around.inference.script = [Reply(texts=["It is", " 42."], hold=(hold := asyncio.Event()))]
        user = app.user()
        run = await user.start(await user.thread())
        await shows(user, run.run_id, "It is")
        await cable.cut()
        hold.set()
        await asyncio.sleep(2.5)  # Longer than the lease: the run was given up by then.
        await cable.mend()
        async with asyncio.timeout(20):
            while (await maybe(user, run.run_id)) is None:
                await asyncio.sleep(0.1)
        assert_done(await user.watch(run.run_id), await user.run(run.run_id))


async def maybe(user: User, run_id: str) -> Run | None:
    """The run, once it can be read and has ended."""
    try:
        run = await user.run(run_id)
    except grpc.aio.AioRpcError:
        return None
    return run if run.HasField("end_time") else None


async def test_the_guides_metrics(around: Mesh) -> None:
    async with around.replica() as app:
        user = app.user()
        around.inference.script = [Reply(hold=asyncio.Event()), Reply(texts=["ok"])]
        held = await user.start(await user.thread())
        await until(lambda: around.inference.running == 1)
        await user.watch((await user.start(await user.thread())).run_id)
        await shows_sample(app, "agent_active_requests", 1)
        await user.cancel(held.run_id)
        around.inference.otherwise = Reply(failure=Unavailable())
        invented = await user.start(await user.thread(), config=RunConfig(model="made-up"))
        await user.watch(invented.run_id)
        await shows_sample(app, "agent_active_requests", 0)
        await shows_sample(app, 'agent_requests_total{model="tiny",status="succeeded"}', 1)
        await shows_sample(app, 'agent_requests_total{model="tiny",status="cancelled"}', 1)
        await shows_sample(app, 'agent_requests_total{model="other",status="failed"}', 1)
        await shows_sample(app, 'agent_request_duration_seconds_count{model="tiny"}', 2)


async def shows_sample(app: App, name: str, value: float) -> None:
    """Soon: a run is counted once its last event is committed, which its watchers may hear of first."""
    async with asyncio.timeout(10):
        while await sample(app, name) != value:
            await asyncio.sleep(0.02)


async def sample(app: App, name: str) -> float | None:
    url = f"http://127.0.0.1:{app.config.server.metrics_port}/metrics"
    text = (await asyncio.to_thread(lambda: urlopen(url).read())).decode()
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return next((float(value) for key, value in lines if key == name), None)


def test_what_is_missing_is_named_and_no_value() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.agent"],
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OLLAMESH_AGENT_PORT": "hunter2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "agent: DATABASE_URL is not set" in done.stderr
    assert "agent: OLLAMESH_AGENT_PORT is not a whole number" in done.stderr
    assert "hunter2" not in done.stderr
