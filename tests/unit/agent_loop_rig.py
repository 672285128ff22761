"""What the loop works with, and whom it tells: a model, tools that echo, a recorder that remembers."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver

from services.agent.adapters.middleware.asking import Asking
from services.agent.agents import Assignment
from services.agent.core.approvals import Decided
from services.agent.core.conversation import Message, Role, ToolCall
from services.agent.core.events import CallWritten, Channel, Delta, ToolReturned
from services.agent.core.ids import Owner, RunId, ThreadId
from services.agent.core.record import Record, Said
from services.agent.core.run import Answer
from services.agent.core.run_config import RunConfig
from services.agent.errors import LimitReached
from services.agent.leases import Lease
from services.agent.ports import CallContext, Effect, ToolResult, ToolSpec
from services.agent.summaries import Summaries
from tests.fakes.agent_parts import PLAIN, KeptSummaries
from tests.fakes.fake_inference import FakeInference

CONFIG = replace(PLAIN, tools=("search", "add"))


class Echo:
    """A tool that writes and gives back what it is called with; it may be made to wait or to break."""

    def __init__(self, name: str) -> None:
        self.spec = ToolSpec(
            name=name,
            description=f"Does {name}.",
            parameters_json_schema='{"type": "object"}',
            effect=Effect.NONE,
            timeout_s=1,
        )
        self.calls: list[Mapping[str, object]] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.stopped = 0
        self.failure: Exception | None = None

    async def call(self, arguments: Mapping[str, object], context: CallContext) -> ToolResult:
        self.calls.append(arguments)
        assert context.token == "token"
        try:
            await context.write(Channel.STDOUT, self.spec.name)
            await self.hold.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        if self.failure:
            raise self.failure
        return ToolResult(content=json.dumps(arguments), failed=False)


class Listener:
    """A Recorder that remembers."""

    def __init__(self, *, steps_max: int = 9, record: Record | None = None) -> None:
        self.record = record or Record()
        self.claimed: set[str] = set()
        self.decisions: dict[str, Decided] = {}
        self.told: list[str] = []
        self.tainted = False
        self.answers: list[Answer] = []
        self.pieces: list[CallWritten] = []
        self._steps, self._steps_max = 0, steps_max

    def ask(self) -> int:
        if self._steps == self._steps_max:
            raise LimitReached("step_count")
        self._steps += 1
        self.told.append(f"ask {self._steps}")
        return self._steps

    async def hear(self, delta: Delta) -> None:
        self.told.append(f"hear {delta.text or delta.thinking}")

    def asking(self) -> AbstractContextManager[None]:
        return nullcontext()

    def calling(self, call_id: str) -> AbstractContextManager[None]:
        return nullcontext()

    @property
    def step_count(self) -> int:
        return self._steps

    def said(self, step: int) -> Said | None:
        return self.record.said(step)

    async def hear_call(self, piece: CallWritten) -> None:
        self.pieces.append(piece)

    async def answer(self, answer: Answer) -> None:
        self.answers.append(answer)
        self.told.append(f"answer {len(answer.calls)}")

    async def tool_wrote(self, call_id: str, channel: Channel, text: str) -> None:
        self.told.append(f"wrote {text}")

    def returned(self, call_id: str) -> ToolReturned | None:
        return self.record.returned(call_id)

    @property
    def is_tainted(self) -> bool:
        return self.tainted

    def is_asked(self, call_id: str) -> bool:
        return call_id in self.decisions

    async def question(self, call: ToolCall, reason: str) -> Decided | None:
        self.told.append(f"asked about {call.call_id}")
        return self.decisions.get(call.call_id)

    async def claim(self, call_id: str) -> bool:
        if call_id in self.claimed:
            return False
        self.claimed.add(call_id)
        return True

    async def tool_returned(
        self, call_id: str, result: ToolResult, *, duration_s: float, remembered: bool = False
    ) -> None:
        assert call_id in {call.call_id for answer in self.answers for call in answer.calls}
        self.told.append(f"returned {result.content}")


@pytest.fixture
async def inference() -> AsyncIterator[FakeInference]:
    async with FakeInference.serving() as fake:
        yield fake


@pytest.fixture
def tools() -> dict[str, Echo]:
    return {name: Echo(name) for name in ("search", "add", "secret")}


def assignment(config: RunConfig = CONFIG, *, is_resumed: bool = False) -> Assignment:
    run_id = RunId(UUID(int=1))
    return Assignment(
        run_id=run_id,
        thread_id=ThreadId(UUID(int=2)),
        owner=Owner("o", "ann"),
        config=config,
        messages=[Message(role=Role.USER, content="why?")],
        summary="",
        deadline_s=asyncio.get_running_loop().time() + 20,
        lease=Lease(run_id=run_id, holder=UUID(int=3), fence=1),
        is_batch=False,
        is_resumed=is_resumed,
        is_handed_over=lambda: False,
        token=token,
    )


async def token() -> str:
    return "token"


def asking(
    summaries: Summaries | None = None, *, context_token_count: int = 4096, link_hosts: Collection[str] = ()
) -> Asking:
    return Asking(
        summaries or KeptSummaries(),
        context_token_count=context_token_count,
        link_hosts=link_hosts,
    )


def anew(assignment: Assignment, step_count: Callable[[], int]) -> BaseCheckpointSaver[Any]:
    return InMemorySaver()
