"""A connection to one MCP server, kept by a task of its own: made, verified, made anew when it breaks.

The SDK binds a connection to the task that opened it, so whoever calls only borrows it. A tool is called only while
what the server says of it is what was reviewed: looked at on connecting, when the server announces a change, and else
once a minute at most. What a server asks of us (samples, roots, answers of users) it does not get. No user's token
ever goes to it; and because all users share its connection, it must keep nothing of a user in its session.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

import mcp_types as types
import structlog
from mcp.client import Client, IncomingMessage
from mcp.shared.exceptions import MCPError

from services.agent.adapters.mcp_transports import transport
from services.agent.core.mcp_servers import McpServer
from services.agent.core.tool_pins import Definition, Refusal, judged
from services.agent.mcp_telemetry import McpMetrics

log = structlog.get_logger(__name__)

CONNECTS_WITHIN_S = 15.0
WAITS_FOR_CONNECTION_S = 3.0  # A caller, while the connection is made.
VERIFIED_FOR_S = 60.0
RETRY_S_MIN, RETRY_S_MAX = 0.5, 30.0
CALLS_MAX = 16  # At once; who comes then waits as long as its call may take.
PAGES_MAX, LISTED_MAX = 16, 512
# After these nothing more comes by this connection: it was closed, or the server has forgotten our session.
_OVER = {types.CONNECTION_CLOSED, types.INVALID_REQUEST}
_US = types.Implementation(name="ollamesh", version="1")


class UnreachableError(Exception):
    """There is no connection to the server, or it broke."""


class ToolRefusedError(Exception):
    """The tool is not, or no longer, what was reviewed."""


class McpConnection:
    def __init__(self, server: McpServer, metrics: McpMetrics) -> None:
        self._server, self._metrics = server, metrics
        self._pins = {tool.name: tool.sha256 for tool in server.tools.values()}
        self._client: Client | None = None
        self._is_connected, self._is_broken = asyncio.Event(), asyncio.Event()
        self._verifying, self._places = asyncio.Lock(), asyncio.Semaphore(CALLS_MAX)
        self._allowed: frozenset[str] = frozenset()
        self._refused: Mapping[str, Refusal] = {}
        self._verified_until_s = 0.0
        self._change_count = 0  # Announced by the server.

    async def run(self) -> None:
        """Keep the connection, for ever."""
        wait_s = RETRY_S_MIN
        while True:
            try:
                await self._connected()
                wait_s = RETRY_S_MIN
            except (Exception, ExceptionGroup) as error:  # noqa: BLE001 - Whatever a server does, it is only away.
                self._metrics.connected(self._server.name, is_up=False, error=type(_first(error)).__name__)
                wait_s = min(2 * wait_s, RETRY_S_MAX)
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311

    async def call(self, name: str, arguments: Mapping[str, object]) -> types.CallToolResult:
        """Raises UnreachableError, ToolRefusedError, or MCPError with what the server says. Never waits for ever,
        if the caller does not.
        """
        async with self._places:
            client = await self._verified_client()
            if name not in self._allowed:
                raise ToolRefusedError
            try:
                return await client.call_tool(name, dict(arguments))
            except MCPError as error:
                if error.code in _OVER:
                    self._broke(client)
                    raise UnreachableError from error
                raise

    async def _connected(self) -> None:
        """Connect, and return once the connection is of no more use."""
        self._is_broken.clear()
        try:
            async with AsyncExitStack() as opened:
                async with asyncio.timeout(CONNECTS_WITHIN_S):
                    client = await opened.enter_async_context(
                        Client(
                            transport(self._server),
                            cache=None,
                            client_info=_US,
                            input_required_max_rounds=1,
                            message_handler=self._told,
                        )
                    )
                    await self._verify(client)
                self._client = client
                self._is_connected.set()
                self._metrics.connected(self._server.name, is_up=True)
                await self._is_broken.wait()
        finally:
            self._client = None
            self._is_connected.clear()
            self._metrics.connected(self._server.name, is_up=False)

    async def _verified_client(self) -> Client:
        try:
            async with asyncio.timeout(WAITS_FOR_CONNECTION_S):
                await self._is_connected.wait()
        except TimeoutError:
            raise UnreachableError from None
        async with self._verifying:
            client = self._client
            if client is None:
                raise UnreachableError
            if asyncio.get_running_loop().time() >= self._verified_until_s:
                try:
                    async with asyncio.timeout(CONNECTS_WITHIN_S):
                        await self._verify(client)
                except Exception:  # noqa: BLE001 - Whatever it lists instead.
                    self._broke(client)
                    raise UnreachableError from None
        return client

    def _broke(self, client: Client) -> None:
        """Nobody uses it any more, and another one is made; unless that has been done already."""
        if client is self._client:
            self._client = None
            self._is_connected.clear()
            self._is_broken.set()

    async def _verify(self, client: Client) -> None:
        """Whoever is cut off here has verified nothing."""
        began_s, change_count = asyncio.get_running_loop().time(), self._change_count
        verdict = judged(self._pins, await _listed(client))
        if change_count == self._change_count:
            self._verified_until_s = began_s + VERIFIED_FOR_S
        before, self._refused = self._refused, verdict.refused
        self._allowed = verdict.allowed
        for tool, reason in verdict.refused.items():
            if before.get(tool) is not reason:
                self._metrics.refused(self._server.name, tool, reason)

    async def _told(self, message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._change_count += 1
            self._verified_until_s = 0.0


async def _listed(client: Client) -> Sequence[Definition]:
    """What the server lists, whole or not at all."""
    found: list[Definition] = []
    cursor: str | None = None
    for _ in range(PAGES_MAX):
        page = await client.list_tools(cursor=cursor)
        found += (tool.model_dump(mode="json", by_alias=True, exclude_unset=True) for tool in page.tools)
        cursor = page.next_cursor
        if cursor is None and len(found) <= LISTED_MAX:
            return found
    raise UnreachableError


async def listed_once(server: McpServer) -> Sequence[Definition]:
    """What a server lists now, for its operator to look at. Raises what goes wrong."""
    async with asyncio.timeout(CONNECTS_WITHIN_S), Client(transport(server), client_info=_US) as client:
        return await _listed(client)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
