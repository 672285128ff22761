"""What the service's own tools may do, as policy, repetition and people read it."""

import json

import grpc.aio

from services.agent.adapters.sandbox_session import SandboxSessions
from services.agent.adapters.sandboxes import Sandboxes
from services.agent.adapters.toolbox import own_tools
from services.agent.core.egress import Egress
from services.agent.ports import Effect, ToolSpec
from tests.fakes.thread_sessions import FakeThreadSessions


async def specs(*hosts: str) -> dict[str, ToolSpec]:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        sessions = SandboxSessions(Sandboxes({"": channel}), FakeThreadSessions())
        return {name: tool.spec for name, tool in own_tools(sessions, Egress.of(hosts)).items()}


async def test_what_each_may_do() -> None:
    assert {
        name: (spec.effect, spec.is_confined, spec.is_repeatable, spec.returns_untrusted)
        for name, spec in (await specs("example.com")).items()
    } == {
        "run_python": (Effect.STATE_CHANGING, True, True, False),
        "read_file": (Effect.NONE, True, True, False),
        "write_file": (Effect.IDEMPOTENT, True, True, False),
        "http_fetch": (Effect.EXTERNAL, False, False, True),
    }


async def test_nobody_is_offered_to_fetch_where_nothing_may_be_fetched() -> None:
    assert "http_fetch" not in await specs()


async def test_schemas_take_what_they_name_and_nothing_else() -> None:
    for name, spec in (await specs("example.com")).items():
        assert spec.name == name
        schema = json.loads(spec.parameters_json_schema)
        assert schema["additionalProperties"] is False
        assert set(schema["required"]) <= set(schema["properties"])
        assert all(each["description"] for each in schema["properties"].values())
