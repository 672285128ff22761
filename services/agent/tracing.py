"""A run as OpenTelemetry shows it: `invoke_agent`, in it a `chat` for each step and an `execute_tool` for each call.

Names are those of the semantic conventions for GenAI. Spans are made of what is told of the run, by the one place
through which all of it goes; so nothing else has to think of them. What was said, and what tools were given and gave
back, is in them only if the operator wants it so: it is what people write. What a model makes up, such as the name of
a tool that there is not, is never a name here.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

from services.agent.core import events
from services.agent.core.budget import Usage
from services.agent.core.conversation import Message, Role
from services.agent.core.run import Entry
from services.agent.core.run_config import RunConfig
from services.common.tracing.current import Current
from services.common.tracing.encode import Value
from services.common.tracing.names import ERROR
from services.common.tracing.spans import Kind, Remote, Shape, Span
from services.common.tracing.tracer import Tracer
from services.common.tracing.w3c import parse

PROVIDER = "ollamesh"
NO_SUCH_TOOL = "_OTHER"  # As the conventions call what is not in a closed set.
SHAPES_MAX = 1024
Attributes = Mapping[str, Value]
_RUN = Shape(
    "invoke_agent",
    Kind.INTERNAL,
    {"gen_ai.operation.name": "invoke_agent", "gen_ai.provider.name": PROVIDER},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """What all traces of this process have in common."""

    tracer: Tracer | None = None  # None: nobody collects them.
    has_content: bool = False
    tools: Collection[str] = ()  # Those that there are.

    def of_run(self, about: "Traced", *, now_s: float) -> "RunTrace":
        """A run is worked on from now on."""
        return RunTrace(self, about, now_s=now_s)

    def begun(self, about: "Traced", *, now_s: float) -> Current:
        """A run's span: in its caller's trace, if the call was answered here; else in one that leads there."""
        if self.tracer is None:
            return None
        started_ns = _ns(now_s)
        if isinstance(about.asked_by, Span):
            return about.asked_by.child(_RUN, started_ns=started_ns)
        if isinstance(about.asked_by, Remote):
            return about.asked_by
        accepted = parse(about.trace_parent) if about.trace_parent is not None else None
        if accepted is not None and not accepted.is_sampled:
            return accepted
        span = self.tracer.begin(_RUN, started_ns=started_ns)
        if accepted is not None and isinstance(span, Span):
            span.link(accepted)
        return span


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What is known of a run before anything is told of it."""

    run_id: str
    thread_id: str
    config: RunConfig
    assistant_id: str = ""
    assistant_version: int = 0
    is_resumed: bool = False  # Somebody else worked on it before: that has a trace of its own.
    asked_by: Current = None  # The call that started it.
    trace_parent: str | None = None  # Likewise, as it was stored for others.


class RunTrace:
    """One run, from when it is worked on here to when it no longer is."""

    def __init__(self, tracing: Tracing, about: Traced, *, now_s: float) -> None:
        self._tracing, self._about = tracing, about
        self.span = tracing.begun(about, now_s=now_s)
        self._root = self.span if isinstance(self.span, Span) else None  # None: nothing is recorded.
        self._chat: Span | None = None
        self._answered_s: float | None = None  # When the model had written the step's calls.
        self._calls: dict[str, Span] = {}
        self._questions: dict[object, str] = {}  # Calls, by the question about them.
        if self._root is not None:
            self._root.set(_of_agent(about))

    @property
    def step(self) -> Current:
        """What the model is asked in."""
        return self._chat or self.span

    def call(self, call_id: str) -> Current:
        """What a tool is called in."""
        return self._calls.get(call_id, self.span)

    def tell(self, entries: tuple[Entry, ...], *, now_s: float) -> None:
        """The tale goes on."""
        if self._root is None:
            return
        for entry in entries:
            if isinstance(entry, Message):
                self._hear(entry)
            else:
                self._tell(entry, now_s)

    def close(self, *, now_s: float) -> None:
        """Nothing more is done here for the run, whether it has ended or not."""
        for span in (*self._calls.values(), *([self._chat] if self._chat else [])):
            span.set({"ollamesh.is_cut_off": True})
            span.end(_ns(now_s))
        self._calls, self._chat = {}, None
        if self._root is not None:
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
            self._set({"gen_ai.input.messages": told})
        elif message.role is Role.ASSISTANT and self._chat is not None:
            self._chat.set({"gen_ai.output.messages": told})

    def _start_chat(self, now_s: float, step: int) -> None:
        config = self._about.config
        asked = {
            "gen_ai.request.temperature": config.temperature,
            "gen_ai.request.seed": config.seed,
            "gen_ai.request.max_tokens": config.limits.output_token_count_per_call,
        }
        self._answered_s = None
        self._chat = self._inner(
            _step(config.model),
            {"ollamesh.step": step, **{name: value for name, value in asked.items() if value is not None}},
            now_s,
        )

    def _end_chat(self, finished: events.StepFinished, now_s: float) -> None:
        if self._chat is None:
            return  # The model was asked where the run was before.
        reason = "tool_calls" if finished.usage.tool_call_count else "stop"
        self._chat.set(
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
        span = self._inner(_call(named), {"gen_ai.tool.call.id": call_id, **content}, now_s)
        if span is not None:
            self._calls[call_id] = span

    def _end_call(self, returned: events.ToolReturned, now_s: float) -> None:
        span = self._calls.pop(returned.call_id, None)
        if span is None:
            return  # It was called where the run was before.
        if returned.failed:
            span.fail("tool_failed")
        span.set({"ollamesh.is_remembered": returned.remembered})
        if self._tracing.has_content:
            span.set({"gen_ai.tool.call.result": returned.content})
        span.end(_ns(now_s))

    def _note(self, call_id: str, name: str, attributes: Attributes, now_s: float) -> None:
        if call_id in self._calls:
            self._calls[call_id].event(name, attributes, at_ns=_ns(now_s))

    def _finish(self, finished: events.Finished, now_s: float) -> None:
        self._set({"ollamesh.run.status": finished.status.value, **_of_tokens(finished.usage)})
        if finished.reason:
            self._set({ERROR: finished.reason})
        if finished.status is events.Status.FAILED and self._root is not None:
            self._root.fail(finished.reason or "FAILED")
        self.close(now_s=now_s)

    def _set(self, attributes: Attributes) -> None:
        if self._root is not None:
            self._root.set(attributes)

    def _inner(self, shape: Shape, attributes: Attributes, now_s: float) -> Span | None:
        if self._root is None:
            return None
        span = self._root.child(shape, started_ns=_ns(now_s))
        span.set({"gen_ai.conversation.id": self._about.thread_id, **attributes})
        return span


@lru_cache(SHAPES_MAX)
def _step(model: str) -> Shape:
    return Shape(
        f"chat {model}",
        Kind.CLIENT,
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": model,
        },
    )


@lru_cache(SHAPES_MAX)
def _call(tool: str) -> Shape:
    return Shape(
        f"execute_tool {tool}",
        Kind.INTERNAL,
        {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.tool.name": tool,
            "gen_ai.tool.type": "function",
        },
    )


def _of_agent(about: Traced) -> Attributes:
    assistant: dict[str, Value] = {}
    if about.assistant_id:
        assistant = {
            "gen_ai.agent.id": about.assistant_id,
            "gen_ai.agent.version": str(about.assistant_version),
        }
    return {
        "gen_ai.request.model": about.config.model,
        "gen_ai.conversation.id": about.thread_id,
        "ollamesh.run.id": about.run_id,
        "ollamesh.run.is_resumed": about.is_resumed,
        **assistant,
    }


def _of_tokens(usage: Usage) -> dict[str, Value]:
    return {
        "gen_ai.usage.input_tokens": usage.prompt_token_count,
        "gen_ai.usage.output_tokens": usage.output_token_count,
    }


def _ns(time_s: float) -> int:
    return round(time_s * 1e9)
