"""Runs that use the tools of an MCP server: they are offered as reviewed, and their server's end is not the run's."""

import json

from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.agent.v1 import run_pb2
from ollamesh.agent.v1.assistant_pb2 import RunConfig

from services.agent.adapters.mcp_tools import NOT_CALLED
from services.agent.core.mcp_servers import McpServer, parsed
from tests.fakes import run_grammar
from tests.fakes.fake_inference import Reply
from tests.fakes.mcp_server import serving
from tests.service.agent_app import App, Mesh, around
from tests.service.test_agent_mcp import file_of

__all__ = ["around"]

CALL = Reply(calls=[("fake.add", json.dumps({"first": 40, "second": 2}))])
ANSWER = Reply(texts=["It is 42."])


async def servers(url: str) -> tuple[McpServer, ...]:
    harmless = {"effect": "NONE", "returns_untrusted": False}
    return parsed(await file_of({"url": url}, add=harmless))


async def returned(around: Mesh, app: App) -> run_pb2.RunEvent.ToolReturned:
    """Of the tool, in a run that comes to its end."""
    around.inference.script = [CALL, ANSWER]
    user = app.user()
    run = await user.start(await user.thread(), config=RunConfig(model="tiny", tools=["fake.add"]))
    events = await user.watch(run.run_id)
    run_grammar.check(events)
    assert events[-1].finished.status == run_pb2.RUN_STATUS_SUCCEEDED
    (found,) = [event.tool_returned for event in events if event.HasField("tool_returned")]
    return found


async def test_a_run_uses_them_and_goes_on_without_their_server(around: Mesh) -> None:
    async with serving() as served:
        known = await servers(served.url)
        async with around.replica(mcp_servers=known) as app:
            user = app.user()
            listed = (await user.stub.ListTools(pb.ListToolsRequest(), **user.options)).tools
            assert {tool.name for tool in listed} >= {"fake.add", "run_python"}
            result = await returned(around, app)
            assert (result.content, result.failed) == ("42", False)
            assert [tool.name for tool in around.inference.asked[0].request.tools] == ["fake.add"]
    async with around.replica(mcp_servers=known) as app:  # Its server is not there any more.
        result = await returned(around, app)
        assert (result.content, result.failed) == (NOT_CALLED, True)
