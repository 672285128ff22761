"""Every query of every dashboard, put to a real Prometheus that has scraped a real stack with some traffic."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ollamesh.client import Client, StaticToken, batches, chats, runs
from ollamesh.client.errors import CallError

from deploy.grafana.absent import ABSENT
from deploy.grafana.boards import BOARDS
from deploy.grafana.promql import filled, selectors
from deploy.local.settings import Settings
from tests.mesh.edge import MODEL, Edge
from tests.mesh.observed import WITHIN_S, Prometheus, Scraped, exporters, prometheus, targets_of
from tools import prometheus as programs

LACKING = programs.missing(programs.folder(), ("prometheus", "postgres_exporter", "redis_exporter"))
pytestmark = pytest.mark.skipif(
    bool(LACKING), reason=f"there is no {', '.join(LACKING)}: run `make prometheus`"
)

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules"
# As Grafana fills in "All", and what a person typed.
CHOSEN: Mapping[str, str] = {
    **{choice.name: ".*" for board in BOARDS for choice in board.choices},
    **{entry.name: entry.value for board in BOARDS for entry in board.entries},
}
# Written by Prometheus itself, while alerts fire.
OF_ALERTS = {"ALERTS": {"alertname", "alertstate", "severity"}}
QUERIES = [
    pytest.param(filled(expr, CHOSEN), id=f"{board.name}: {place}")
    for board in BOARDS
    for place, expr in board.queries
]


@dataclass(frozen=True, slots=True)
class Seen:
    server: Prometheus
    scraped: Scraped


@pytest.fixture(scope="module")
def seen(mesh: Settings, edge: Edge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    asyncio.run(asyncio.wait_for(_traffic(edge), WITHIN_S))
    folder = tmp_path_factory.mktemp("observed")
    with exporters(mesh.home, folder) as stores:
        targets = {**targets_of(mesh.home), **stores}
        with prometheus(folder, targets) as server:
            scraped = server.scraped()
            for target in targets.values():
                scraped.add(target.text())
            _add_recorded(scraped)
            yield Seen(server, scraped)


async def _traffic(edge: Edge) -> None:
    """A little of everything, some of which fails."""
    sampled = chats.Options(temperature=0, seed=1, output_token_count_max=4)
    async with Client(edge.url, StaticToken(edge.token())) as client:
        for _ in range(2):  # The second from the cache.
            _ = [event async for event in client.chat(MODEL, "Hello", options=sampled)]
        await client.embed("all-minilm", ["Hello"])
        _ = [event async for event in client.execute("print(1)")]
        config = runs.Config(model=MODEL, tools=("run_python",), first_tool="run_python", step_count_max=2)
        _ = [event async for event in client.run("Print 1.", config)]
        batch = await client.create_batch([batches.chat(MODEL, "Hello", options=sampled)])
        _ = [result async for result in client.batch_results(batch.batch_id)]
        with pytest.raises(CallError):
            _ = [event async for event in client.chat("no-such-model", "Hello")]


def _add_recorded(scraped: Scraped) -> None:
    """What the alerts' rules record is evaluated too seldom to wait for it."""
    for path in RULES.glob("*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                if "record" in rule:
                    scraped.labels[rule["record"]] |= rule.get("labels", {}).keys()
    for name, labels in OF_ALERTS.items():
        scraped.labels[name] |= labels


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_is_answered(seen: Seen, query: str) -> None:
    """By its form: what it asks for is looked at below."""
    seen.server.query(query)


def test_what_queries_ask_for_is_there(seen: Seen) -> None:
    asked = {selector for parameters in QUERIES for selector in selectors(str(parameters.values[0]))}
    missing = {
        problem
        for selector in asked
        if selector.name not in ABSENT and (problem := seen.scraped.lacks(selector.name, selector.labels))
    }
    assert not missing, "\n".join(sorted(missing))


def test_nothing_is_excused_that_no_board_shows() -> None:
    asked = {selector.name for parameters in QUERIES for selector in selectors(str(parameters.values[0]))}
    assert ABSENT.keys() <= asked
