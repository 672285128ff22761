"""The configurations of a collector and of Jaeger, which no program here can check: that they are whole."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from services.common.tracing.names import ATTRIBUTES

FOLDER = Path(__file__).parents[2] / "deploy/otel"
KINDS = ("receivers", "processors", "exporters")


def configuration(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return found


@pytest.mark.parametrize("name", ["collector.yaml", "jaeger.yaml"])
def test_every_component_that_is_named_is_there_and_is_used(name: str) -> None:
    whole = configuration(name)
    assert set(whole) == {*KINDS, "extensions", "service"}
    assert set(whole["service"]["extensions"]) == set(whole["extensions"])
    for kind in KINDS:
        used = {one for pipeline in whole["service"]["pipelines"].values() for one in pipeline[kind]}
        assert used == set(whole[kind])


@pytest.mark.parametrize("name", ["collector.yaml", "jaeger.yaml"])
def test_nothing_listens_elsewhere_than_somebody_says(name: str) -> None:
    def endpoints(part: Any) -> list[str]:
        if not isinstance(part, dict):
            return []
        own = [part["endpoint"]] if "endpoint" in part else []
        return own + [one for inner in part.values() for one in endpoints(inner)]

    found = endpoints(configuration(name))
    assert found
    assert all(one.startswith("${env:") and ":-127.0.0.1" in one for one in found)


def test_traces_are_chosen_by_what_the_mesh_tells() -> None:
    policies = {
        one["name"]: one for one in configuration("collector.yaml")["processors"]["tail_sampling"]["policies"]
    }
    refusals = policies["refusals"]["string_attribute"]
    assert refusals["key"] in ATTRIBUTES
    protos = "".join(
        path.read_text() for path in (FOLDER.parents[1] / "protos/ollamesh").rglob("error_reason.proto")
    )
    assert [reason for reason in refusals["values"] if f"ERROR_REASON_{reason} " not in protos] == []
    (condition,) = policies["slow-first-token"]["ottl_condition"]["span"]
    assert condition.partition('"')[2].partition('"')[0] in ATTRIBUTES
    assert policies["errors"]["status_code"] == {"status_codes": ["ERROR"]}


def test_what_the_collector_sends_comes_to_jaeger() -> None:
    sent = configuration("collector.yaml")["exporters"]["otlp/jaeger"]["endpoint"]
    received = configuration("jaeger.yaml")["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"]
    assert sent.rpartition(":")[2].rstrip("}") == received.rpartition(":")[2]
