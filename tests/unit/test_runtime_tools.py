"""How a model without tools is made to call one, and to stop."""

import json

import pytest

from deploy.local.runtime.errors import RunnerRefusedError
from deploy.local.runtime.prompts import without_oldest
from deploy.local.runtime.schemas import check_written, constraint
from deploy.local.runtime.tools import IN_WORDS, plan, read_call
from deploy.local.runtime.wire.requests import ChatRequest, Json, parse

RUN = {
    "type": "function",
    "function": {"name": "run", "parameters": {"type": "object", "properties": {"code": {}}}},
}
LOOK = {"type": "function", "function": {"name": "look", "description": "Look around."}}
ASKED = {"role": "user", "content": "What is 2 + 3?"}
CALLED = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"function": {"name": "run", "arguments": {"code": "print(2 + 3)"}}}],
}
RETURNED = {"role": "tool", "tool_name": "run", "content": "5"}


def chat(*messages: object, **fields: object) -> ChatRequest:
    return parse(json.dumps({"model": "m", "messages": messages, **fields}).encode(), ChatRequest)


def test_without_tools_nothing_is_changed() -> None:
    turn = plan(chat(ASKED))
    assert turn.messages == [ASKED]
    assert not turn.constraint
    assert not turn.must_call


def test_before_a_tool_has_answered_one_must_be_called() -> None:
    for messages in ([ASKED], [ASKED, CALLED, RETURNED, {"role": "assistant", "content": "5"}, ASKED]):
        turn = plan(chat(*messages, tools=[RUN, LOOK]))
        assert turn.must_call
        calls = turn.constraint["json_schema"]["anyOf"]  # type: ignore[index]
        assert [call["properties"]["name"] for call in calls] == [{"const": "run"}, {"const": "look"}]
        assert turn.messages[0]["role"] == "system"
        assert "Look around." in turn.messages[0]["content"]


def test_the_tools_join_the_callers_system_message() -> None:
    turn = plan(chat({"role": "system", "content": "Be brief."}, ASKED, tools=[RUN]))
    assert [message["role"] for message in turn.messages] == ["system", "user"]
    assert turn.messages[0]["content"].startswith("Be brief.\n\n")


def test_once_a_tool_has_answered_the_model_answers_in_words() -> None:
    turn = plan(chat(ASKED, CALLED, RETURNED, tools=[RUN]))
    assert turn.constraint == {"grammar": IN_WORDS}
    assert not turn.must_call
    assert [message["content"] for message in turn.messages[1:]] == [
        '{"name":"run","arguments":{"code":"print(2 + 3)"}}',
        "The tool run returned: 5\nNow answer in one sentence: What is 2 + 3?",
    ]
    assert turn.messages[2]["role"] == "user"


def test_a_format_holds_where_no_call_is_due() -> None:
    schema = {"type": "integer"}
    assert "json_schema" in plan(chat(ASKED, CALLED, RETURNED, tools=[RUN], format=schema)).constraint
    assert plan(chat(ASKED, format=schema)).must_be_json


def test_roles_are_read_as_ollama_does() -> None:
    assert plan(chat({"role": "USER", "content": "hi"})).messages == [{"role": "user", "content": "hi"}]


def schema_of(parameters: Json) -> Json:
    tool = {"type": "function", "function": {"name": "run", "parameters": parameters}}
    turn = plan(chat(ASKED, tools=[RUN, tool]))
    schema = turn.constraint["json_schema"]
    assert isinstance(schema, dict)
    return schema


def test_open_objects_are_closed_and_a_parameter_may_have_any_name() -> None:
    point: Json = {
        "type": "object",
        "properties": {"properties": {"type": "string"}, "type": {"type": "string"}},
    }
    arguments = schema_of(point)["anyOf"][1]["properties"]["arguments"]  # type: ignore[index]
    assert arguments == {**point, "additionalProperties": False}
    open_: Json = {"type": "object", "properties": {}, "additionalProperties": True}
    assert schema_of(open_)["anyOf"][1]["properties"]["arguments"] == open_  # type: ignore[index]


def test_references_keep_pointing_into_their_own_tool() -> None:
    schema = schema_of(
        {"type": "object", "properties": {"at": {"$ref": "#/$defs/P"}}, "$defs": {"P": {"type": "null"}}}
    )
    arguments = schema["anyOf"][1]["properties"]["arguments"]  # type: ignore[index]
    assert arguments["properties"]["at"] == {"$ref": "#/$defs/1/$defs/P"}
    assert schema["$defs"]["1"] == {"$defs": {"P": {"type": "null"}}}  # type: ignore[index]


def test_a_call_is_read_only_if_it_is_whole() -> None:
    call = read_call('{"name":"run","arguments":{"code":"1"}}')
    assert call
    assert (call.name, call.arguments, call.index) == ("run", {"code": "1"}, 0)
    assert read_call('{"name":"run","arguments":{"co') is None


def test_a_schema_with_an_unknown_type_is_refused() -> None:
    with pytest.raises(RunnerRefusedError):
        constraint({"type": "object", "properties": {"a": {"type": ["string", "text"]}}})
    named_type: Json = {"type": "object", "properties": {"type": {"type": "string"}}}
    assert constraint(named_type)["json_schema"]["properties"] == named_type["properties"]  # type: ignore[index]


@pytest.mark.parametrize("items_max", [20_001, 10**7, 1e300])
def test_a_list_that_is_endless_to_compile_is_refused(items_max: float) -> None:
    with pytest.raises(RunnerRefusedError):
        constraint({"type": "object", "properties": {"a": {"type": "array", "maxItems": items_max}}})
    constraint({"type": "array", "maxItems": 20_000})


@pytest.mark.parametrize(
    ("text", "ended"), [("Hello", False), ("```json", False), ('{"a": 1', True), ("true story", True)]
)
def test_prose_is_not_passed_off_as_json(text: str, ended: bool) -> None:  # noqa: FBT001
    with pytest.raises(RunnerRefusedError):
        check_written(text, ended=ended)


@pytest.mark.parametrize(
    ("text", "ended"), [("", False), ("\n {", False), ('{"a": 1', False), ('{"a": 1}', True)]
)
def test_json_and_its_beginnings_are_passed(text: str, ended: bool) -> None:  # noqa: FBT001
    check_written(text, ended=ended)


def test_conversations_lose_their_oldest_message_but_never_the_systems_or_the_last() -> None:
    system, old, last = (
        {"role": "system"},
        {"role": "user", "content": "old"},
        {"role": "user", "content": "last"},
    )
    assert without_oldest([system, old, last]) == [system, last]
    assert without_oldest([system, last]) is None
    assert without_oldest([last]) is None
