"""What ships logs, which no program here can run: that it is whole, bounded, and speaks of what is really logged."""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.common.logs.lines import KEPT

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/logging"
TIMES = {"services": "timestamp", "edge": "time"}
LOGGED = {"debug", "info", "warning", "error", "exception", "critical"}
# Written by services/common/logs itself, whatever is logged.
ALWAYS = {*KEPT, "said", "exception", "cut_from_chars"}
# What Filebeat and Vector put there by themselves, or the data stream wants.
OTHERS = {"message", "ollamesh", "data_stream.type", "data_stream.dataset", "data_stream.namespace"}
MAPPED = re.compile(r"if exists\(\.ollamesh\.(\w+)\) \{ \.([\w.]+) = del\(\.ollamesh\.(\w+)\) \}")


def table() -> Mapping[str, Mapping[str, str]]:
    found: dict[str, dict[str, str]] = yaml.safe_load((FOLDER / "fields.yaml").read_text())
    return found


def load(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


def fields_logged() -> set[str]:
    """The names of all fields that a call of a logger in services/ gives."""
    found = set()
    for path in (ROOT / "services").glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LOGGED
            ):
                found |= {keyword.arg for keyword in node.keywords if keyword.arg}
    return found


def edge_fields() -> set[str]:
    """Read and not imported: the library of Envoy's configuration warns when it is, and here warnings are errors."""
    for node in ast.walk(ast.parse((ROOT / "deploy/envoy/access_log.py").read_text())):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FIELDS":
            assert isinstance(node.value, ast.Dict)
            return {ast.literal_eval(name) for name in node.value.keys if name is not None}
    raise AssertionError


def wanted(kind: str) -> dict[str, str]:
    """But for the time, which both programs read rather than rename."""
    return {ours: name for ours, name in table()[kind].items() if ours != TIMES[kind]}


def test_every_field_in_the_table_is_one_that_is_logged() -> None:
    assert set(table()["services"]) <= fields_logged() | ALWAYS
    assert set(table()["edge"]) <= edge_fields()


def test_the_time_is_the_time() -> None:
    assert {kind: table()[kind][name] for kind, name in TIMES.items()} == dict.fromkeys(TIMES, "@timestamp")


def test_no_two_fields_have_one_name() -> None:
    for kind, names in table().items():
        assert len(set(names.values())) == len(names), kind


def renames(processors: Any) -> Iterator[dict[str, str]]:
    for each in processors:
        for branch in ("then", "else"):
            yield from renames(each.get(branch, []))
        if "rename" in each:
            yield {one["from"].removeprefix("ollamesh."): one["to"] for one in each["rename"]["fields"]}


def test_filebeat_renames_as_the_table_says() -> None:
    assert list(renames(load("filebeat.yml")["processors"])) == [wanted("services"), wanted("edge")]


@pytest.mark.parametrize("kind", ["services", "edge"])
def test_vector_renames_as_the_table_says(kind: str) -> None:
    source = load("vector.yaml")["transforms"][f"of_{kind}"]["source"]
    found = MAPPED.findall(source)
    assert {ours: name for ours, name, _ in found} == wanted(kind)
    assert all(ours == again for ours, _, again in found)
    assert source.count("exists(") == len(found), "every line is of this form"
    assert f"del(.ollamesh.{TIMES[kind]})" in source


def test_vectors_parts_lead_from_its_source_to_its_sinks() -> None:
    whole = load("vector.yaml")
    routes = {f"sorted.{route}" for route in (*whole["transforms"]["sorted"]["route"], "_unmatched")}
    there = {*whole["sources"], *whole["transforms"], *routes}
    used = {
        name for part in (*whole["transforms"].values(), *whole["sinks"].values()) for name in part["inputs"]
    }
    assert used <= there
    assert there - used <= {"sorted"}, "nothing is dropped"


def test_whatever_cannot_be_sent_is_bounded() -> None:
    assert load("filebeat.yml")["queue.disk"]["max_size"]
    for name, sink in load("vector.yaml")["sinks"].items():
        assert sink["buffer"]["type"] == "disk", name
        assert sink["buffer"]["max_size"] <= 2**30, name
        assert sink["buffer"]["when_full"] == "block", name


def test_lokis_labels_are_closed_sets() -> None:
    loki = load("vector.yaml")["sinks"]["loki"]
    assert set(loki["labels"]) == {"job", "service", "level"}


def types(properties: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for name, field in properties.items():
        if "properties" in field:
            yield from types(field["properties"], f"{path}{name}.")
        else:
            yield f"{path}{name}", field["type"]


def test_the_template_knows_every_name_and_no_other() -> None:
    template = json.loads((FOLDER / "index-template.json").read_text())["template"]
    found = dict(types(template["mappings"]["properties"]))
    names = {name for fields in table().values() for name in fields.values()}
    assert set(found) == names | OTHERS
    assert template["mappings"]["dynamic"] is False
    assert found["@timestamp"] == "date"
    assert found["ollamesh"] == "flattened", "fields of ours make no fields of the index"
    assert template["lifecycle"]["data_retention"]


@pytest.mark.parametrize("name", ["filebeat.yml", "vector.yaml"])
def test_where_to_and_with_which_key_is_not_in_a_file(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert "http://" not in text
    assert re.search(r"(?i)(key|password|token)\"?: +[\"']?[A-Za-z0-9+/=]{12,}", text) is None
    for variable in re.findall(r"\$\{(\w+)\}", text):
        assert variable in (FOLDER / "README.md").read_text(), variable
