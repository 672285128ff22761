"""A run as OpenTelemetry shows it: `invoke_agent`, in it a `chat` for each step and an `execute_tool` for each call.

Names are those of the semantic conventions for GenAI. Spans are made of what is told of the run, by the one place
through which all of it goes; so nothing else has to think of them. What was said, and what tools were given and gave
back, is in them only if the operator wants it so: it is what people write. What a model makes up, such as the name of
a tool that there is not, is never a name here.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.util.types import AttributeValue

from services.agent.core import events
from services.agent.core.budget import Usage
from services.agent.core.conversation import Message, Role
from services.agent.core.run import Entry
from services.agent.core.run_config import RunConfig

PROVIDER = "ollamesh"
NO_SUCH_TOOL = "_OTHER"  # As the conventions call what is not in a closed set.
FLUSH_MS = 5_000
Attributes = Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingConfig:
    target: str | None = (
        None  # Host and port of a collector that speaks OTLP over gRPC; None: nothing is traced.
    )
    has_content: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """What all traces of this process have in common."""

    tracer: Tracer = field(default_factory=NoOpTracer)
    has_content: bool = False
    tools: Collection[str] = ()  # Those that there are.

    def of_run(self, about: "Traced", *, now_s: float) -> "RunTrace":
        """A run is worked on from now on."""
        return RunTrace(self, about, now_s=now_s)


@contextmanager
def tracer(config: TracingConfig) -> Iterator[Tracer]:
    """Where spans go. At the end those that are under way are still sent, for a few seconds at most."""
    if config.target is None:
        yield NoOpTracer()
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    provider = TracerProvider(resource=Resource({SERVICE_NAME: "ollamesh-agent"}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=config.target, insecure=True, timeout=FLUSH_MS // 1000)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield provider.get_tracer("ollamesh.agent")
    finally:
        provider.force_flush(FLUSH_MS)
        provider.shutdown()


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What is known of a run before anything is told of it."""

    run_id: str
    thread_id: str
    config: RunConfig
    assistant_id: str = ""
    assistant_version: int = 0
    is_resumed: bool = False  # Somebody else worked on it before: that has a trace of its own.


class RunTrace:
    """One run, from when it is worked on here to when it no longer is."""

    def __init__(self, tracing: Tracing, about: Traced, *, now_s: float) -> None:
        self._tracing, self._about = tracing, about
        self._root = tracing.tracer.start_span(
            "invoke_agent",
            kind=SpanKind.INTERNAL,
            attributes=_of_agent(about),
            start_time=_ns(now_s),
        )
        self._chat: Span | None = None
        self._answered_s: float | None = None  # When the model had written the step's calls.
        self._calls: dict[str, Span] = {}
        self._questions: dict[object, str] = {}  # Calls, by the question about them.

    def tell(self, entries: tuple[Entry, ...], *, now_s: float) -> None:
        """The tale goes on."""
        for entry in entries:
            if isinstance(entry, Message):
                self._hear(entry)
            else:
                self._tell(entry, now_s)

    def close(self, *, now_s: float) -> None:
        """Nothing more is done here for the run, whether it has ended or not."""
        for span in (*self._calls.values(), *([self._chat] if self._chat else [])):
            span.set_attribute("ollamesh.is_cut_off", True)  # noqa: FBT003 - A value, no flag.
            span.end(_ns(now_s))
        self._calls, self._chat = {}, None
        if self._root.is_recording():
            self._root.end(_ns(now_s))

    def _tell(self, event: events.Event, now_s: float) -> None:
        match event:
            case events.StepStarted(step):
                self._start_chat(now_s, step)
            case events.ToolCalled(call):
                self._answered_s = self._answered_s or now_s
                self._start_call(call.call_id, call.name, now_s, arguments=call.arguments_json)
            case events.ToolReturned():
                self._end_call(event, now_s)
            case events.ApprovalRequested(approval_id=approval_id, call_id=call_id):
                self._questions[approval_id] = call_id
                self._note(call_id, "approval_requested", {}, now_s)
            case events.ApprovalResolved(approval_id=approval_id, decision=decision):
                call_id = self._questions.pop(approval_id, "")
                self._note(call_id, "approval_resolved", {"ollamesh.decision": decision.value}, now_s)
            case events.StepFinished():
                self._end_chat(event, now_s)
            case events.Finished():
                self._finish(event, now_s)
            case _:
                pass  # Pieces of what the others tell whole.

    def _hear(self, message: Message) -> None:
        if not self._tracing.has_content:
            return
        parts: list[object] = [{"type": "text", "content": message.content}] if message.content else []
        parts += [
            {"type": "tool_call", "id": call.call_id, "name": call.name, "arguments": call.arguments_json}
            for call in message.calls
        ]
        told = json.dumps([{"role": message.role.value, "parts": parts}])
        if message.role is Role.USER:
            self._root.set_attribute("gen_ai.input.messages", told)
        elif message.role is Role.ASSISTANT and self._chat is not None:
            self._chat.set_attribute("gen_ai.output.messages", told)

    def _start_chat(self, now_s: float, step: int) -> None:
        config = self._about.config
        asked = {
            "gen_ai.request.temperature": config.temperature,
            "gen_ai.request.seed": config.seed,
            "gen_ai.request.max_tokens": config.limits.output_token_count_per_call,
        }
        self._answered_s = None
        self._chat = self._inner(
            f"chat {config.model}",
            SpanKind.CLIENT,
            {
                "gen_ai.operation.name": "chat",
                "ollamesh.step": step,
                **{name: value for name, value in asked.items() if value is not None},
            },
            now_s,
        )

    def _end_chat(self, finished: events.StepFinished, now_s: float) -> None:
        if self._chat is None:
            return  # The model was asked where the run was before.
        reason = "tool_calls" if finished.usage.tool_call_count else "stop"
        self._chat.set_attributes(
            {
                **_of_tokens(finished.usage),
                "gen_ai.response.finish_reasons": ["length" if finished.truncated else reason],
            }
        )
        self._chat.end(_ns(self._answered_s or now_s))
        self._chat = None

    def _start_call(self, call_id: str, name: str, now_s: float, *, arguments: str = "") -> None:
        named = name if name in self._tracing.tools else NO_SUCH_TOOL
        content = {"gen_ai.tool.call.arguments": arguments} if self._tracing.has_content else {}
        self._calls[call_id] = self._inner(
            f"execute_tool {named}",
            SpanKind.INTERNAL,
            {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": named,
                "gen_ai.tool.type": "function",
                "gen_ai.tool.call.id": call_id,
                **content,
            },
            now_s,
        )

    def _end_call(self, returned: events.ToolReturned, now_s: float) -> None:
        span = self._calls.pop(returned.call_id, None)
        if span is None:
            return  # It was called where the run was before.
        if returned.failed:
            span.set_attribute("error.type", "tool_failed")
            span.set_status(Status(StatusCode.ERROR))
        span.set_attribute("ollamesh.is_remembered", returned.remembered)
        if self._tracing.has_content:
            span.set_attribute("gen_ai.tool.call.result", returned.content)
        span.end(_ns(now_s))

    def _note(self, call_id: str, name: str, attributes: Attributes, now_s: float) -> None:
        if call_id in self._calls:
            self._calls[call_id].add_event(name, attributes, timestamp=_ns(now_s))

    def _finish(self, finished: events.Finished, now_s: float) -> None:
        self._root.set_attributes(
            {"ollamesh.run.status": finished.status.value, **_of_tokens(finished.usage)}
        )
        if finished.reason:
            self._root.set_attribute("error.type", finished.reason)
        if finished.status is events.Status.FAILED:
            self._root.set_status(Status(StatusCode.ERROR))
        self.close(now_s=now_s)

    def _inner(self, name: str, kind: SpanKind, attributes: Attributes, now_s: float) -> Span:
        common = {"gen_ai.provider.name": PROVIDER, "gen_ai.conversation.id": self._about.thread_id}
        if kind is SpanKind.CLIENT:
            common["gen_ai.request.model"] = self._about.config.model
        return self._tracing.tracer.start_span(
            name,
            context=set_span_in_context(self._root),
            kind=kind,
            attributes={**common, **attributes},
            start_time=_ns(now_s),
        )


def _of_agent(about: Traced) -> Attributes:
    assistant: dict[str, AttributeValue] = {}
    if about.assistant_id:
        assistant = {
            "gen_ai.agent.id": about.assistant_id,
            "gen_ai.agent.version": str(about.assistant_version),
        }
    return {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": about.config.model,
        "gen_ai.conversation.id": about.thread_id,
        "ollamesh.run.id": about.run_id,
        "ollamesh.run.is_resumed": about.is_resumed,
        **assistant,
    }


def _of_tokens(usage: Usage) -> dict[str, AttributeValue]:
    return {
        "gen_ai.usage.input_tokens": usage.prompt_token_count,
        "gen_ai.usage.output_tokens": usage.output_token_count,
    }


def _ns(time_s: float) -> int:
    return round(time_s * 1e9)
