"""What traces and metrics show of runs: the tree of spans, its names, and nothing that people or models wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry

from services.agent.core.conversation import ToolCall
from services.agent.core.events import (
    ApprovalRequested,
    ApprovalResolved,
    Decision,
    Delta,
    Status,
    ToolReturned,
)
from services.agent.core.run import Answer, Ending, Entries, Run
from services.agent.run_metrics import RunMetrics
from services.agent.telemetry import AgentMetrics
from services.agent.tracing import Traced, Tracing, TracingConfig, tracer
from tests.fakes.agent_parts import PLAIN

SECRET = "the cake recipe"
CONFIG = replace(PLAIN, system_prompt=SECRET, tools=("search",), temperature=0.5, seed=7)
CALL = ToolCall(call_id="call_1_0", name="search", arguments_json=f'{{"query": "{SECRET}"}}')
MADE_UP = ToolCall(call_id="call_1_1", name=f"rm {SECRET}", arguments_json="{}")


@dataclass
class Stage:
    """A run, its trace and its counts, with a clock that a test moves."""

    has_content: bool = False
    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    now_s: float = 1000.0

    def __post_init__(self) -> None:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        tracing = Tracing(tracer=provider.get_tracer("test"), has_content=self.has_content, tools={"search"})
        about = Traced(run_id="r", thread_id="t", config=CONFIG, assistant_id="a", assistant_version=3)
        self.run = Run(model="tiny", limits=CONFIG.limits)
        self.trace = tracing.of_run(about, now_s=self.now_s)
        self.metrics = RunMetrics(self.registry, tools={"search"}, models=AgentMetrics(self.registry))
        self.meter = self.metrics.of_run("tiny")

    def tell(self, entries: Entries, *, after_s: float = 0.0) -> None:
        self.now_s += after_s
        self.trace.tell(entries, now_s=self.now_s)
        self.meter.tell(entries)

    def begin(self) -> None:
        self.tell(self.run.begin(SECRET, now_s=self.now_s))

    def ask(self, *calls: ToolCall, text: str = SECRET) -> None:
        self.tell(self.run.ask(now_s=self.now_s), after_s=1)
        self.tell(self.run.hear(Delta(text)))
        answer = Answer(calls=calls, prompt_token_count=10, output_token_count=5, truncated=False)
        self.tell(self.run.answer(answer, now_s=self.now_s), after_s=2)

    def give(self, call: ToolCall, *, failed: bool = False, remembered: bool = False) -> None:
        returned = ToolReturned(
            call_id=call.call_id, content=SECRET, failed=failed, duration_s=4.0, remembered=remembered
        )
        self.tell(self.run.tool_returned(returned, now_s=self.now_s), after_s=4)

    def end(self, ending: Ending) -> None:
        self.tell(self.run.end(ending, now_s=self.now_s))

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def whole_run(stage: Stage) -> Stage:
    stage.begin()
    stage.ask(CALL, MADE_UP)
    stage.give(MADE_UP, failed=True)
    stage.give(CALL)
    stage.ask()
    stage.end(Ending(status=Status.SUCCEEDED, answer=SECRET))
    return stage


def attributes(span: ReadableSpan) -> Mapping[str, object]:
    return dict(span.attributes or {})


def children(stage: Stage, parent: ReadableSpan) -> Sequence[str]:
    finished = stage.exporter.get_finished_spans()
    assert parent.context
    inner = [span for span in finished if span.parent and span.parent.span_id == parent.context.span_id]
    return [span.name for span in sorted(inner, key=lambda span: span.start_time or 0)]


def test_a_run_is_a_tree_of_steps_and_calls() -> None:
    stage = whole_run(Stage())
    spans = stage.spans
    root = spans["invoke_agent"]
    assert root.parent is None
    first, *calls, last = children(stage, root)
    assert (first, set(calls), last) == (
        "chat tiny",
        {"execute_tool search", "execute_tool _OTHER"},
        "chat tiny",
    )
    assert {span.context.trace_id for span in stage.exporter.get_finished_spans() if span.context} == {
        root.context.trace_id if root.context else 0
    }
    assert (root.kind, spans["chat tiny"].kind) == (SpanKind.INTERNAL, SpanKind.CLIENT)
    shown = attributes(root)
    assert shown["gen_ai.operation.name"] == "invoke_agent"
    assert (shown["gen_ai.agent.id"], shown["gen_ai.agent.version"]) == ("a", "3")
    assert (shown["gen_ai.conversation.id"], shown["ollamesh.run.id"]) == ("t", "r")
    assert (shown["gen_ai.usage.input_tokens"], shown["gen_ai.usage.output_tokens"]) == (20, 10)
    assert shown["ollamesh.run.status"] == "SUCCEEDED"


def test_a_step_is_as_long_as_the_model_wrote_and_a_call_as_long_as_it_took() -> None:
    stage = whole_run(Stage())
    chat, *_ = (span for span in stage.exporter.get_finished_spans() if span.name == "chat tiny")
    assert ((chat.end_time or 0) - (chat.start_time or 0)) / 1e9 == 2
    shown = attributes(chat)
    assert (shown["gen_ai.usage.input_tokens"], shown["gen_ai.usage.output_tokens"]) == (10, 5)
    assert (shown["gen_ai.request.temperature"], shown["gen_ai.request.seed"]) == (0.5, 7)
    tool = stage.spans["execute_tool search"]
    assert ((tool.end_time or 0) - (tool.start_time or 0)) / 1e9 == 8
    assert attributes(tool)["gen_ai.tool.call.id"] == "call_1_0"


def test_nothing_that_was_said_is_in_it_unless_that_is_wanted() -> None:
    stage = whole_run(Stage())
    stage.trace.close(now_s=stage.now_s)
    shown = "".join(span.to_json() for span in stage.exporter.get_finished_spans())
    assert SECRET not in shown
    assert "gen_ai.input.messages" not in shown
    wanted = whole_run(Stage(has_content=True)).spans
    assert SECRET in str(attributes(wanted["invoke_agent"])["gen_ai.input.messages"])
    assert SECRET in str(attributes(wanted["chat tiny"])["gen_ai.output.messages"])
    tool = attributes(wanted["execute_tool search"])
    assert (tool["gen_ai.tool.call.arguments"], tool["gen_ai.tool.call.result"]) == (
        CALL.arguments_json,
        SECRET,
    )


def test_what_fails_is_an_error_by_its_reason() -> None:
    stage = Stage()
    stage.begin()
    stage.ask(CALL)
    stage.give(CALL, failed=True)
    stage.end(Ending.failed("MODEL_FAILED", SECRET))
    root, tool = stage.spans["invoke_agent"], stage.spans["execute_tool search"]
    assert root.status.status_code is tool.status.status_code is StatusCode.ERROR
    assert attributes(root)["error.type"] == "MODEL_FAILED"
    assert attributes(tool)["error.type"] == "tool_failed"
    limited = Stage()
    limited.begin()
    limited.end(Ending.limited("step_count"))
    assert limited.spans["invoke_agent"].status.status_code is StatusCode.UNSET, "that is no failure of ours"


def test_people_are_asked_and_answer_within_the_call() -> None:
    stage = Stage()
    stage.begin()
    stage.ask(CALL)
    question = ApprovalRequested(
        approval_id=UUID(int=1),
        call_id=CALL.call_id,
        call_hash=bytes(32),
        reason=SECRET,
        expire_time_s=2000.0,
    )
    stage.tell(stage.run.question(question, now_s=stage.now_s))
    resolved = ApprovalResolved(approval_id=UUID(int=1), decision=Decision.REJECTED, user_id="ann")
    stage.tell(stage.run.resolve(resolved, now_s=stage.now_s), after_s=60)
    stage.give(CALL)
    stage.end(Ending(status=Status.SUCCEEDED, answer=""))
    noted = [event.name for event in stage.spans["execute_tool search"].events]
    assert noted == ["approval_requested", "approval_resolved"]
    assert stage.value("ollamesh_agent_approvals_total", decision="asked") == 1
    assert stage.value("ollamesh_agent_approvals_total", decision="rejected") == 1


def test_a_run_that_goes_on_elsewhere_is_cut_off_here() -> None:
    stage = Stage()
    stage.begin()
    stage.ask(CALL)
    stage.trace.close(now_s=stage.now_s)
    assert set(stage.spans) == {"invoke_agent", "chat tiny", "execute_tool search"}
    assert attributes(stage.spans["execute_tool search"])["ollamesh.is_cut_off"] is True
    stage.give(CALL)  # Told elsewhere: here it is too late.
    assert len(stage.exporter.get_finished_spans()) == 3


def test_steps_calls_and_runs_are_counted_by_known_names_alone() -> None:
    stage = whole_run(Stage())
    model = {"gen_ai_operation_name": "invoke_agent", "gen_ai_request_model": "tiny"}
    assert stage.value("gen_ai_invoke_agent_inference_calls_sum", **model) == 2
    assert stage.value("gen_ai_invoke_agent_tool_calls_sum", **model) == 2
    assert stage.value("gen_ai_invoke_agent_duration_seconds_count", **model, error_type="") == 1
    chat = {**model, "gen_ai_operation_name": "chat"}
    assert stage.value("gen_ai_client_token_usage_sum", **chat, gen_ai_token_type="input") == 20
    assert stage.value("gen_ai_client_token_usage_count", **chat, gen_ai_token_type="output") == 2
    tool = {"gen_ai_operation_name": "execute_tool", "error_type": ""}
    assert stage.value("gen_ai_execute_tool_duration_seconds_sum", **tool, gen_ai_tool_name="search") == 4
    failed = {**tool, "error_type": "tool_failed"}
    assert stage.value("gen_ai_execute_tool_duration_seconds_count", **failed, gen_ai_tool_name="_OTHER") == 1
    labels = {str(sample.labels) for metric in stage.registry.collect() for sample in metric.samples}
    assert not any(SECRET in label for label in labels)


def test_what_is_remembered_is_no_call_of_a_tool() -> None:
    stage = Stage()
    stage.begin()
    stage.ask(CALL)
    stage.give(CALL, remembered=True)
    assert stage.value("ollamesh_agent_tool_calls_remembered_total", tool="search") == 1
    tool = {"gen_ai_operation_name": "execute_tool", "gen_ai_tool_name": "search", "error_type": ""}
    assert stage.value("gen_ai_execute_tool_duration_seconds_count", **tool) is None


@pytest.mark.timeout(60)
def test_a_collector_that_is_not_there_holds_nothing_up() -> None:
    with tracer(TracingConfig(target="127.0.0.1:1")) as made:
        made.start_span("lost").end()
    with tracer(TracingConfig()) as made:
        assert not made.start_span("nothing").is_recording()
