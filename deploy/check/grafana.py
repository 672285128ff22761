"""Dashboards: as the code has them, well formed, their queries PromQL, what they link and ask for there.

Whether the metrics exist is looked at where a stack runs (tests/mesh/test_dashboards.py). How the boards look is not.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import yaml

from deploy.grafana.board import Board, document
from deploy.grafana.boards import BOARDS
from deploy.grafana.files import drifted
from deploy.grafana.promql import filled, selectors
from tools.metrics_catalogue import catalogue

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
RUNBOOKS = ROOT / "deploy" / "runbooks"
COLUMNS = 24
OURS = ("ollamesh_", "gen_ai_", "agent_")
# By Prometheus to whatever it scrapes, and to histograms; ours of the same name it calls `exported_`.
ADDED = frozenset({"job", "instance", "le"})
Document = Mapping[str, Any]


def check() -> list[str]:
    documents = {board.name: json.loads(document(board)) for board in BOARDS}
    return [
        *(f"dashboards/{name} is not as the code has it: run `make dashboards`." for name in drifted()),
        *(problem for name, made in documents.items() for problem in form_problems(name, made)),
        *(problem for board in BOARDS for problem in query_problems(board)),
        *(problem for board in BOARDS for problem in catalogue_problems(board)),
        *(problem for board in BOARDS for problem in runbook_problems(board, RUNBOOKS)),
        *unique_problems(documents),
        *provisioning_problems(GRAFANA / "provisioning"),
    ]


def form_problems(name: str, board: Document) -> Iterator[str]:
    """What Grafana would show wrongly, or not at all."""
    panels = board["panels"]
    ids = [panel["id"] for panel in panels]
    if len(ids) != len(set(ids)):
        yield f"{name}: two panels have the same id."
    for one, other in combinations(panels, 2):
        if _overlap(one["gridPos"], other["gridPos"]):
            yield f"{name}: the panels '{one['title']}' and '{other['title']}' lie on each other."
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] + place["w"] > COLUMNS:
            yield f"{name}: the panel '{panel['title']}' is wider than the board."
        if panel["type"] == "row":
            continue
        if not panel["targets"] or not panel.get("description"):
            yield f"{name}: the panel '{panel['title']}' has no query or no description."
        yield from (f"{name}: '{panel['title']}': {problem}" for problem in _field_problems(panel))


def _field_problems(panel: Document) -> Iterator[str]:
    defaults = panel["fieldConfig"]["defaults"]
    if not defaults.get("unit"):
        yield "it has no unit."
    if not defaults.get("noValue"):
        yield "it does not say what an empty panel means."
    steps = [step["value"] for step in defaults.get("thresholds", {}).get("steps", [])][1:]
    if any(low >= high for low, high in pairwise(steps)):
        yield "its thresholds do not rise."


def query_problems(board: Board) -> Iterator[str]:
    """Queries that are no PromQL, and variables that nothing fills in."""
    for place, query in board.queries:
        text = filled(query, values_of(board))
        if "$" in text:
            yield f"{board.name}: '{place}' uses a variable that the board has not: {text}"
            continue
        try:
            list(selectors(text))
        except ValueError as error:
            yield f"{board.name}: '{place}' is no PromQL: {error}: {text}"


def catalogue_problems(board: Board) -> Iterator[str]:
    """Metrics of ours that docs/metrics.md does not know, or not with these labels."""
    known = {series: entry.labels for entry in catalogue().values() for series in entry.series}
    for place, query in board.queries:
        for selector in selectors(filled(query, values_of(board))):
            if not selector.name.startswith(OURS):
                continue
            labels = {label.removeprefix("exported_") for label in selector.labels} - ADDED
            if selector.name not in known:
                yield f"{board.name}: '{place}' asks for {selector.name}, which docs/metrics.md has not."
            elif labels - known[selector.name]:
                unknown = ", ".join(sorted(labels - known[selector.name]))
                yield f"{board.name}: '{place}' asks {selector.name} for {unknown}, which docs/metrics.md has not."


def values_of(board: Board) -> Mapping[str, str]:
    """What stands for the board's variables."""
    choices = {choice.name: ".*" for choice in board.choices}
    return {**choices, **{entry.name: entry.value for entry in board.entries}}


def runbook_problems(board: Board, folder: Path) -> Iterator[str]:
    """Pages that are not there, once for each."""
    linked: dict[str, str] = {}
    for panel in board.panels:
        if panel.runbook is not None:
            linked.setdefault(panel.runbook, panel.title)
    for page, title in linked.items():
        if not (folder / f"{page}.md").exists():
            yield f"{board.name}: '{title}' links the runbook {page}, which is not in deploy/runbooks."


def unique_problems(documents: Mapping[str, Document]) -> Iterator[str]:
    for key in ("uid", "title"):
        values = [board[key] for board in documents.values()]
        if len(values) != len(set(values)):
            yield f"Two boards have the same {key}."


def provisioning_problems(folder: Path) -> Iterator[str]:
    """Links between sources that lead to none of them."""
    sources = yaml.safe_load((folder / "datasources" / "ollamesh.yaml").read_text())["datasources"]
    uids = {source["uid"] for source in sources}
    for source in sources:
        for uid in _linked(source["jsonData"]):
            if uid not in uids:
                yield f"datasources/ollamesh.yaml: {source['name']} links {uid}, which is no source there."


def _linked(value: object) -> Iterator[str]:
    match value:
        case dict():
            for key, inner in value.items():
                if key == "datasourceUid":
                    yield str(inner)
                else:
                    yield from _linked(inner)
        case list():
            for inner in value:
                yield from _linked(inner)
        case _:
            return


def _overlap(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    return all(
        one[at] < other[at] + other[size] and other[at] < one[at] + one[size]
        for at, size in (("x", "w"), ("y", "h"))
    )
