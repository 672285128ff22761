"""Answers that must keep a JSON Schema, and calls that are not written as they should be: what becomes of them."""

import json
from collections.abc import AsyncIterator

import pytest
from ollamesh.agent.v1.assistant_pb2 import RunConfig
from ollamesh.agent.v1.error_reason_pb2 import ERROR_REASON_OUTPUT_INVALID
from ollamesh.agent.v1.run_pb2 import RUN_STATUS_FAILED, RUN_STATUS_LIMITED, RUN_STATUS_SUCCEEDED, RunEvent
from ollamesh.inference.v1 import completion_pb2 as asked_pb

from tests.fakes import run_grammar
from tests.fakes.fake_inference import Reply
from tests.service.agent_app import App, broken_fields, mesh
from tests.stack import Database

SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
PLAIN = RunConfig(model="tiny", response_json_schema=json.dumps(SCHEMA))
WITH_TOOLS = RunConfig(model="tiny", response_json_schema=json.dumps(SCHEMA), tools=["run_python"])
CALL = ("run_python", '{"code": "print(42)"}')


@pytest.fixture
async def app(module_database: Database) -> AsyncIterator[App]:
    async with mesh(module_database("agent")) as around, around.replica() as made:
        yield made


async def ended(app: App, config: RunConfig) -> list[RunEvent]:
    user = app.user()
    events = await user.watch((await user.start(await user.thread(), config=config)).run_id)
    run_grammar.check(events)
    return events


def asked(app: App) -> list[asked_pb.ChatRequest]:
    return [each.request for each in app.inference.asked]


async def test_without_tools_the_runtime_is_asked_for_the_schema_at_once(app: App) -> None:
    app.inference.script = [Reply(texts=['{"sum"', ": 42}"])]
    finished = (await ended(app, PLAIN))[-1].finished
    assert (finished.status, finished.answer) == (RUN_STATUS_SUCCEEDED, '{"sum": 42}')
    assert [json.loads(request.format.json_schema) for request in asked(app)] == [SCHEMA]


async def test_with_tools_an_answer_that_breaks_it_is_asked_for_again_without_them(app: App) -> None:
    app.inference.script = [
        Reply(calls=[CALL]),
        Reply(texts=["It is 42."]),
        Reply(texts=['{"sum": "42"}']),
        Reply(texts=['```json\n{"sum": 42}\n```']),
    ]
    events = await ended(app, WITH_TOOLS)
    assert events[-1].finished.answer == '{"sum": 42}', "the marks of a code block are no part of it"
    first, second, third, fourth = asked(app)
    assert [len(request.tools) for request in (first, second, third, fourth)] == [1, 1, 0, 0]
    assert [request.HasField("format") for request in (first, second, third, fourth)] == [
        False,
        False,
        True,
        True,
    ]
    assert "is not JSON" in third.messages[-1].content
    assert "'42' is not of type 'integer'" in fourth.messages[-1].content
    steps = [event.step_finished.step for event in events if event.HasField("step_finished")]
    assert steps == [1, 2, 3, 4], "each time it is asked is a step"
    assert events[-1].finished.usage.model_call_count == 4


async def test_after_two_repairs_the_run_has_failed(app: App) -> None:
    app.inference.otherwise = Reply(texts=["No."])
    for config in (PLAIN, WITH_TOOLS):
        app.inference.asked.clear()
        finished = (await ended(app, config))[-1].finished
        assert (finished.status, finished.failure_reason) == (RUN_STATUS_FAILED, ERROR_REASON_OUTPUT_INVALID)
        assert "is not JSON" in finished.failure_message
        assert len(app.inference.asked) == 3


async def test_what_is_said_in_the_thread_is_what_the_model_said(app: App) -> None:
    app.inference.script = [Reply(texts=["No."]), Reply(texts=['{"sum": 1}'])]
    user = app.user()
    thread_id = await user.thread()
    await user.watch((await user.start(thread_id, config=PLAIN)).run_id)
    said = [message.content for message in await user.messages(thread_id)]
    assert said == ["What is 6 * 7?", "No.", '{"sum": 1}']


async def test_limits_hold_for_repairs_too(app: App) -> None:
    app.inference.otherwise = Reply(texts=["No."])
    config = RunConfig(model="tiny", response_json_schema="{}")
    config.limits.step_count = 1
    finished = (await ended(app, config))[-1].finished
    assert finished.status == RUN_STATUS_LIMITED


@pytest.mark.parametrize("schema", ["{", "[]", '{"type": "objekt"}', '{"$ref": 3}'])
async def test_what_is_no_schema_is_refused(app: App, schema: str) -> None:
    user = app.user()
    config = RunConfig(model="tiny", response_json_schema=schema)
    assert await broken_fields(user.start(await user.thread(), config=config)) == {
        "config.response_json_schema"
    }


async def test_calls_are_told_as_they_were_meant(app: App) -> None:
    app.inference.script = [
        Reply(calls=[("RunPython", "{\"arguments\": \"{'code': 'print(42)',}\"}")]),
        Reply(
            texts=[
                "I will.\n",
                '<tool_call>{"name": "run_python", "argu',
                'ments": {"code": "1"}}</tool_call>',
            ]
        ),
        Reply(texts=["Done."]),
    ]
    config = RunConfig(model="tiny", tools=["run_python"])
    events = await ended(app, config)
    calls = [event.tool_called.call for event in events if event.HasField("tool_called")]
    assert [(call.tool_name, json.loads(call.arguments_json)) for call in calls] == [
        ("run_python", {"code": "print(42)"}),
        ("run_python", {"code": "1"}),
    ]
    text = "".join(event.delta.text for event in events)
    assert text == "I will.\nDone.", "a call is no text"
    pieces = [event.delta.tool_call for event in events if event.delta.HasField("tool_call")]
    assert [(piece.index, piece.tool_name) for piece in pieces] == [(0, "run_python")] * 2


async def test_a_wrong_call_is_explained_and_not_made(app: App) -> None:
    app.inference.script = [
        Reply(calls=[("run_python", '{"program": 1}'), ("run_python", "what?")]),
        Reply(texts=["Sorry."]),
    ]
    events = await ended(app, RunConfig(model="tiny", tools=["run_python"]))
    returned = [event.tool_returned for event in events if event.HasField("tool_returned")]
    assert all(each.failed for each in returned)
    told = {each.content for each in returned}
    assert any("'code' is a required property" in content for content in told)
    assert any("they are no JSON object" in content for content in told)
    assert not app.sandbox.specs
    assert events[-1].finished.status == RUN_STATUS_SUCCEEDED
