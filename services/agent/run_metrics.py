"""What is counted within runs: steps, calls of tools, people's decisions.

Names and buckets of the `gen_ai_` metrics are OpenTelemetry's. A label is a model that has answered, a tool that there
is, or one of a closed set.
"""

from collections.abc import Collection, Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram

from services.agent.core.conversation import Message
from services.agent.core.events import (
    ApprovalRequested,
    ApprovalResolved,
    Delta,
    Finished,
    Status,
    StepFinished,
    ToolCalled,
    ToolReturned,
)
from services.agent.core.run import Entry
from services.common.metrics.few import Few

NO_SUCH_TOOL = "_OTHER"
_OF_AGENT = ("gen_ai_operation_name", "gen_ai_request_model")
_OF_TOOL = ("gen_ai_operation_name", "gen_ai_tool_name", "error_type")
INVOKED_MAX, EXECUTED_MAX = 48, 40  # Told apart. MCP servers may have hundreds of tools.
_DURATION_BUCKETS_S = tuple(0.01 * 2**step for step in range(14))
_TOKEN_BUCKETS = tuple(4.0**step for step in range(14))
_CALL_BUCKETS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89)


class Models(Protocol):
    """Which names of models are labels."""

    def answered(self, model: str) -> None:
        """It exists: nobody has made up its name."""
        ...

    def label(self, model: str) -> str:
        """What the model is called in metrics."""
        ...


class RunMetrics:
    """Of one replica."""

    def __init__(self, registry: CollectorRegistry, *, tools: Collection[str], models: Models) -> None:
        self._tools, self._models, self._label = frozenset(tools), models, models.label
        self._tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens read and written: of whole answers in the gateway, of steps in the agent",
            (*_OF_AGENT, "gen_ai_token_type"),
            buckets=_TOKEN_BUCKETS,
            registry=registry,
        )
        self._invoked = Few(
            Histogram(
                "gen_ai_invoke_agent_duration_seconds",
                "How long a run worked, waits for people not counted; error_type is empty for those that succeeded",
                (*_OF_AGENT, "error_type"),
                buckets=_DURATION_BUCKETS_S,
                registry=registry,
            ),
            (*_OF_AGENT, "error_type"),
            children_max=INVOKED_MAX,
        )
        self._model_calls = Histogram(
            "gen_ai_invoke_agent_inference_calls",
            "Calls of the model in a run",
            _OF_AGENT,
            buckets=_CALL_BUCKETS,
            registry=registry,
        )
        self._tool_calls = Histogram(
            "gen_ai_invoke_agent_tool_calls",
            "Calls of tools in a run",
            _OF_AGENT,
            buckets=_CALL_BUCKETS,
            registry=registry,
        )
        self._executed = Few(
            Histogram(
                "gen_ai_execute_tool_duration_seconds",
                "From a call to its result; error_type is empty for those that went well",
                _OF_TOOL,
                buckets=_DURATION_BUCKETS_S,
                registry=registry,
            ),
            _OF_TOOL,
            children_max=EXECUTED_MAX,
        )
        self._add_ours(registry)

    def _add_ours(self, registry: CollectorRegistry) -> None:
        self._remembered = Few(
            Counter(
                "ollamesh_agent_tool_calls_remembered_total",
                "Calls that were answered from memory",
                ("tool",),
                registry=registry,
            ),
            ("tool",),
            children_max=EXECUTED_MAX,
        )
        self._approvals = Counter(
            "ollamesh_agent_approvals_total",
            "Questions to people, asked and decided",
            ("decision",),
            registry=registry,
        )

    def of_run(self, model: str) -> "RunMeter":
        """What is told of one run is counted from now on."""
        return RunMeter(self, model)

    def answered(self, model: str) -> None:
        """The model has written something."""
        self._models.answered(model)

    def tokens(self, model: str, kind: str, count: int) -> None:
        """Of one step."""
        self._tokens.labels("chat", self._label(model), kind).observe(count)

    def called(self, tool: str, *, failed: bool, duration_s: float) -> None:
        """A tool has answered."""
        error = "tool_failed" if failed else ""
        self._executed.labels("execute_tool", self._known(tool), error).observe(duration_s)

    def remembered(self, tool: str) -> None:
        """A tool need not be asked."""
        self._remembered.labels(self._known(tool)).inc()

    def asked(self, decision: str) -> None:
        """People were asked, or have decided."""
        self._approvals.labels(decision).inc()

    def ended(self, model: str, finished: Finished) -> None:
        """A run has ended."""
        error = "" if finished.status is Status.SUCCEEDED else finished.reason or finished.status.value
        labels = ("invoke_agent", self._label(model))
        self._invoked.labels(*labels, error).observe(finished.usage.wall_s)
        self._model_calls.labels(*labels).observe(finished.usage.model_call_count)
        self._tool_calls.labels(*labels).observe(finished.usage.tool_call_count)

    def _known(self, tool: str) -> str:
        return tool if tool in self._tools else NO_SUCH_TOOL


class RunMeter:
    """Counts what is told of one run."""

    def __init__(self, metrics: RunMetrics, model: str) -> None:
        self._metrics, self._model = metrics, model
        self._tools: dict[str, str] = {}  # By call.

    def tell(self, entries: Iterable[Entry]) -> None:
        """The tale goes on."""
        metrics = self._metrics
        for entry in entries:
            match entry:
                case Delta():
                    metrics.answered(self._model)
                case ToolCalled(call):
                    metrics.answered(self._model)
                    self._tools[call.call_id] = call.name
                case ToolReturned():
                    self._count(entry)
                case ApprovalRequested():
                    metrics.asked("asked")
                case ApprovalResolved(decision=decision):
                    metrics.asked(decision.value.lower())
                case StepFinished(usage=usage):
                    metrics.tokens(self._model, "input", usage.prompt_token_count)
                    metrics.tokens(self._model, "output", usage.output_token_count)
                case Finished():
                    metrics.ended(self._model, entry)
                case Message() | _:
                    pass

    def _count(self, returned: ToolReturned) -> None:
        tool = self._tools.pop(returned.call_id, NO_SUCH_TOOL)
        if returned.remembered:
            self._metrics.remembered(tool)
        else:
            self._metrics.called(tool, failed=returned.failed, duration_s=returned.duration_s)
