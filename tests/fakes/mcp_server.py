"""An MCP server made with the official SDK: over stdio (`python -m tests.fakes.mcp_server`), or over HTTP in a test."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

ROOT = Path(__file__).parents[2]
STDIO = {
    "command": [sys.executable, "-m", "tests.fakes.mcp_server"],
    "env": {"PYTHONPATH": f"{ROOT}:{ROOT / 'gen' / 'python'}"},
}
SECRET = "MCP_TEST_SECRET"

ENDS_WITHIN_S = 10.0


def made(served: "Served | None" = None) -> MCPServer:
    server = MCPServer("fake", version="7")

    @server.tool(description="Adds two numbers.")
    def add(first: int, second: int) -> str:
        return str(first + second)

    @server.tool(description="Fails.")
    def fail() -> str:
        raise ToolError("the disk is full")

    @server.tool(description="Repeats.")
    def repeat(text: str, count: int) -> str:
        return text * count

    @server.tool(description="Never answers.")
    async def hang() -> str:
        if served:
            served.hanging_count += 1
        await asyncio.Event().wait()
        return ""

    @server.tool(description="Ends the server.")
    def die() -> str:
        os._exit(3)

    @server.tool(description="Tells what the process may know.")
    def look() -> str:
        return " ".join(sorted(os.environ))

    @server.tool(description="Asks its caller's model.")
    async def ask(context: Context[Any, Any]) -> str:
        try:
            await context.session.list_roots()
        except Exception as error:
            return f"refused: {type(error).__name__}"
        return "answered"

    return server


@dataclass(slots=True)
class Served:
    """One over HTTP, and what it was sent."""

    url: str = ""
    port: int = 0
    hanging_count: int = 0
    headers: list[Mapping[str, str]] = field(default_factory=list)
    redirect_to: str = ""  # Set it, and every request is sent there.
    server: MCPServer | None = None
    running: uvicorn.Server | None = None

    def change(self, name: str, description: str) -> None:
        """The tool is another one from now on; nobody is told."""
        assert self.server
        tool = self.server._tool_manager._tools[name]
        self.server._tool_manager._tools[name] = tool.model_copy(update={"description": description})

    def cut(self) -> None:
        """Every connection, as when its process ends."""
        assert self.running
        for connection in list(self.running.server_state.connections):
            assert connection.transport
            connection.transport.abort()


class _Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are the test's."""
        yield


@contextlib.asynccontextmanager
async def serving(port: int = 0, *, json_response: bool = False) -> AsyncIterator[Served]:
    served = Served()
    served.server = made(served)
    app = served.server.streamable_http_app(json_response=json_response)
    config = uvicorn.Config(
        _seen(app, served), host="127.0.0.1", port=port, log_config=None, timeout_graceful_shutdown=1
    )
    running = served.running = _Quiet(config)
    task = asyncio.create_task(running.serve())
    async with asyncio.timeout(60):
        while not running.started:
            await asyncio.sleep(0.01)
    served.port = running.servers[0].sockets[0].getsockname()[1]
    served.url = f"http://127.0.0.1:{served.port}/mcp"
    try:
        yield served
    finally:
        running.should_exit = True
        running.force_exit = True
        served.cut()
        done, _ = await asyncio.wait({task}, timeout=ENDS_WITHIN_S)
        if not done:  # Sessions of the library's may miss that they are to end.
            task.cancel()
            await asyncio.wait({task}, timeout=ENDS_WITHIN_S)
        elif (error := task.exception()) is not None:
            raise error


def _seen(app: ASGIApp, served: Served) -> ASGIApp:
    async def seen(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            served.headers.append({key.decode(): value.decode() for key, value in scope["headers"]})
            if served.redirect_to:
                await RedirectResponse(served.redirect_to)(scope, receive, send)
                return
        await app(scope, receive, send)

    return seen


if __name__ == "__main__":
    made().run()
