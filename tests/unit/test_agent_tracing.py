"""What traces and metrics show of runs: the tree of spans, its names, and nothing that people or models wrote."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from opentelemetry.proto.trace.v1.trace_pb2 import Span as Told
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
from services.agent.tracing import Traced, Tracing
from services.common.tracing.current import Current
from services.common.tracing.spans import Kind, Remote, Shape, Span
from services.common.tracing.tracer import Tracer
from services.common.tracing.w3c import header
from tests.fakes.agent_parts import PLAIN
from tests.fakes.otlp_collector import Seen

SECRET = "the cake recipe"
CONFIG = replace(PLAIN, system_prompt=SECRET, tools=("search",), temperature=0.5, seed=7)
CALL = ToolCall(call_id="call_1_0", name="search", arguments_json=f'{{"query": "{SECRET}"}}')
MADE_UP = ToolCall(call_id="call_1_1", name=f"rm {SECRET}", arguments_json="{}")


@dataclass
class Stage:
    """A run, its trace and its counts, with a clock that a test moves."""

    has_content: bool = False
    asked_by: Current = None
    trace_parent: str | None = None
    seen: list[Seen] = field(default_factory=list)  # In the order in which they ended.
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    now_s: float = 1000.0

    def __post_init__(self) -> None:
        tracing = Tracing(tracer=Tracer(self.take), has_content=self.has_content, tools={"search"})
        about = Traced(
            run_id="r",
            thread_id="t",
            config=CONFIG,
            assistant_id="a",
            assistant_version=3,
            asked_by=self.asked_by,
            trace_parent=self.trace_parent,
        )
        self.run = Run(model="tiny", limits=CONFIG.limits)
        self.trace = tracing.of_run(about, now_s=self.now_s)
        self.metrics = RunMetrics(self.registry, tools={"search"}, models=AgentMetrics(self.registry))
        self.meter = self.metrics.of_run("tiny")

    def take(self, span: bytes) -> None:
        self.seen.append(Seen("agent", Told.FromString(span)))

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
    def spans(self) -> dict[str, Seen]:
        return {span.name: span for span in self.seen}

    @property
    def text(self) -> str:
        return "".join(str(one.span) for one in self.seen)

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


def children(stage: Stage, parent: Seen) -> Sequence[str]:
    inner = [span for span in stage.seen if span.parent_id == parent.span_id]
    return [span.name for span in sorted(inner, key=lambda one: one.span.start_time_unix_nano)]


def duration_s(seen: Seen) -> float:
    return (seen.span.end_time_unix_nano - seen.span.start_time_unix_nano) / 1e9


def test_a_run_is_a_tree_of_steps_and_calls() -> None:
    stage = whole_run(Stage())
    spans = stage.spans
    root = spans["invoke_agent"]
    assert root.parent_id == ""
    first, *calls, last = children(stage, root)
    assert (first, set(calls), last) == (
        "chat tiny",
        {"execute_tool search", "execute_tool _OTHER"},
        "chat tiny",
    )
    assert {span.trace_id for span in stage.seen} == {root.trace_id}
    assert (root.kind, spans["chat tiny"].kind) == ("INTERNAL", "CLIENT")
    shown = root.attributes
    assert shown["gen_ai.operation.name"] == "invoke_agent"
    assert (shown["gen_ai.agent.id"], shown["gen_ai.agent.version"]) == ("a", "3")
    assert (shown["gen_ai.conversation.id"], shown["ollamesh.run.id"]) == ("t", "r")
    assert (shown["gen_ai.usage.input_tokens"], shown["gen_ai.usage.output_tokens"]) == (20, 10)
    assert shown["ollamesh.run.status"] == "SUCCEEDED"


def test_a_step_is_as_long_as_the_model_wrote_and_a_call_as_long_as_it_took() -> None:
    stage = whole_run(Stage())
    chat, *_ = (span for span in stage.seen if span.name == "chat tiny")
    assert duration_s(chat) == 2
    shown = chat.attributes
    assert (shown["gen_ai.usage.input_tokens"], shown["gen_ai.usage.output_tokens"]) == (10, 5)
    assert (shown["gen_ai.request.temperature"], shown["gen_ai.request.seed"]) == (0.5, 7)
    tool = stage.spans["execute_tool search"]
    assert duration_s(tool) == 8
    assert tool.attributes["gen_ai.tool.call.id"] == "call_1_0"


def test_nothing_that_was_said_is_in_it_unless_that_is_wanted() -> None:
    stage = whole_run(Stage())
    stage.trace.close(now_s=stage.now_s)
    assert SECRET not in stage.text
    assert "gen_ai.input.messages" not in stage.text
    wanted = whole_run(Stage(has_content=True)).spans
    assert SECRET in str(wanted["invoke_agent"].attributes["gen_ai.input.messages"])
    assert SECRET in str(wanted["chat tiny"].attributes["gen_ai.output.messages"])
    tool = wanted["execute_tool search"].attributes
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
    assert (root.failed, tool.failed) == (True, True)
    assert root.attributes["error.type"] == "MODEL_FAILED"
    assert tool.attributes["error.type"] == "tool_failed"
    limited = Stage()
    limited.begin()
    limited.end(Ending.limited("step_count"))
    assert not limited.spans["invoke_agent"].failed, "that is no failure of ours"


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
    assert stage.spans["execute_tool search"].events == ["approval_requested", "approval_resolved"]
    assert stage.value("ollamesh_agent_approvals_total", decision="asked") == 1
    assert stage.value("ollamesh_agent_approvals_total", decision="rejected") == 1


def test_a_run_that_goes_on_elsewhere_is_cut_off_here() -> None:
    stage = Stage()
    stage.begin()
    stage.ask(CALL)
    stage.trace.close(now_s=stage.now_s)
    assert set(stage.spans) == {"invoke_agent", "chat tiny", "execute_tool search"}
    assert stage.spans["execute_tool search"].attributes["ollamesh.is_cut_off"] is True
    stage.give(CALL)  # Told elsewhere: here it is too late.
    assert len(stage.seen) == 3


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


def test_a_run_is_part_of_the_call_that_started_it() -> None:
    sent: list[Seen] = []
    call = Span(
        lambda told: sent.append(Seen("agent", Told.FromString(told))),
        Shape("StartRun", Kind.SERVER),
        bytes(range(16)),
    )
    whole_run(Stage(asked_by=call))
    root = sent[-1]
    assert root.name == "invoke_agent"
    assert (root.trace_id, root.parent_id) == (call.trace_id.hex(), call.span_id.hex())


def test_what_its_caller_does_not_record_is_not_recorded() -> None:
    unsampled = Remote(bytes(range(16)), bytes(range(8)), is_sampled=False)
    for stage in (Stage(asked_by=unsampled), Stage(trace_parent=header(unsampled))):
        assert whole_run(stage).seen == []
        assert stage.trace.span is not None
        assert stage.trace.span.trace_id == unsampled.trace_id, "but what it calls hears of the decision"


def test_a_run_that_is_taken_over_leads_to_the_trace_that_it_began_in() -> None:
    began = Remote(bytes(range(16)), bytes(range(1, 9)), is_sampled=True)
    root = whole_run(Stage(trace_parent=header(began))).spans["invoke_agent"]
    (link,) = root.span.links
    assert (link.trace_id, link.span_id) == (began.trace_id, began.span_id)
    assert root.trace_id != began.trace_id.hex()


def test_what_is_asked_and_called_meanwhile_is_part_of_step_and_call() -> None:
    stage = Stage()
    stage.begin()
    assert stage.trace.step is stage.trace.span
    stage.tell(stage.run.ask(now_s=stage.now_s))
    asked = stage.trace.step
    answer = Answer(calls=(CALL,), prompt_token_count=1, output_token_count=1, truncated=False)
    stage.tell(stage.run.answer(answer, now_s=stage.now_s))
    called = stage.trace.call(CALL.call_id)
    stage.give(CALL)
    assert stage.trace.call(CALL.call_id) is stage.trace.span
    assert asked is not None
    assert called is not None
    told = {span.name: span.span_id for span in stage.seen}
    assert (asked.span_id.hex(), called.span_id.hex()) == (told["chat tiny"], told["execute_tool search"])


def test_nothing_is_recorded_where_nobody_collects() -> None:
    trace = Tracing().of_run(Traced(run_id="r", thread_id="t", config=CONFIG), now_s=1.0)
    run = Run(model="tiny", limits=CONFIG.limits)
    trace.tell(run.begin(SECRET, now_s=1.0), now_s=1.0)
    assert trace.span is None
