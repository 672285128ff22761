"""The main job, end to end on real parts: a question, an agent, a model, a jail, an answer."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ollamesh.agent.v1.agent_service_pb2 import (
    CreateThreadRequest,
    ListMessagesRequest,
    StartRunRequest,
    WatchRunRequest,
)
from ollamesh.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from ollamesh.agent.v1.assistant_pb2 import RunConfig, RunLimits
from ollamesh.agent.v1.run_pb2 import RunEvent, RunStatus
from ollamesh.agent.v1.thread_pb2 import Role as SpeakerRole
from ollamesh.inference.v1.completion_pb2 import ChatRequest, Message, Options, Role
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from ollamesh.inference.v1.model_pb2 import ListModelsRequest
from ollamesh.sandbox.v1.execution_pb2 import ExecutionSpec, Outcome
from ollamesh.sandbox.v1.sandbox_service_pb2 import ExecuteRequest
from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import SandboxServiceStub

from clients.cli.choice import EMBEDDED_SYSTEM_PROMPT
from clients.cli.demo import TASK
from tests.mesh.edge import MODEL, Edge

if TYPE_CHECKING:
    from ollamesh.agent.v1.agent_service_pb2_grpc import AgentServiceAsyncStub

EMBEDDING_MODEL = "all-minilm"


def question(content: str, token_count_max: int) -> ChatRequest:
    return ChatRequest(
        model=MODEL,
        messages=[Message(role=Role.ROLE_USER, content=content)],
        options=Options(temperature=0, output_token_count_max=token_count_max),
    )


async def test_chat_streams_by_its_grammar(edge: Edge) -> None:
    async with edge.channel() as channel:
        call = InferenceServiceStub(channel).Chat(
            question("Count to ten.", 32), timeout=60, metadata=edge.metadata()
        )
        events = [response.event async for response in call]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "opened"
    assert kinds[-1] == "finished"
    assert [kind for kind in kinds if kind != "queued"][1] == "started"
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    finished = events[-1].finished
    assert sum(event.delta.token_count for event in events) == finished.usage.output_token_count > 0
    assert kinds.count("delta") > 1, "it came in one piece"


async def test_cancelling_reaches_the_backend(edge: Edge) -> None:
    async with edge.channel() as channel:
        call = InferenceServiceStub(channel).Chat(
            question("Tell a long story.", 2000), timeout=60, metadata=edge.metadata()
        )
        async for response in call:
            if response.event.WhichOneof("event") == "delta":
                break
        assert await edge.busy_slot_count() == 1
        call.cancel()
    async with asyncio.timeout(10):
        while await edge.busy_slot_count():
            await asyncio.sleep(0.05)


async def test_embeddings_and_models(edge: Edge) -> None:
    async with edge.channel() as channel:
        stub = InferenceServiceStub(channel)
        request = EmbedRequest(model=EMBEDDING_MODEL, input=["a cat", "a kitten", "interest rates"])
        reply = await stub.Embed(request, timeout=60, metadata=edge.metadata())
        models = await stub.ListModels(ListModelsRequest(), timeout=10, metadata=edge.metadata())
    cat, kitten, rates = (embedding.values for embedding in reply.embeddings)
    assert _likeness(cat, kitten) > _likeness(cat, rates)
    assert {model.name for model in models.models} >= {MODEL, f"{EMBEDDING_MODEL}:latest"}


async def test_code_runs_in_a_jail(edge: Edge) -> None:
    code = "import os\nprint(6 * 7)\nprint(os.environ.get('SECRET_KEY'), os.getuid() != 0)"
    async with edge.channel() as channel:
        call = SandboxServiceStub(channel).Execute(
            ExecuteRequest(spec=ExecutionSpec(code=code)), timeout=30, metadata=edge.metadata()
        )
        events = [response.event async for response in call]
    assert b"".join(event.stdout.data for event in events) == b"42\nNone True\n"
    assert events[-1].exited.outcome == Outcome.OUTCOME_OK


async def test_an_agent_writes_code_runs_it_and_answers(edge: Edge) -> None:
    async with edge.channel() as channel:
        agent, metadata = AgentServiceStub(channel), edge.metadata()
        thread = (await agent.CreateThread(CreateThreadRequest(), timeout=10, metadata=metadata)).thread
        config = RunConfig(
            model=MODEL,
            tools=["run_python"],
            first_tool="run_python",
            system_prompt=EMBEDDED_SYSTEM_PROMPT,
            temperature=0,
            limits=RunLimits(step_count=3, output_token_count_per_call=256),
        )
        request = StartRunRequest(thread_id=thread.thread_id, input=TASK, config=config)
        run = (await agent.StartRun(request, timeout=10, metadata=metadata)).run
        events = await watch(agent, run.run_id, 0, edge)
        # Whoever comes later, from wherever, sees the same.
        assert await watch(agent, run.run_id, 3, edge) == events[3:]
        messages = await agent.ListMessages(
            ListMessagesRequest(thread_id=thread.thread_id), timeout=10, metadata=metadata
        )
    kinds = [event.WhichOneof("event") for event in events]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert kinds[0] == "started"
    assert kinds.count("finished") == 1
    assert kinds[-1] == "finished"
    assert "tool_called" in kinds
    assert "tool_returned" in kinds
    # A model of this size may loop until its limit; that the tool really ran is what counts here.
    assert events[-1].finished.status in {RunStatus.RUN_STATUS_SUCCEEDED, RunStatus.RUN_STATUS_LIMITED}
    roles = [message.role for message in messages.messages]
    assert roles[:3] == [SpeakerRole.ROLE_USER, SpeakerRole.ROLE_ASSISTANT, SpeakerRole.ROLE_TOOL]


async def watch(
    agent: "AgentServiceAsyncStub", run_id: str, after_sequence: int, edge: Edge
) -> list[RunEvent]:
    request = WatchRunRequest(run_id=run_id, after_sequence=after_sequence)
    call = agent.WatchRun(request, timeout=120, metadata=edge.metadata())
    return [response.event async for response in call]


def _likeness(one: Iterable[float], other: Iterable[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
