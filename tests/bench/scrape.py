"""What a scrape costs each service, when it has as many series as it can have at all.

The registries are those that tests/unit/test_metrics_bounds.py fills with hundreds of models, tenants, tools and
statements: no load makes more. The text is made as Prometheus asks for it, OpenMetrics in gzip, and plain.
"""

import asyncio
import time
from statistics import median

from services.common.metrics.endpoint import Application, application
from tests.bench.support.report import Figure, report
from tests.unit.metrics_rig import DRIVEN, SERIES_MAX, count, driven

SCRAPES = 20
CPU_MS_MAX = 30.0
WAYS = {
    "OpenMetrics": {
        "HTTP_ACCEPT": "application/openmetrics-text;version=1.0.0",
        "HTTP_ACCEPT_ENCODING": "gzip",
    },
    "plain": {},
}


def scrape(app: Application, headers: dict[str, str]) -> tuple[float, int]:
    """Milliseconds of a processor, and bytes."""
    began_s = time.thread_time()
    answer = app({"PATH_INFO": "/metrics", "REQUEST_METHOD": "GET", **headers}, lambda *_: None)
    size = sum(map(len, answer))
    return (time.thread_time() - began_s) * 1e3, size


async def figures() -> list[Figure]:
    rows = []
    for service in DRIVEN:
        registry = await driven(service)
        series = count(registry)
        rows.append(Figure(name=f"{service}: series", value=series, unit="", goal=SERIES_MAX))
        for way, headers in WAYS.items():
            app = application(registry, share_max=1.0)  # Without rests between turns.
            found = [scrape(app, headers) for _ in range(SCRAPES)]
            cpu_ms = median(took for took, _ in found)
            rows += [
                Figure(
                    name=f"{service}: {way}, CPU, median",
                    value=cpu_ms,
                    unit="ms",
                    goal=CPU_MS_MAX,
                ),
                Figure(name=f"{service}: {way}, size", value=found[0][1] / 1024, unit="KiB"),
            ]
    return rows


if __name__ == "__main__":
    report("scrape", rounds=SCRAPES, figures=asyncio.run(figures()))
