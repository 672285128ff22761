"""The loop of model and tools: what is offered, what is called, in which order it is told."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc.aio
import pytest
from ollamesh.inference.v1.completion_pb2 import FINISH_REASON_LENGTH
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from services.agent.adapters.langchain_agent import LangChainAgent
from services.agent.errors import LimitReached, ModelFailed
from tests.fakes.fake_inference import FakeInference, Reply
from tests.service.agent_app import until
from tests.unit.agent_loop_rig import (
    CONFIG,
    Echo,
    Listener,
    anew,
    asking,
    assignment,
    inference,
    tools,
)

__all__ = ["inference", "tools"]


@pytest.fixture
async def agent(inference: FakeInference, tools: dict[str, Echo]) -> AsyncIterator[LangChainAgent]:
    async with grpc.aio.insecure_channel(inference.target) as channel:
        yield LangChainAgent(InferenceServiceStub(channel), tools, anew, asking())


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
