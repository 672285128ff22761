"""What a configuration must keep, and what becomes of an assistant's under a run's own."""

from dataclasses import replace

import pytest
from google.protobuf.duration_pb2 import Duration
from ollamesh.agent.v1.assistant_pb2 import (
    PII_ACTION_BLOCK,
    PII_ACTION_MASK,
    PII_KIND_EMAIL,
    PII_KIND_IP_ADDRESS,
    PiiRule,
    RunConfig,
    RunLimits,
)

from services.agent.adapters.json_schemas import flaw_of
from services.agent.core.config_rules import broken_rules
from services.agent.errors import ToolNotFound
from services.agent.wire.merging import merged
from services.agent.wire.resources import config_from_proto

TOOLS = {"run_python", "http_fetch", "mcp.files"}


def broken(**config: object) -> dict[str, str]:
    filled = config_from_proto(RunConfig(**config), model="tiny")  # type: ignore[arg-type]
    return {each.field: each.description for each in broken_rules(filled, tools=TOOLS, schema_flaw=flaw_of)}


def test_a_whole_configuration_breaks_no_rule() -> None:
    assert not broken(
        tools=["run_python", "http_fetch"],
        first_tool="run_python",
        approval_tools=["http_fetch"],
        response_json_schema='{"type": "object"}',
        pii_rules=[
            PiiRule(kind=PII_KIND_EMAIL, action=PII_ACTION_MASK),
            PiiRule(kind=PII_KIND_IP_ADDRESS, action=PII_ACTION_BLOCK),
        ],
    )
    assert not broken()


def test_every_rule_that_is_broken_is_told_by_its_field() -> None:
    found = broken(
        tools=["run_python"],
        first_tool="http_fetch",
        approval_tools=["run_python", "http_fetch"],
        response_json_schema='{"type": "objekt"}',
        pii_rules=[
            PiiRule(kind=PII_KIND_EMAIL, action=PII_ACTION_MASK),
            PiiRule(kind=PII_KIND_EMAIL, action=PII_ACTION_BLOCK),
        ],
    )
    assert set(found) == {
        "config.first_tool",
        "config.approval_tools[1]",
        "config.response_json_schema",
        "config.pii_rules[1].kind",
    }
    assert "objekt" in found["config.response_json_schema"]


@pytest.mark.parametrize("schema", ["{", "[]", "3", '{"type": 3}', '{"$ref": 7}', "NaN", "[" * 5000])
def test_what_is_no_json_schema_is_told_as_that(schema: str) -> None:
    assert broken(response_json_schema=schema).keys() == {"config.response_json_schema"}


def test_a_tool_that_there_is_not_is_named() -> None:
    with pytest.raises(ToolNotFound) as refused:
        broken(tools=["run_python", "teleport"])
    assert refused.value.facts == {"tool": "teleport"}


ASSISTANTS = RunConfig(
    model="big",
    system_prompt="Be brief.",
    tools=["run_python", "http_fetch"],
    first_tool="run_python",
    approval_tools=["http_fetch"],
    temperature=0.7,
    seed=0,
    limits=RunLimits(step_count=3, wall=Duration(seconds=9, nanos=5), token_count=7),
    pii_rules=[PiiRule(kind=PII_KIND_EMAIL, action=PII_ACTION_MASK)],
)


def test_nothing_set_is_the_assistants_own() -> None:
    assert merged(ASSISTANTS, RunConfig()) == ASSISTANTS
    assert merged(RunConfig(), ASSISTANTS) == ASSISTANTS


def test_what_is_set_replaces_it_field_by_field() -> None:
    own = RunConfig(
        model="small",
        temperature=0.0,
        limits=RunLimits(step_count=9, wall=Duration(seconds=60)),
        pii_rules=[PiiRule(kind=PII_KIND_IP_ADDRESS, action=PII_ACTION_BLOCK)],
    )
    found = merged(ASSISTANTS, own)
    assert (found.model, found.system_prompt, found.temperature) == ("small", "Be brief.", 0.0)
    assert found.HasField("seed")
    assert found.limits == RunLimits(step_count=9, wall=Duration(seconds=60), token_count=7)
    assert [rule.kind for rule in found.pii_rules] == [PII_KIND_IP_ADDRESS]
    assert list(found.tools) == ["run_python", "http_fetch"]


def test_a_run_with_tools_of_its_own_keeps_what_is_said_of_those() -> None:
    found = merged(ASSISTANTS, RunConfig(tools=["http_fetch", "mcp.files"]))
    assert (list(found.tools), found.first_tool) == (["http_fetch", "mcp.files"], "")
    assert list(found.approval_tools) == ["http_fetch"]
    found = merged(ASSISTANTS, RunConfig(tools=["run_python"]))
    assert (found.first_tool, list(found.approval_tools)) == ("run_python", [])


def test_what_a_run_itself_says_of_tools_is_checked_and_not_dropped() -> None:
    found = merged(ASSISTANTS, RunConfig(tools=["run_python"], first_tool="mcp.files"))
    assert found.first_tool == "mcp.files"
    config = config_from_proto(found)
    assert broken_rules(config, tools=TOOLS, schema_flaw=flaw_of)
    assert not broken_rules(replace(config, first_tool=""), tools=TOOLS, schema_flaw=flaw_of)
