"""Runs as operators see them: under the names that the guide and OpenTelemetry fix, and without a word of what was said."""

import asyncio
from dataclasses import replace
from urllib.request import urlopen

import pytest
from ollamesh.agent.v1.assistant_pb2 import RunConfig

from services.common.grpc.server import ServerConfig
from services.common.tracing.config import TracingConfig
from tests.fakes.fake_inference import Reply
from tests.fakes.otlp_collector import collecting
from tests.service.agent_app import TIMEOUT_S, App, Mesh, around

__all__ = ["around"]

SECRET = "the cake recipe"
CALL = Reply(texts=[SECRET], calls=[("run_python", f'{{"code": "print(\'{SECRET}\')"}}')])
CONFIG = RunConfig(model="tiny", tools=["run_python"], system_prompt=SECRET)


async def one_run(app: App) -> None:
    app.inference.script = [CALL, Reply(texts=[SECRET])]
    user = app.user()
    await user.watch((await user.start(await user.thread(), SECRET, config=CONFIG)).run_id)


async def metrics(app: App) -> str:
    url = f"http://127.0.0.1:{app.config.server.metrics_port}/metrics"
    shown: bytes = await asyncio.to_thread(lambda: urlopen(url, timeout=20).read())
    return shown.decode()


async def test_metrics_have_the_names_that_dashboards_read(around: Mesh) -> None:
    async with around.replica() as app:
        await one_run(app)
        shown = await metrics(app)
    model = 'gen_ai_operation_name="invoke_agent",gen_ai_request_model="tiny"'
    tool = 'error_type="",gen_ai_operation_name="execute_tool",gen_ai_tool_name="run_python"'
    tokens = 'gen_ai_operation_name="chat",gen_ai_request_model="tiny",gen_ai_token_type="input"'
    for line in (
        'agent_requests_total{model="tiny",status="succeeded"} 1.0',
        'agent_request_duration_seconds_count{model="tiny"} 1.0',
        "agent_active_requests 0.0",
        f'gen_ai_invoke_agent_duration_seconds_count{{error_type="",{model}}} 1.0',
        f"gen_ai_invoke_agent_inference_calls_sum{{{model}}} 2.0",
        f"gen_ai_invoke_agent_tool_calls_sum{{{model}}} 1.0",
        f"gen_ai_execute_tool_duration_seconds_count{{{tool}}} 1.0",
        f"gen_ai_client_token_usage_sum{{{tokens}}} 20.0",
    ):
        assert line in shown
    assert SECRET not in shown


def traced(target: str, around: Mesh) -> ServerConfig:
    server: ServerConfig = around.config().server
    return replace(server, tracing=TracingConfig(target=target))


@pytest.mark.parametrize("has_content", [False, True])
async def test_a_run_is_one_trace_and_has_content_only_if_that_is_wanted(
    around: Mesh,
    has_content: bool,  # noqa: FBT001
) -> None:
    async with collecting() as kept:
        async with around.replica(server=traced(kept.target, around), trace_content=has_content) as app:
            await one_run(app)
        root = await kept.one("invoke_agent")
        spans = [span for span in kept.seen if span.trace_id == root.trace_id]
        assert sorted(span.name for span in spans if span.name.startswith(("chat", "execute"))) == [
            *("chat tiny", "chat tiny", "execute_tool run_python")
        ]
        assert (SECRET in kept.text()) == has_content
    start = next(span for span in spans if span.span_id == root.parent_id)
    assert start.name == "ollamesh.agent.v1.AgentService/StartRun"
    by_id = {span.span_id: span for span in spans}
    assert {span.parent_id for span in spans if span is not start} <= by_id.keys()
    inner = {
        (span.name.rpartition("/")[2], by_id[span.parent_id].name) for span in spans if span is not start
    }
    assert {
        ("Chat", "chat tiny"),
        ("StartExecution", "execute_tool run_python"),
        ("INSERT tool_claims", "execute_tool run_python"),
        ("UPDATE runs", "invoke_agent"),
        ("INSERT runs", start.name),
    } <= inner


async def test_who_goes_on_with_a_run_leads_to_the_trace_that_it_began_in(around: Mesh) -> None:
    async with collecting() as kept:
        async with around.replica(server=traced(kept.target, around)) as app:
            app.inference.script = [Reply(texts=["never"], hold=asyncio.Event())]
            user = app.user()
            run_id = (await user.start(await user.thread(), config=CONFIG)).run_id
            async with asyncio.timeout(TIMEOUT_S):
                while not app.inference.running:
                    await asyncio.sleep(0.01)
        began = await kept.one("invoke_agent")
        async with around.replica(server=traced(kept.target, around)) as app:
            app.inference.script = [Reply(texts=["done"])]
            await app.user().watch(run_id)
        await kept.until(lambda: len(kept.named("invoke_agent")) > 1)
        again = kept.named("invoke_agent")[1]
    assert [link.trace_id.hex() for link in again.span.links] == [began.trace_id]
    assert [link.span_id.hex() for link in again.span.links] == [began.parent_id]


@pytest.mark.timeout(120)
async def test_nobody_to_send_traces_to_is_nobody_s_problem(around: Mesh) -> None:
    async with around.replica(server=traced("127.0.0.1:1", around)) as app:
        await one_run(app)
        assert 'status="succeeded"' in await metrics(app)
