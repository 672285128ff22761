"""Runs as operators see them: under the names that the guide and OpenTelemetry fix, and without a word of what was said."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from ollamesh.agent.v1.assistant_pb2 import RunConfig
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.agent.tracing import TracingConfig
from tests.fakes.fake_inference import Reply
from tests.service.agent_app import App, Mesh, around

__all__ = ["around"]

SECRET = "the cake recipe"
CALL = Reply(texts=[SECRET], calls=[("run_python", f'{{"code": "print(\'{SECRET}\')"}}')])
CONFIG = RunConfig(model="tiny", tools=["run_python"], system_prompt=SECRET)


class Collector(TraceServiceServicer):
    """Keeps what is sent to it."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.received = ""

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        self.received += str(request)
        self.spans += [
            span
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        return ExportTraceServiceResponse()


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    """In threads of its own: it is asked by one."""
    made = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(made, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield made, f"127.0.0.1:{port}"
    finally:
        await asyncio.to_thread(server.stop(0).wait)


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


@pytest.mark.parametrize("has_content", [False, True])
async def test_traces_have_content_only_if_that_is_wanted(around: Mesh, has_content: bool) -> None:  # noqa: FBT001
    async with collector() as (kept, target):
        async with around.replica(tracing=TracingConfig(target=target, has_content=has_content)) as app:
            await one_run(app)
        assert sorted(span.name for span in kept.spans) == [
            *("chat tiny", "chat tiny", "execute_tool run_python", "invoke_agent")
        ]
        root = next(span for span in kept.spans if span.name == "invoke_agent")
        assert {span.parent_span_id for span in kept.spans if span is not root} == {root.span_id}
        assert (SECRET in kept.received) == has_content


async def test_nobody_to_send_traces_to_is_nobody_s_problem(around: Mesh) -> None:
    async with around.replica(tracing=TracingConfig(target="127.0.0.1:1")) as app:
        await one_run(app)
        assert 'status="succeeded"' in await metrics(app)
