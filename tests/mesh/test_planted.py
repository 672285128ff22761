"""Nothing secret, and nothing that people say, comes out where it should not: of 40 kinds, in every sink.

What is planted goes in through the real edge, by every door; then everything that a stack writes, keeps, publishes, traces
or answers is searched for it, and for the stack's own secrets.
"""

import asyncio
import json

import pytest

from deploy.local.secret_files import SecretFiles
from deploy.local.settings import Settings
from tests.mesh.edge import Edge
from tests.mesh.planting import Planted, plant_all
from tests.mesh.scraping import scraped
from tests.mesh.sinks import sinks

TRACED_WITHIN_S = 60.0
# A caller is told which file of his is not there.
MEANT = {("file that is not there", "answers to what was wrong")}


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="module")
def own(mesh: Settings) -> dict[str, str]:
    """The stack's own secrets."""
    folder = SecretFiles(mesh.home).folder
    found = {path.name: path.read_text().strip() for path in folder.iterdir() if path.is_file()}
    keys = {
        f"{path.parent.name} {path.name}": path.read_text().splitlines()[1]
        for path in (mesh.home / "tls").rglob("*.key")
    }
    assert len(found) > 8
    assert keys
    return {**found, **keys}


async def until_traced(mesh: Settings) -> dict[str, str]:
    """All sinks, once spans of what was planted have arrived."""
    async with asyncio.timeout(TRACED_WITHIN_S):
        while True:
            found = await sinks(mesh)
            if all(name in found["traces"] for name in ("PutFile", "PutSecret", "embeddings")):
                return found
            await asyncio.sleep(0.5)


@pytest.mark.timeout(300)
async def test_what_was_planted_is_in_no_sink(
    mesh: Settings, edge: Edge, own: dict[str, str], planted: Planted
) -> None:
    await plant_all(edge, planted)
    assert len(planted.words) >= 40
    planted.words |= own
    found = await until_traced(mesh)
    found["answers to what was wrong"] = "\n".join(planted.answers)
    leaks = {
        (kind, sink)
        for sink, text in found.items()
        for kind in planted.found_in(text)
        if (kind, sink) not in MEANT
    }
    assert leaks == set()
    for name in ("logs/auth.log", "logs/inference.log", "logs/edge.log", "logs/postgres.log", "stack.json"):
        assert found[name], f"{name} was looked into"


async def test_a_sink_is_really_searched(mesh: Settings, edge: Edge) -> None:
    """What is told on purpose is found by the same means: else this file could not fail."""
    token_id = edge.token()
    assert token_id
    found = await sinks(mesh)
    assert Planted({"user": "admin"}).found_in(found["audit log"]) == ["user"]
    for sink, known in (
        ("logs/edge.log", "/ollamesh.inference.v1.InferenceService/Chat"),
        ("traces", "/ollamesh.inference.v1.InferenceService/Chat"),
        ("metrics of inference", "/ollamesh.inference.v1.InferenceService/Chat"),
        ("logs/auth.log", "token_issued"),
    ):
        assert Planted({"known": known}).found_in(found[sink]) == ["known"], sink


def test_nothing_had_to_be_taken_out_of_a_log(mesh: Settings) -> None:
    """The last line of defence was not needed."""
    for service, metrics in scraped(mesh).items():
        assert metrics["ollamesh_log_redactions_total"].samples[0].value == 0, service
        log = (mesh.home / "logs" / f"{service}.log").read_text()
        lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        assert all({"service", "level", "timestamp", "event"} <= line.keys() for line in lines)
