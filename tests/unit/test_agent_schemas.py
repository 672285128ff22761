"""Values against JSON Schemas that cannot be trusted, and answers that must keep one."""

import json
import socket
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.adapters.json_schemas import (
    CHECK_S_MAX,
    TOO_MUCH,
    JsonSchema,
    SchemaInvalidError,
)
from services.agent.core.structured import asked_again, bare, problem_of

EVIL = "^(a|aa)+$"
LONG = "a" * 60 + "!"
MIXED = [each for at in range(10_000) for each in (at, str(at))]  # Nothing that can be sorted.
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def problem(schema: dict[str, Any], value: object) -> str | None:
    return JsonSchema(json.dumps(schema)).problem(value)


class TestJsonSchema:
    @pytest.mark.parametrize(
        ("value", "told"),
        [
            ({"name": "Ann", "age": 3}, None),
            ({"name": "Ann", "age": "3"}, "at $.age: '3' is not of type 'integer'"),
            ({"name": "Ann", "age": -1}, "at $.age: -1 is less than the minimum of 0"),
            ({"age": 1}, "at $: 'name' is a required property"),
            ({"name": "", "age": 1, "x": 2}, "at $: 'x' is not a property that it may have"),
            ([], "at $: [] is not of type 'object'"),
        ],
    )
    def test_what_is_wrong_is_said_with_its_place(self, value: object, told: str | None) -> None:
        assert problem(PERSON, value) == told

    def test_several_problems_are_told_together_and_not_without_end(self) -> None:
        told = problem({"items": {"type": "integer"}}, ["x" * 1000] * 1000) or ""
        assert told.count("at $[") == 4
        assert len(told) < 1400

    @pytest.mark.parametrize(
        "schema",
        [
            {"properties": {"a": {"pattern": EVIL}}},
            {"properties": {"b": {"patternProperties": {EVIL: {}}}}},
            {"properties": {"b": {"patternProperties": {EVIL: {}}, "additionalProperties": False}}},
            {"$ref": "#"},
            {
                "$defs": {
                    **{f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)},
                    "d40": {"type": "object"},
                },
                "$ref": "#/$defs/d0",
            },
        ],
    )
    def test_no_schema_takes_for_ever(self, schema: dict[str, Any]) -> None:
        assert problem(schema, {"a": LONG, "b": {LONG: 1}}) == TOO_MUCH

    @pytest.mark.parametrize(
        "text",
        [
            *(
                "",
                "{",
                "[1]",
                "true",
                '{"a": NaN}',
                "[" * 100_000,
                '{"type": 3}',
                '{"pattern": "("}',
                '"object"',
            ),
            '{"properties": {"a": {"$schema": "http://json-schema.org/draft-07/schema#", "pattern": "(a|aa)+$"}}}',
            '{"patternProperties": {"(a|aa)+$": {}}, "unevaluatedProperties": false}',
        ],
    )
    def test_what_is_no_schema_or_has_no_bounds_is_refused(self, text: str) -> None:
        with pytest.raises(SchemaInvalidError, match=r"^(is|names|has) "):
            JsonSchema(text)

    @pytest.mark.parametrize(
        ("schema", "value"),
        [
            ({"uniqueItems": True}, MIXED),
            ({"items": {"enum": [str(at) for at in range(3_000)]}}, ["2999"] * 6_000),
            ({"items": {"anyOf": [{"required": [f"n{at}" for at in range(3_000)]}, True]}}, [{}] * 6_000),
            (
                {
                    "$defs": {
                        "a": {"$anchor": "a"},
                        **{f"b{at}": {"$anchor": f"b{at}"} for at in range(900)},
                    },
                    "items": {"$ref": "#a"},
                },
                [0] * 3_000,
            ),
            ({"items": {"anyOf": [{"pattern": "^(a|aa)+$"}, True]}}, ["a" * 22 + "!"] * 3_000),
        ],
    )
    @pytest.mark.timed
    def test_no_check_takes_much_longer_than_it_may(self, schema: dict[str, Any], value: object) -> None:
        checked = JsonSchema(json.dumps(schema))
        began_s = time.thread_time()
        assert checked.problem(value) in {None, TOO_MUCH}
        assert time.thread_time() - began_s < CHECK_S_MAX + 0.5

    def test_items_are_told_apart_as_json(self) -> None:
        unique = {"uniqueItems": True}
        items: object
        for items in ([1, True, "1", [1], {"a": 1}], [{"a": 1}, {"a": True}]):
            assert problem(unique, items) is None
        for items in ([1, 1.0], [{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}]):
            assert problem(unique, items) == "at $: an item is there twice"
        assert problem({"uniqueItems": False}, [1, 1]) is None

    @pytest.mark.parametrize(
        "pattern",
        [
            "(?:a|b|c|d{1,5000}){5000}" * 40,  # It ends the process.
            "(?:" * 90 + "a" + "){1,9}" * 90,
            "(?:" * 15 + "a" + "){1,9}" * 15,
            "a" * 1_025,
            "(?:abc){e<=5}",
            "(?(1)a|b)",
        ],
    )
    def test_what_compiling_might_not_survive_is_refused(self, pattern: str) -> None:
        for schema in (
            {"pattern": pattern},
            {"default": [{"patternProperties": {pattern: True}}], "$ref": "#/default/0"},
            {"$defs": {"a": {"not": {"pattern": pattern}}}},
        ):
            with pytest.raises(SchemaInvalidError, match="has a pattern that "):
                JsonSchema(json.dumps(schema))

    @pytest.mark.parametrize(
        ("pattern", "text"),
        [
            (r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", "0" * 8 + "-0000" * 3 + "-" + "0" * 12),
            (r"^\{[^]{}(]+\}$", "{a}"),
            (r"^(?!x)(?P<a>[A-Za-z ,.'-]{1,1000})(?<=y)$", "y"),
        ],
    )
    def test_usual_patterns_are_taken(self, pattern: str, text: str) -> None:
        assert problem({"pattern": pattern}, text) is None
        assert problem({"pattern": pattern}, "?")
        assert problem({"pattern": pattern}, "?") != TOO_MUCH

    def test_a_schema_has_so_many_keys(self) -> None:
        with pytest.raises(SchemaInvalidError, match="has more than 3000 keys"):
            JsonSchema(json.dumps({"properties": {f"a{at}": {"title": ""} for at in range(1_500)}}))

    def test_nothing_is_fetched(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(0.2)
            url = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
            for schema in ({"$ref": url}, {"$schema": url, "type": "object"}, {"$dynamicRef": url}):
                problem(schema, {})
            with pytest.raises(TimeoutError):
                server.accept()

    def test_other_drafts_are_read_as_the_newest(self) -> None:
        draft = {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"n": {"type": "integer"}},
        }
        schema = {**draft, "properties": {"a": {"$ref": "#/definitions/n"}}}
        assert problem(schema, {"a": 1}) is None
        assert problem(schema, {"a": "1"})


class TestAnswers:
    @given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5))
    def test_marks_of_a_code_block_are_no_part_of_it(self, value: object) -> None:
        text = json.dumps(value)
        for answer in (text, f"\n{text}\n", f"```json\n{text}\n```", f"```\n{text}```\n"):
            assert bare(answer) == text
            assert problem_of(answer, lambda read: None if read == value else "another") is None

    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            ("", "it is empty"),
            ("  \n", "it is empty"),
            ("I am Ann.", "it is not JSON (Expecting value: line 1 column 1 (char 0))"),
            ('{"name": "Ann"', "it is not JSON (Expecting ',' delimiter: line 1 column 15 (char 14))"),
            ("[" * 100_000, "it is not JSON"),
            ("NaN", "it is not JSON"),
            ('{"name": "Ann"}', "at $: 'age' is a required property"),
        ],
    )
    def test_the_model_is_told_what_is_wrong(self, answer: str, told: str) -> None:
        assert problem_of(answer, JsonSchema(json.dumps(PERSON)).problem) == told
        assert told in asked_again(told)
