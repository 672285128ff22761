"""One run through the edge is one trace, from the edge to PostgreSQL, Redis, the jail and the model."""

import asyncio
import secrets
from collections.abc import Sequence

import pytest
from ollamesh.agent.v1.agent_service_pb2 import CreateThreadRequest, StartRunRequest
from ollamesh.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from ollamesh.agent.v1.assistant_pb2 import RunConfig, RunLimits

from clients.cli.choice import EMBEDDED_SYSTEM_PROMPT
from clients.cli.demo import TASK
from deploy.local.settings import Settings
from deploy.local.traces.reading import reading
from deploy.local.traces.records import Span
from tests.mesh.edge import MODEL, Edge
from tests.mesh.test_spine import watch

ARRIVE_S_MAX = 90.0
CALLER = "b7ad6b7169203331"
TOOL = "run_python"


async def one_run(edge: Edge, traceparent: str) -> None:
    async with edge.channel() as channel:
        agent, metadata = AgentServiceStub(channel), edge.metadata()
        thread = (await agent.CreateThread(CreateThreadRequest(), timeout=30, metadata=metadata)).thread
        config = RunConfig(
            model=MODEL,
            tools=[TOOL],
            first_tool=TOOL,
            system_prompt=EMBEDDED_SYSTEM_PROMPT,
            temperature=0,
            limits=RunLimits(step_count=2, output_token_count_per_call=256),
        )
        request = StartRunRequest(thread_id=thread.thread_id, input=TASK, config=config)
        traced = (*metadata, ("traceparent", traceparent))
        run = (await agent.StartRun(request, timeout=30, metadata=traced)).run
        await watch(agent, run.run_id, 0, edge)


async def arrived(mesh: Settings, edge: Edge, trace_id: str) -> Sequence[Span]:
    """All spans of a trace, once the run's is there and each has its parent; the edge sends five at a time."""
    async with asyncio.timeout(ARRIVE_S_MAX):
        while True:
            with reading(mesh.home) as traces:
                spans = traces.spans(trace_id)
            missing = {span.parent_id for span in spans} - {span.span_id for span in spans}
            if missing == {CALLER} and any(span.name == "invoke_agent" for span in spans):
                return spans
            await edge.fleet()
            await asyncio.sleep(0.2)


@pytest.mark.timeout(300)
async def test_a_run_is_one_trace_through_everything(mesh: Settings, edge: Edge) -> None:
    trace_id = secrets.token_hex(16)
    await one_run(edge, f"00-{trace_id}-{CALLER}-01")
    spans = await arrived(mesh, edge, trace_id)
    by_id = {span.span_id: span for span in spans}

    assert {span.service for span in spans} == {
        f"ollamesh-{name}" for name in ("edge", "auth", "agent", "inference", "sandbox")
    }
    outside = [span for span in spans if span.parent_id not in by_id]
    assert [(span.service, span.parent_id) for span in outside] == [("ollamesh-edge", CALLER)], "a whole tree"

    def path(span: Span) -> list[str]:
        """What a span is in, from the outermost."""
        above = path(by_id[span.parent_id]) if span.parent_id in by_id else []
        return [*above, f"{span.service.removeprefix('ollamesh-')}: {span.name.rpartition('/')[2]}"]

    paths = [path(span) for span in spans]
    run = ["agent: StartRun", "agent: invoke_agent"]
    chat = [*run, f"agent: chat {MODEL}", "agent: Chat", "inference: Chat"]
    tool = [*run, f"agent: execute_tool {TOOL}"]
    for wanted in (
        [*chat, f"inference: chat {MODEL}", "inference: chat"],  # POST /api/chat
        [
            *tool,
            "agent: StartExecution",
            "sandbox: StartExecution",
            "sandbox: sandbox_execution",
            "sandbox: program",
        ],
        ["agent: StartRun", "agent: INSERT runs"],
        ["agent: StartRun", "agent: CreateMandate", "auth: CreateMandate"],
    ):
        assert any(found[-len(wanted) :] == wanted for found in paths), wanted
    systems = {(span.service, span.attributes.get("db.system.name")) for span in spans}
    assert {
        ("ollamesh-agent", "postgresql"),
        ("ollamesh-auth", "postgresql"),
        ("ollamesh-inference", "redis"),
    } <= systems
    for span in spans:
        assert span.start_ns <= span.end_ns
    generation = next(
        span for span in spans if path(span)[-2:] == ["inference: Chat", f"inference: chat {MODEL}"]
    )
    assert generation.attributes["gen_ai.usage.output_tokens"] > 0
    assert 0 < generation.attributes["gen_ai.response.time_to_first_chunk"] < ARRIVE_S_MAX
    told = "".join(map(str, spans))
    assert TASK not in told
    assert EMBEDDED_SYSTEM_PROMPT not in told
    assert edge.token() not in told
