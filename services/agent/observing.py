"""Whatever is told of a run is counted and traced as well."""

from dataclasses import dataclass

from services.agent.core.run import Entries
from services.agent.run_metrics import RunMeter, RunMetrics
from services.agent.tracing import RunTrace, Traced, Tracing


@dataclass(frozen=True, slots=True)
class Observed:
    """One run, while it is worked on here."""

    meter: RunMeter
    trace: RunTrace

    def tell(self, entries: Entries, *, now_s: float) -> None:
        """The tale goes on."""
        self.meter.tell(entries)
        self.trace.tell(entries, now_s=now_s)

    def close(self, *, now_s: float) -> None:
        """Nothing more is done here for the run."""
        self.trace.close(now_s=now_s)


@dataclass(frozen=True, slots=True)
class Observing:
    """Of one replica."""

    metrics: RunMetrics
    tracing: Tracing

    def of_run(self, about: Traced, *, now_s: float) -> Observed:
        """A run is worked on from now on."""
        return Observed(self.metrics.of_run(about.config.model), self.tracing.of_run(about, now_s=now_s))
