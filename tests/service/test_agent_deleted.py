"""What is deleted is gone: from every table of the service, and from the sandbox."""

import asyncio
import json
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest
from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.auth.v1 import audit_pb2

from services.agent.adapters.checkpoints import SEAL_PURPOSE, Checkpoints
from services.common.postgres import Database as Pool
from services.common.seals import Seals
from tests.contract.checkpoint_rig import put
from tests.fakes.fake_inference import Reply
from tests.service.agent_app import ENCRYPTION_KEY, App, User, mesh, refusal, until
from tests.stack import Database

PLANT = "plant-7f3a-must-be-nowhere"
CODE = f"print('{PLANT}')"
CALL = Reply(texts=[PLANT], calls=[("run_python", json.dumps({"code": CODE}))])


@pytest.fixture
async def app(database: Database) -> AsyncIterator[App]:
    async with mesh(database("agent")) as around, around.replica() as running:
        yield running


async def everything(database: Database) -> dict[str, str]:
    """Each table of the service, as text; what is binary, as hexadecimal digits."""
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        names = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'agent'::regnamespace AND relkind IN ('r', 'p')"
        )
        return {
            name: "\n".join(
                str(row[0]) for row in await connection.fetch(f'SELECT t::text FROM agent."{name}" t')
            )
            for (name,) in names
        }
    finally:
        await connection.close()


def holding(tables: dict[str, str], *wanted: str) -> set[str]:
    """The tables that hold any of it, in clear or as digits."""
    digits = [text.encode().hex() for text in wanted] + [text.replace("-", "") for text in wanted]
    return {name for name, text in tables.items() if any(one in text for one in (*wanted, *digits))}


async def ran(app: App, user: User, thread_id: str) -> str:
    app.inference.script = [CALL, Reply(texts=[f"It is {PLANT}."])]
    request = pb.StartRunRequest(
        thread_id=thread_id,
        input=f"Say {PLANT}",
        request_id=f"run-{uuid4()}",
        config={"tools": ["run_python"]},
    )
    run = (await user.stub.StartRun(request, **user.options)).run
    await user.watch(run.run_id)
    return run.run_id


async def fill_the_rest(database: Database, thread_id: str, run_id: str) -> None:
    """A row in each table that such a run by itself writes nothing to."""
    run, plant = UUID(run_id), PLANT.encode()
    connection = await asyncpg.connect(database.system("agent"))
    await connection.execute(
        "INSERT INTO approvals (approval_id, run_id, call_id, decision, user_id, arguments_json, reason)"
        " VALUES (gen_random_uuid(), $1, 'c', 'EDITED', 'ann', $2, $2)",
        run,
        plant,
    )
    await connection.execute(
        "INSERT INTO tool_claims (run_id, call_id) VALUES ($1, 'c') ON CONFLICT DO NOTHING", run
    )
    await connection.execute(
        "INSERT INTO thread_summaries (thread_id, position, summary) VALUES ($1, 1, $2) ON CONFLICT DO NOTHING",
        UUID(thread_id),
        plant,
    )
    await connection.close()
    async with Pool.connect(database("agent"), connections_max=1) as connected:
        saver = Checkpoints(connected, Seals([ENCRYPTION_KEY], purpose=SEAL_PURPOSE)).of("o", None)
        await put(saver, run_id)


async def test_a_deleted_thread_leaves_nothing_of_its_own_and_all_of_others(
    app: App, database: Database
) -> None:
    ann = app.user()
    made = pb.CreateThreadRequest(display_name=PLANT, labels={"note": PLANT}, request_id="thread")
    thread_id = (await ann.stub.CreateThread(made, **ann.options)).thread.thread_id
    kept_id = await ann.thread()
    gone, kept = await ran(app, ann, thread_id), await ran(app, ann, kept_id)
    for where, which in ((thread_id, gone), (kept_id, kept)):
        await fill_the_rest(database, where, which)
    assert len(app.sandbox.sessions) == 2
    before = await everything(database)
    holds_of_threads = {
        *("threads", "messages", "runs", "run_events", "requests", "approvals", "tool_claims"),
        *("checkpoints", "thread_sessions", "thread_summaries"),
    }
    assert holds_of_threads <= holding(before, thread_id, gone, PLANT)
    assert holds_of_threads <= holding(before, kept_id, kept)

    for _ in range(2):
        await ann.stub.DeleteThread(pb.DeleteThreadRequest(thread_id=thread_id), **ann.options)
    after = await everything(database)
    assert holding(after, thread_id, gone) == set()
    assert holds_of_threads <= holding(after, kept_id, kept)
    assert len(app.sandbox.sessions) == 1
    assert (await ann.find_thread(kept_id)).message_count == 4

    await ann.stub.DeleteThread(pb.DeleteThreadRequest(thread_id=kept_id), **ann.options)
    assert holding(await everything(database), kept_id, kept, PLANT) == set()
    assert not app.sandbox.sessions
    assert not app.identity.mandates
    await until(lambda: len(deleted(app)) >= 2)
    assert {event.object for event in deleted(app)} == {f"thread/{thread_id}", f"thread/{kept_id}"}
    assert {(event.user_id, event.organization_id) for event in deleted(app)} == {("ann", "o")}


def deleted(app: App) -> list[audit_pb2.AuditEvent]:
    return [event for event in app.identity.audited if event.action == audit_pb2.AUDIT_ACTION_DATA_DELETED]


async def test_the_request_that_made_what_is_gone_may_make_another(app: App) -> None:
    ann = app.user()
    request = pb.CreateThreadRequest(display_name="mine", request_id="r")
    first = (await ann.stub.CreateThread(request, **ann.options)).thread
    await ann.stub.DeleteThread(pb.DeleteThreadRequest(thread_id=first.thread_id), **ann.options)
    second = (await ann.stub.CreateThread(request, **ann.options)).thread
    assert second.thread_id != first.thread_id


async def test_a_thread_is_deleted_while_a_run_works_on_it(app: App, database: Database) -> None:
    ann = app.user()
    thread_id = await ann.thread()
    app.inference.script = [Reply(texts=[PLANT], hold=asyncio.Event())]
    run = await ann.start(thread_id, f"Say {PLANT}")
    await until(lambda: app.inference.running > 0)
    await ann.stub.DeleteThread(pb.DeleteThreadRequest(thread_id=thread_id), **ann.options)
    assert holding(await everything(database), thread_id, run.run_id, PLANT) == set()
    assert await refusal(ann.run(run.run_id)) == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND", {})


async def test_a_sandbox_that_is_away_does_not_keep_a_thread(app: App, database: Database) -> None:
    ann = app.user()
    thread_id = await ann.thread()
    run_id = await ran(app, ann, thread_id)
    app.sandbox.sessions.clear()
    await ann.stub.DeleteThread(pb.DeleteThreadRequest(thread_id=thread_id), **ann.options)
    assert holding(await everything(database), thread_id, run_id, PLANT) == set()
