"""What an operator's file of MCP servers may say, and what is held of a server by it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.config import Config
from services.agent.core.mcp_servers import SERVERS_MAX, TOOLS_MAX, McpFileInvalidError, parsed
from services.agent.core.tool_pins import PINNED, Refusal, judged, pin, pinned_part
from services.common.config import ConfigError, Environment

ADD: dict[str, Any] = {
    "name": "add",
    "description": "Adds.",
    "inputSchema": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def tool(**changes: object) -> dict[str, object]:
    return {"sha256": pin(ADD), "definition": ADD, **changes}


def pinned(definition: Mapping[str, object]) -> dict[str, object]:
    return {"sha256": pin(definition), "definition": definition}


def file(**server: object) -> str:
    return json.dumps({"servers": {"math": {"url": "https://math.example/mcp", **server}}})


def test_a_file_is_read_whole() -> None:
    (server,) = parsed(file(bearer_token_file="/run/t", tools={"add": tool(effect="NONE", timeout_s=5)}))
    assert (server.name, server.url) == ("math", "https://math.example/mcp")
    added = server.tools["add"]
    assert (added.offered_as, added.effect, added.returns_untrusted) == ("math.add", "NONE", True)
    assert added.timeout_s == 5.0


def test_of_what_is_not_said_the_worst_is_believed() -> None:
    (server,) = parsed(file(tools={"add": tool()}))
    assert server.tools["add"].effect == "EXTERNAL"
    assert server.tools["add"].returns_untrusted


CHANGED = {**ADD, "description": "Adds, and sends."}
WRONG = {
    "no JSON": "{",
    "no servers": "{}",
    "more than servers": '{"servers": {}, "more": 1}',
    "a list": '{"servers": []}',
    "a server's name": json.dumps({"servers": {"a b": {"url": "https://a.example"}}}),
    "too many servers": json.dumps(
        {"servers": {f"s{number}": {"url": "https://a.example"} for number in range(SERVERS_MAX + 1)}}
    ),
    "both ways": file(command=["/bin/x"]),
    "no way": json.dumps({"servers": {"a": {}}}),
    "a program of the PATH": json.dumps({"servers": {"a": {"command": ["x"]}}}),
    "an empty command": json.dumps({"servers": {"a": {"command": []}}}),
    "a key nobody knows": file(headers={}),
    "another scheme": file(url="file:///etc/passwd"),
    "no host": file(url="https:///mcp"),
    "a user": file(url="https://user:secret@a.example"),
    "a fragment": file(url="https://a.example/#x"),
    "a port that is none": file(url="https://a.example:99999/"),
    "another definition": file(tools={"add": tool(definition=CHANGED)}),
    "no pin": file(tools={"add": {"definition": ADD}}),
    "no definition": file(tools={"add": {"sha256": pin(ADD)}}),
    "another name": file(tools={"other": tool()}),
    "more than is pinned": file(tools={"add": tool(definition={**ADD, "_meta": {}})}),
    "an effect nobody knows": file(tools={"add": tool(effect="HARMLESS")}),
    "trust that is no truth": file(tools={"add": tool(returns_untrusted="no")}),
    "no time": file(tools={"add": tool(timeout_s=0)}),
    "a name that models cannot write": file(tools={"a b": tool(definition={**ADD, "name": "a b"})}),
    "too long a name": file(tools={"a" * 60: tool()}),
    "too long a description": file(tools={"add": pinned({**ADD, "description": "x" * 5000})}),
    "too long a schema": file(tools={"add": pinned({**ADD, "inputSchema": {"title": "x" * 70_000}})}),
    "too many tools": file(tools={f"t{number}": tool() for number in range(TOOLS_MAX + 1)}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_file_that_is_wrong_is_refused_and_quoted_nowhere(wrong: str) -> None:
    with pytest.raises(McpFileInvalidError) as refused:
        parsed(WRONG[wrong])
    assert "secret" not in str(refused.value)


def test_a_service_does_not_start_with_a_wrong_file() -> None:
    recursive = {**ADD, "inputSchema": {"type": "object", "$schema": 7, "properties": []}}
    for text in ("{", file(tools={"add": {"sha256": pin(recursive), "definition": recursive}})):
        environment = Environment({"OLLAMESH_AGENT_MCP": text})
        assert Config.read(environment).mcp_servers == ()
        with pytest.raises(ConfigError) as refused:
            environment.check()
        assert any(line.startswith("OLLAMESH_AGENT_MCP cannot be used") for line in refused.value.mistakes)
    environment = Environment({"OLLAMESH_AGENT_MCP": file(tools={"add": tool()})})
    assert [server.name for server in Config.read(environment).mcp_servers] == ["math"]


def test_a_wrong_file_is_refused_under_the_name_that_gave_it(tmp_path: Path) -> None:
    (tmp_path / "mcp.json").write_text("{")
    environment = Environment({"OLLAMESH_AGENT_MCP_FILE": str(tmp_path / "mcp.json")})
    Config.read(environment)
    with pytest.raises(ConfigError) as refused:
        environment.check()
    assert any(line.startswith("OLLAMESH_AGENT_MCP_FILE cannot be used") for line in refused.value.mistakes)


@pytest.mark.parametrize("key", PINNED)
def test_whatever_models_go_by_is_pinned(key: str) -> None:
    assert pin({**ADD, key: {"another": "value"}}) != pin(ADD)


@given(st.dictionaries(st.sampled_from([*PINNED, "_meta", "icons"]), json_values))
def test_a_pin_is_the_same_for_the_same(definition: dict[str, object]) -> None:
    again = json.loads(json.dumps(dict(reversed(definition.items()))))
    assert pin(again) == pin(definition) == pin(pinned_part(definition))
    assert pin({**definition, "_meta": 1, "icons": []}) == pin(definition)


@given(json_values, json_values)
def test_and_another_for_another(one: object, other: object) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (pin({**ADD, "inputSchema": {"x": one}}) == pin({**ADD, "inputSchema": {"x": other}})) is same


def test_what_a_server_lists_is_judged() -> None:
    pins = {"add": pin(ADD), "gone": "0", "twice": pin({**ADD, "name": "twice"})}
    twice = {**ADD, "name": "twice"}
    verdict = judged(pins, [ADD, twice, twice, {**ADD, "name": "new"}])
    assert verdict.allowed == {"add"}
    assert verdict.refused == {
        "gone": Refusal.MISSING,
        "twice": Refusal.CHANGED,
        "new": Refusal.UNPINNED,
    }
    assert judged(pins, [CHANGED]).refused["add"] is Refusal.CHANGED
    assert judged(pins, [{**ADD, "annotations": float("nan")}]).refused["add"] is Refusal.CHANGED
    assert judged({}, [{"name": None}]).allowed == frozenset()
