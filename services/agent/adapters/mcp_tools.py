"""The tools of MCP servers, as any other tool: offered as reviewed, called by whoever may, at their servers.

`connected` keeps a connection to each server of the operator's file while its block runs. A server that is away, slow
or strange costs a failed result, never a run: the model is told, and goes on.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import mcp_types as types
import structlog
from mcp.shared.exceptions import MCPError

from services.agent.adapters.mcp_connection import McpConnection, ToolRefusedError, UnreachableError
from services.agent.core.mcp_servers import McpServer, PinnedTool
from services.agent.mcp_telemetry import McpMetrics, Outcome
from services.agent.ports import CallContext, Effect, Tool, ToolResult, ToolSpec

log = structlog.get_logger(__name__)

RESULT_CHARS_MAX = 12_000
PROBLEM_CHARS_MAX = 500
NOTHING = "(no output)"
UNREACHABLE = "The server of this tool cannot be reached now. It is not known whether the call took effect."
NOT_CALLED = "The server of this tool cannot be reached now. It was not called."
REFUSED = "This tool is not available now: it is not what was reviewed. It was not called."
TOO_LONG = "The tool did not answer in time. It is not known whether the call took effect."
STRANGE = "The server of this tool did not answer as it should."


@asynccontextmanager
async def connected(servers: Sequence[McpServer], metrics: McpMetrics) -> AsyncIterator[Mapping[str, Tool]]:
    """Their tools, by the names that they are offered under."""
    connections = {server.name: McpConnection(server, metrics) for server in servers}
    tools: dict[str, Tool] = {
        pinned.offered_as: McpTool(server.name, pinned, connections[server.name], metrics)
        for server in servers
        for pinned in server.tools.values()
    }
    async with asyncio.TaskGroup() as tasks:
        kept = [tasks.create_task(connection.run()) for connection in connections.values()]
        try:
            yield tools
        finally:
            for task in kept:
                task.cancel()


class McpTool:
    """Implements ports.Tool."""

    def __init__(
        self, server: str, pinned: PinnedTool, connection: McpConnection, metrics: McpMetrics
    ) -> None:
        self._server, self._name, self._connection, self._metrics = server, pinned.name, connection, metrics
        self.spec = spec_of(pinned)

    async def call(self, arguments: Mapping[str, object], context: CallContext) -> ToolResult:
        outcome, result = await self._called(arguments, context)
        self._metrics.called(self._server, outcome)
        return result

    async def _called(
        self, arguments: Mapping[str, object], context: CallContext
    ) -> tuple[Outcome, ToolResult]:
        until_s = min(context.deadline_s, asyncio.get_running_loop().time() + self.spec.timeout_s)
        try:
            async with asyncio.timeout_at(until_s):
                result = await self._connection.call(self._name, arguments)
        except UnreachableError as error:
            text = UNREACHABLE if error.__cause__ else NOT_CALLED
            return Outcome.UNREACHABLE, ToolResult(content=text, failed=True)
        except ToolRefusedError:
            return Outcome.REFUSED, ToolResult(content=REFUSED, failed=True)
        except TimeoutError:
            return Outcome.TIMED_OUT, ToolResult(content=TOO_LONG, failed=True)
        except MCPError as error:
            text = f"The server of this tool refused: {_cut(error.message, PROBLEM_CHARS_MAX)}"
            return Outcome.FAILED, ToolResult(content=text, failed=True)
        except Exception as error:  # noqa: BLE001 - What a stranger's server sends costs a result, not a run.
            log.warning("mcp_call_failed", server=self._server, error=type(error).__name__)
            return Outcome.FAILED, ToolResult(content=STRANGE, failed=True)
        told = ToolResult(content=text_of(result), failed=result.is_error)
        return Outcome.FAILED if result.is_error else Outcome.OK, told


def spec_of(pinned: PinnedTool) -> ToolSpec:
    definition = pinned.definition
    return ToolSpec(
        name=pinned.offered_as,
        description=str(definition.get("description") or definition.get("title") or pinned.name),
        parameters_json_schema=json.dumps(definition["inputSchema"]),
        effect=Effect(pinned.effect),
        returns_untrusted=pinned.returns_untrusted,
        timeout_s=pinned.timeout_s,
    )


def text_of(result: types.CallToolResult) -> str:
    """What a model reads of a result: its text, or else its value; of anything else, that it is there."""
    parts = [_block(block) for block in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content)]
    return _cut("\n".join(parts), RESULT_CHARS_MAX) or NOTHING


def _block(block: types.ContentBlock) -> str:
    match block:
        case types.TextContent():
            return block.text
        case types.EmbeddedResource(resource=types.TextResourceContents() as resource):
            return resource.text
        case types.ResourceLink():
            return f"[a link to {block.uri}]"
        case _:
            return f"[{block.type} left out]"


def _cut(text: str, chars_max: int) -> str:
    left_out = len(text) - chars_max
    return f"{text[:chars_max]}\n[{left_out} characters left out]" if left_out > 0 else text
