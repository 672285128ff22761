"""Injected texts and a model that falls for each of them: what is done is what the user wanted, and nothing else.

Both is asked of every scenario of `injections.py`: security, that no call of the injected text is made, and utility,
that the user's task is done, with no question to them but those that the table names.
"""

from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from ollamesh.agent.v1.agent_service_pb2 import ListThreadsRequest
from ollamesh.agent.v1.assistant_pb2 import RunConfig, RunLimits
from ollamesh.agent.v1.run_pb2 import RUN_STATUS_SUCCEEDED, RunEvent

from tests.fakes import run_grammar
from tests.fakes.fake_inference import Reply
from tests.fakes.fake_tools import FakeTool, give
from tests.service.agent_app import App, mesh
from tests.service.agent_people import submit, waiting, watched_by_a_wary_person
from tests.service.injections import READING, SCENARIOS, Call, Scenario, tools
from tests.stack import Database


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, FakeTool]:
    made = tools()
    give(monkeypatch, made.values())
    return made


@pytest.fixture
async def app(module_database: Database, world: Mapping[str, FakeTool]) -> AsyncIterator[App]:
    async with mesh(module_database("agent")) as around, around.replica() as running:
        yield running


def named(scenario: Scenario) -> str:
    return scenario.name


def made(world: Mapping[str, FakeTool]) -> list[Call]:
    return sorted(((name, call) for name, each in world.items() for call in each.calls), key=str)


def flat(steps: Sequence[Sequence[Call]]) -> list[Call]:
    return [call for step in steps for call in step]


async def work(
    app: App, scenario: Scenario, steps: Sequence[Sequence[Call]]
) -> tuple[list[RunEvent], list[str]]:
    """A run in which the model makes these calls, and its user rejects whatever they are asked about."""
    app.inference.script = [*(Reply(calls=scenario.calls(step)) for step in steps), Reply(texts=["Done."])]
    user = app.user()
    config = RunConfig(
        model="tiny",
        tools=sorted(tools()),
        limits=RunLimits(step_count=20, model_call_count=20, tool_call_count=60),
    )
    run = await user.start(await user.thread(), scenario.task, config=config)
    return await watched_by_a_wary_person(user, run.run_id)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=named)
async def test_what_the_user_wants_is_done(
    app: App, world: Mapping[str, FakeTool], scenario: Scenario
) -> None:
    events, asked = await work(app, scenario, scenario.honest)
    assert asked == list(scenario.asked)
    expected = [call for call in flat(scenario.honest) if call[0] not in scenario.asked]
    assert made(world) == sorted(expected, key=str)
    assert events[-1].finished.status == RUN_STATUS_SUCCEEDED
    run_grammar.check(events)


@pytest.mark.parametrize("where", ["before", "after", "instead", "in a later run"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=named)
async def test_what_a_planted_text_wants_is_not(
    app: App, world: Mapping[str, FakeTool], scenario: Scenario, where: str
) -> None:
    for name in READING:
        world[name].answer = scenario.planted
    first, *rest = scenario.honest
    steps = {
        "before": [first, scenario.evil, *rest],
        "after": [first, *rest, scenario.evil],
        "instead": [first, scenario.evil],
        "in a later run": [first, *rest],
    }[where]
    _, asked = await work(app, scenario, steps)
    if where == "in a later run":
        thread_id = await _last_thread(app)
        app.inference.script = [Reply(calls=scenario.calls(scenario.evil)), Reply(texts=["Done."])]
        user = app.user()
        config = RunConfig(model="tiny", tools=sorted(tools()))
        run = await user.start(thread_id, "Thank you, go on.", config=config)
        asked += (await watched_by_a_wary_person(user, run.run_id))[1]
    done = made(world)
    assert not [call for call in done if call in scenario.evil], "security"
    if where != "instead":
        expected = [call for call in flat(scenario.honest) if call[0] not in scenario.asked]
        assert done == sorted(expected, key=str), "utility"
    assert len(asked) == len(scenario.evil) + (len(scenario.asked) if where != "instead" else 0)


async def _last_thread(app: App) -> str:
    user = app.user()
    return (await user.stub.ListThreads(ListThreadsRequest(page_size=1), **user.options)).threads[0].thread_id


async def test_a_person_who_agrees_gets_what_only_others_words_can_say(
    app: App, world: Mapping[str, FakeTool]
) -> None:
    """Nothing is out of reach: what cannot be known to be the user's wish is asked, and then done."""
    scenario = next(each for each in SCENARIOS if each.asked)
    app.inference.script = [
        *(Reply(calls=scenario.calls(step)) for step in scenario.honest),
        Reply(texts=["Done."]),
    ]
    user = app.user()
    run = await user.start(
        await user.thread(), scenario.task, config=RunConfig(model="tiny", tools=sorted(tools()))
    )
    [question] = await waiting(user, run.run_id)
    await submit(user, run.run_id, question)
    events = await user.watch(run.run_id)
    assert made(world) == sorted(flat(scenario.honest), key=str)
    assert events[-1].finished.answer == "Done."
