"""`python -m deploy.grafana.sheet OUT.png PROMETHEUS_URL BOARD [MINUTES]`: a board's data, drawn without Grafana.

A look at what the queries answer: whether lines are where they should be, whether units fit. It is not how Grafana draws
them.
"""

import json
import sys
import time
from collections.abc import Sequence
from math import ceil, isfinite
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy.grafana.board import Board
from deploy.grafana.boards import BOARDS
from deploy.grafana.panels import Panel, Query
from deploy.grafana.promql import filled

COLUMNS = 4
STEP_S, TIMEOUT_S = 2, 30
SERIES_MAX = 12  # Of a panel.
Points = tuple[str, Sequence[float], Sequence[float]]


def asked(url: str, board: Board, query: Query, *, minutes: float) -> list[Points]:
    """What a query answers over the last minutes: names, times, values."""
    values = {
        **{choice.name: ".*" for choice in board.choices},
        **{entry.name: entry.value for entry in board.entries},
        "__rate_interval": "20s",
        "__range": f"{max(1, round(minutes))}m",
    }
    now_s = time.time()
    terms = {
        "query": filled(query.expr, values),
        "start": now_s - minutes * 60,
        "end": now_s,
        "step": STEP_S,
    }
    # An address that whoever calls has typed.
    with urlopen(f"{url}/api/v1/query_range?{urlencode(terms)}", timeout=TIMEOUT_S) as answer:  # noqa: S310
        found = json.loads(answer.read())["data"]["result"]
    return [
        (
            _name(query, series["metric"]),
            [at - now_s for at, _ in series["values"]],
            [float(value) for _, value in series["values"]],
        )
        for series in found[:SERIES_MAX]
    ]


def draw(board: Board, url: str, path: Path, *, minutes: float) -> None:
    panels = list(board.panels)
    rows = ceil(len(panels) / COLUMNS)
    figure = Figure(figsize=(6 * COLUMNS, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    figure.suptitle(f"Ollamesh: {board.title} (drawn without Grafana)")
    for own, panel in zip(axes, panels, strict=False):
        _draw_panel(
            own,
            panel,
            [points for query in panel.queries for points in asked(url, board, query, minutes=minutes)],
        )
    for own in axes[len(panels) :]:
        own.set_axis_off()
    figure.savefig(path, dpi=80)


def _draw_panel(axes: Axes, panel: Panel, series: Sequence[Points]) -> None:
    axes.set_title(f"{panel.title} [{panel.unit}]", fontsize="small")
    axes.grid(visible=True, alpha=0.3)
    drawn = 0
    for name, times, values in series:
        if any(map(isfinite, values)):
            axes.plot(times, values, linewidth=1, label=name[:40])
            drawn += 1
    if not drawn:
        axes.text(0.5, 0.5, panel.none, ha="center", va="center", transform=axes.transAxes, color="grey")
        return
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.tick_params(labelsize="x-small")
    if any(name for name, _, _ in series):
        axes.legend(fontsize="xx-small", loc="upper left")


def _name(query: Query, labels: dict[str, str]) -> str:
    name = query.legend or " ".join(value for label, value in labels.items() if label != "__name__")
    for label, value in labels.items():
        name = name.replace(f"{{{{{label}}}}}", value)
    return name


def main(arguments: Sequence[str]) -> int:
    names = {board.name: board for board in BOARDS}
    if len(arguments) not in {3, 4} or arguments[2] not in names:
        print(f"usage: python -m deploy.grafana.sheet OUT.png PROMETHEUS_URL {{{','.join(names)}}} [MINUTES]")
        return 2
    minutes = float(arguments[3]) if len(arguments) == 4 else 5.0
    draw(names[arguments[2]], arguments[1].rstrip("/"), Path(arguments[0]), minutes=minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
