"""Parts of the agent that most tests only need to be there."""

from prometheus_client import CollectorRegistry

from services.agent.core.budget import Limits
from services.agent.core.ids import RunId
from services.agent.core.run_config import RunConfig
from services.agent.observing import Observed, Observing
from services.agent.run_metrics import RunMetrics
from services.agent.summaries import Kept
from services.agent.telemetry import AgentMetrics
from services.agent.tracing import Traced, Tracing

PLAIN = RunConfig(
    model="tiny",
    system_prompt="",
    tools=(),
    first_tool="",
    temperature=None,
    seed=None,
    limits=Limits(),
)


class KeptSummaries:
    """Implements summaries.Summaries: one for all threads."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []
        self.found: Kept | None = None

    async def find(self, run_id: RunId) -> Kept | None:
        return self.found

    async def keep(self, run_id: RunId, kept: Kept) -> None:
        self.kept.append(kept)


def unobserved() -> Observing:
    """Counts where nobody looks."""
    registry = CollectorRegistry()
    return Observing(RunMetrics(registry, tools=(), models=AgentMetrics(registry)), Tracing())


def unobserved_run() -> Observed:
    return unobserved().of_run(Traced(run_id="r", thread_id="t", config=PLAIN), now_s=0.0)
