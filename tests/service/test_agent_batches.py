"""Many runs at once: all or none, each on a thread of its own, with the user's rights and within their bounds."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest
from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.agent.v1.assistant_pb2 import RunConfig
from ollamesh.agent.v1.run_pb2 import RUN_STATUS_SUCCEEDED, Run

from services.agent.core.caps import Caps
from services.agent.core.prompt import INPUT_CODE_POINTS_MAX
from tests.fakes.fake_inference import Reply
from tests.service.agent_app import App, Mesh, User, app, broken_fields, mesh, refusal, until
from tests.stack import Database

__all__ = ["app"]

PLAIN = RunConfig(model="tiny")


@pytest.fixture
async def around(database: Database) -> AsyncIterator[Mesh]:
    async with mesh(database("agent")) as made:
        yield made


async def start(
    user: User, inputs: Sequence[str], *, request_id: str = "", config: RunConfig = PLAIN, **more: str
) -> Sequence[Run]:
    request = pb.StartRunsRequest(inputs=inputs, request_id=request_id, config=config, **more)
    return (await user.stub.StartRuns(request, **user.options)).runs


async def count_of_threads(user: User) -> int:
    listed = await user.stub.ListThreads(pb.ListThreadsRequest(page_size=100), **user.options)
    return len(listed.threads)


async def test_each_input_has_a_run_and_a_thread_and_an_answer(app: App) -> None:
    ann = app.user()
    app.inference.otherwise = Reply(texts=["fine"])
    inputs = [f"question {n}" for n in range(12)]
    runs = await start(ann, inputs)
    assert len({run.thread_id for run in runs}) == len({run.run_id for run in runs}) == 12
    assert all(run.is_batch and not run.HasField("config") for run in runs)
    for text, run in zip(inputs, runs, strict=True):
        await ann.watch(run.run_id)
        ended = await ann.run(run.run_id)
        assert (ended.status, ended.is_batch, ended.config.model) == (RUN_STATUS_SUCCEEDED, True, "tiny")
        said = await ann.messages(run.thread_id)
        assert [message.content for message in said] == [text, "fine"]
    assert len(app.identity.mandates) == 1, "they act by one mandate, which none of them ends"


async def test_the_same_request_starts_them_once_also_when_it_races(app: App) -> None:
    ann = app.user()
    found = await asyncio.gather(*(start(ann, ["a", "b"], request_id="r") for _ in range(4)))
    assert len({tuple(run.run_id for run in runs) for runs in found}) == 1
    assert await count_of_threads(ann) == 2
    assert len(app.identity.mandates) == 1, "mandates of twins that were too late are ended"
    code, reason, _ = await refusal(start(ann, ["a", "c"], request_id="r"))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_the_same_request_finds_what_is_left_of_them(app: App) -> None:
    ann = app.user()
    first, second = await start(ann, ["a", "b"], request_id="r")
    await ann.stub.DeleteThread(pb.DeleteThreadRequest(thread_id=first.thread_id), **ann.options)
    assert [run.run_id for run in await start(ann, ["a", "b"], request_id="r")] == [second.run_id]
    await ann.stub.DeleteThread(pb.DeleteThreadRequest(thread_id=second.thread_id), **ann.options)
    anew = await start(ann, ["a", "b"], request_id="r")
    assert len(anew) == 2
    assert {first.run_id, second.run_id}.isdisjoint(run.run_id for run in anew)


async def test_one_input_that_cannot_be_refuses_all(app: App) -> None:
    ann = app.user()
    too_long = "x" * (INPUT_CODE_POINTS_MAX + 1)
    assert await broken_fields(start(ann, ["fine", too_long, "fine", too_long])) == {"inputs[1]", "inputs[3]"}
    assert await broken_fields(start(ann, [])) == {"inputs"}
    assert await broken_fields(start(ann, ["fine", ""])) == {"inputs[1]"}
    bad = RunConfig(tools=["run_python"], first_tool="other")
    assert await broken_fields(start(ann, ["fine"], config=bad)) == {"config.first_tool"}
    assert (await refusal(start(ann, ["fine"], assistant_id="none")))[1] == "ASSISTANT_NOT_FOUND"
    assert await count_of_threads(ann) == 0
    assert not app.identity.mandates


async def test_no_more_than_there_may_be_and_then_none(around: Mesh) -> None:
    async with around.replica(caps=Caps(threads=5, batch_runs=4)) as app:
        ann = app.user()
        app.inference.otherwise = Reply(texts=["x"], hold=asyncio.Event())
        code, reason, facts = await refusal(start(ann, ["q"] * 5))
        assert (code, reason, facts) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "TOO_MANY_RUNS",
            {"runs_max": "4"},
        )
        assert len(await start(ann, ["q"] * 3)) == 3
        assert (await refusal(start(ann, ["q"] * 2)))[1] == "TOO_MANY_RUNS"
        assert await count_of_threads(ann) == 3
        for _ in range(2):
            await ann.thread()
        code, reason, facts = await refusal(start(ann, ["q"]))
        assert (code, reason, facts["limit"]) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "TOO_MANY_OBJECTS",
            "threads",
        )
        assert len(app.identity.mandates) == 1, "of refused batches nothing is left"
        assert len(await start(app.user("bob"), ["q"] * 4)) == 4


async def test_while_auth_is_away_nothing_is_accepted(app: App) -> None:
    ann = app.user()
    app.identity.answers = False
    code, reason, _ = await refusal(start(ann, ["q"]))
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "AUTH_UNAVAILABLE")
    assert await count_of_threads(ann) == 0


async def test_a_token_that_cannot_ask_a_model_starts_none(app: App) -> None:
    token = app.identity.token(user_id="ann", org="o", aud=["agent"])
    ann = User(app.user().stub, token)
    code, reason, facts = await refusal(start(ann, ["q"]))
    assert (code, reason, facts) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "SCOPE_REQUIRED",
        {"scope": "inference"},
    )


async def test_what_users_run_elsewhere_counts(around: Mesh) -> None:
    async with around.replica(caps=Caps(runs=2)) as one, around.replica(caps=Caps(runs=2)) as other:
        one.inference.otherwise = Reply(texts=["x"], hold=asyncio.Event())
        here, there = one.user(), other.user()
        runs = [await where.start(await where.thread()) for where in (here, there)]
        for where in (here, there):
            code, reason, facts = await refusal(where.start(await where.thread()))
            assert (code, reason, facts) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "TOO_MANY_RUNS",
                {"runs_max": "2"},
            )
        assert len(await start(here, ["q"] * 3)) == 3, "batches are counted apart"
        await here.cancel(runs[0].run_id)
        assert (await there.start(await there.thread())).run_id


async def test_a_thread_has_so_many_runs(around: Mesh) -> None:
    async with around.replica(caps=Caps(runs_per_thread=2)) as app:
        ann = app.user()
        thread_id = await ann.thread()
        for _ in range(2):
            await ann.watch((await ann.start(thread_id, config=PLAIN)).run_id)
        code, reason, facts = await refusal(ann.start(thread_id, config=PLAIN))
        assert (code, reason, facts) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "TOO_MANY_OBJECTS",
            {"limit": "runs_per_thread", "max": "2"},
        )
        assert (await ann.start(await ann.thread(), config=PLAIN)).run_id


async def test_a_batch_takes_no_place_from_what_its_user_asks_for_meanwhile(around: Mesh) -> None:
    async with around.replica(caps=Caps(runs=2)) as app:
        ann = app.user()
        app.inference.otherwise = Reply(texts=["x"], hold=asyncio.Event())
        await start(ann, ["q"] * 6)
        await until(lambda: app.inference.running >= 3)
        for _ in range(2):
            await ann.start(await ann.thread(), config=PLAIN)
        await until(lambda: app.inference.running >= 5)
        assert (await refusal(ann.start(await ann.thread())))[1] == "TOO_MANY_RUNS"
