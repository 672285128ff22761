"""What became of log lines, for metrics. There is one log in a process, and so one of these."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(slots=True, eq=False)
class LogCounts(Collector):
    """Written by whichever thread logs; a count that is one too low now and then harms nobody."""

    lines: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LEVELS, 0))
    repeated_count: int = 0
    flood_count: int = 0
    cut_count: int = 0
    redacted_count: int = 0

    def collect(self) -> Iterable[Metric]:
        lines = CounterMetricFamily("ollamesh_log_lines", "Lines that were logged", labels=("level",))
        for level, count in self.lines.items():
            lines.add_metric((level,), count)
        dropped = CounterMetricFamily(
            "ollamesh_log_lines_dropped",
            "Lines that were left out: of an event that came too often (repeated), or of too many in all (flood)",
            labels=("reason",),
        )
        dropped.add_metric(("repeated",), self.repeated_count)
        dropped.add_metric(("flood",), self.flood_count)
        return [
            lines,
            dropped,
            CounterMetricFamily(
                "ollamesh_log_lines_cut", "Lines that were too long, and were shortened", value=self.cut_count
            ),
            CounterMetricFamily(
                "ollamesh_log_redactions",
                "Lines out of which something was taken that looked like a secret: a bug",
                value=self.redacted_count,
            ),
        ]


COUNTS = LogCounts()
