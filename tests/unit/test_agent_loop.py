"""The loop of model and tools: what is offered, what is called, in which order it is told."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import grpc.aio
import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from ollamesh.inference.v1.completion_pb2 import FINISH_REASON_LENGTH
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from services.agent.adapters.langchain_agent import LangChainAgent
from services.agent.adapters.middleware.asking import Asking
from services.agent.agents import Assignment
from services.agent.core.approvals import Decided
from services.agent.core.budget import Limits
from services.agent.core.conversation import Message, Role, ToolCall
from services.agent.core.events import CallWritten, Channel, Delta, ToolReturned
from services.agent.core.ids import Owner, RunId, ThreadId
from services.agent.core.record import Record, Said
from services.agent.core.run import Answer
from services.agent.core.run_config import RunConfig
from services.agent.errors import LimitReached, ModelFailed
from services.agent.leases import Lease
from services.agent.ports import CallContext, Effect, ToolResult, ToolSpec
from services.agent.summaries import Summaries
from tests.fakes.agent_parts import KeptSummaries
from tests.fakes.fake_inference import FakeInference, Reply
from tests.service.agent_app import until

CONFIG = RunConfig(
    model="tiny",
    system_prompt="",
    tools=("search", "add"),
    first_tool="",
    temperature=None,
    seed=None,
    limits=Limits(),
)


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
        return False

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


@pytest.fixture
async def agent(inference: FakeInference, tools: dict[str, Echo]) -> AsyncIterator[LangChainAgent]:
    async with grpc.aio.insecure_channel(inference.target) as channel:
        yield LangChainAgent(InferenceServiceStub(channel), tools, anew, asking())


def assignment(config: RunConfig = CONFIG, *, is_resumed: bool = False) -> Assignment:
    run_id = RunId(UUID(int=1))
    return Assignment(
        run_id=run_id,
        thread_id=ThreadId(UUID(int=2)),
        owner=Owner("o", "ann"),
        config=config,
        messages=[Message(role=Role.USER, content="why?")],
        summary="",
        is_cut=False,
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
        trusted_tools={"add"},
    )


def anew(assignment: Assignment, step_count: Callable[[], int]) -> BaseCheckpointSaver[Any]:
    return InMemorySaver()


def offered(inference: FakeInference) -> list[list[str]]:
    return [[tool.name for tool in asked.request.tools] for asked in inference.asked]


async def test_everything_is_told_in_order(agent: LangChainAgent, inference: FakeInference) -> None:
    inference.script = [Reply(texts=["Hm", "."], calls=[("add", '{"a": 1}')]), Reply(texts=["Two."])]
    listener = Listener()
    assert await agent.work(assignment(), listener) == "Two."
    assert listener.told == [
        "ask 1",
        "hear Hm",
        "hear .",
        "answer 1",
        "wrote add",
        'returned {"a": 1}',
        "ask 2",
        "hear Two.",
        "answer 0",
    ]
    assert offered(inference) == [["search", "add"]] * 2


async def test_a_first_tool_is_offered_alone_and_only_first(
    agent: LangChainAgent, inference: FakeInference
) -> None:
    inference.script = [Reply(calls=[("add", "{}")]), Reply(calls=[("search", "{}")])]
    await agent.work(assignment(replace(CONFIG, first_tool="add")), Listener())
    assert offered(inference) == [["add"], ["search", "add"], ["search", "add"]]


async def test_only_the_tools_of_the_run_are_called(
    agent: LangChainAgent, inference: FakeInference, tools: dict[str, Echo]
) -> None:
    """The model may ask for whatever it likes."""
    inference.script = [Reply(calls=[("secret", "{}"), ("nothing", "{}"), ("add", "{}")])]
    listener = Listener()
    await agent.work(assignment(), listener)
    assert not tools["secret"].calls
    assert len(tools["add"].calls) == 1
    assert "returned There is no tool secret. Tools: search, add." in listener.told


async def test_runs_share_nothing(agent: LangChainAgent, inference: FakeInference) -> None:
    configs = [replace(CONFIG, model=f"m{n}", system_prompt=str(n), tools=()) for n in range(8)]
    await asyncio.gather(*(agent.work(assignment(config), Listener()) for config in configs))
    asked = [(asked.request.model, asked.request.messages[0].content) for asked in inference.asked]
    assert sorted(asked) == [(f"m{n}", str(n)) for n in range(8)]


async def test_a_limit_ends_the_loop(agent: LangChainAgent, inference: FakeInference) -> None:
    inference.otherwise = Reply(calls=[("add", "{}")])
    with pytest.raises(LimitReached, match="step_count"):
        await agent.work(assignment(), Listener(steps_max=3))
    assert len(inference.asked) == 3


async def test_cancelling_stops_every_tool(
    agent: LangChainAgent, inference: FakeInference, tools: dict[str, Echo]
) -> None:
    tools["add"].hold.clear()
    inference.script = [Reply(calls=[("add", "{}")] * 3)]
    working = asyncio.create_task(agent.work(assignment(), Listener()))
    await until(lambda: len(tools["add"].calls) == 3)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert tools["add"].stopped == 3


async def test_a_tool_that_breaks_ends_the_run_and_not_the_loop_of_others(
    agent: LangChainAgent, inference: FakeInference, tools: dict[str, Echo]
) -> None:
    tools["add"].failure = ZeroDivisionError()
    inference.script = [Reply(calls=[("add", "{}")])]
    with pytest.raises(ZeroDivisionError):
        await agent.work(assignment(), Listener())
    assert await agent.work(assignment(), Listener()) == "ok"


async def test_a_model_that_is_cut_off_says_so(agent: LangChainAgent, inference: FakeInference) -> None:
    listener = Listener()
    inference.script = [Reply(texts=["x"], reason=FINISH_REASON_LENGTH)]
    await agent.work(assignment(), listener)
    assert [answer.truncated for answer in listener.answers] == [True]


async def test_an_absent_inference_service_is_a_failed_model(tools: dict[str, Echo]) -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        agent = LangChainAgent(InferenceServiceStub(channel), tools, anew, asking())
        with pytest.raises(ModelFailed, match=r"\(UNAVAILABLE\)"):
            await agent.work(assignment(), Listener())
