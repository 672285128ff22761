"""One process of the agent, as far as its tools in the sandbox go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from uuid import UUID

import grpc.aio

from services.agent.adapters.run_python import RunPython
from services.agent.adapters.sandbox_session import SandboxSessions
from services.agent.adapters.sandboxes import Sandboxes
from services.agent.adapters.session_files import ReadFile, WriteFile
from services.agent.core.events import Channel
from services.agent.core.ids import Owner, ThreadId
from services.agent.ports import CallContext, Tool, ToolResult
from tests.fakes.thread_sessions import FakeThreadSessions

ANN = Owner("o", "ann")
FIRST, SECOND = ThreadId(UUID(int=1)), ThreadId(UUID(int=2))


@dataclass
class Replica:
    """One process of the agent."""

    sandboxes: Sandboxes
    store: FakeThreadSessions
    count: "count[int]" = field(default_factory=count)
    written: list[str] = field(default_factory=list)
    is_handed_over: bool = False
    token: str = "t"

    def __post_init__(self) -> None:
        self.sessions = SandboxSessions(self.sandboxes, self.store)
        self.python = RunPython(self.sessions)
        self.files: dict[str, Tool] = {"read": ReadFile(self.sessions), "write": WriteFile(self.sessions)}

    async def call(
        self, code: str = "print()", *, thread_id: ThreadId = FIRST, key: str = "", for_s: float = 30
    ) -> ToolResult:
        context = self._context(thread_id, key or f"run:{next(self.count)}", for_s)
        return await self.python.call({"code": code}, context)

    async def file(self, tool: str, **arguments: object) -> ToolResult:
        return await self.files[tool].call(arguments, self._context(FIRST, f"run:{next(self.count)}", 30))

    def _context(self, thread_id: ThreadId, key: str, for_s: float) -> CallContext:
        async def write(channel: Channel, text: str) -> None:
            self.written.append(text)

        return CallContext(
            deadline_s=asyncio.get_running_loop().time() + for_s,
            owner=ANN,
            thread_id=thread_id,
            key=key,
            write=write,
            is_handed_over=lambda: self.is_handed_over,
            token=self.token,
        )


@asynccontextmanager
async def replica(
    *targets: str, store: FakeThreadSessions | None = None, token: str = "t"
) -> AsyncIterator[Replica]:
    async with AsyncExitStack() as opened:
        channels = {
            target: await opened.enter_async_context(grpc.aio.insecure_channel(target)) for target in targets
        }
        yield Replica(Sandboxes(channels), store or FakeThreadSessions(), token=token)
