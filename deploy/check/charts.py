"""The chart, rendered: once for each set of values that comes with it, and for whatever a test asks for."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from deploy.check.tools import ROOT, ran, tool

CHART = ROOT / "deploy/helm/ollamesh"
RENDER = Path(__file__).parent / "programs/render.py"
RELEASE = NAMESPACE = "ollamesh"
DEFAULT = "default"

Document = dict[str, Any]


class RenderError(Exception):
    """What Helm says about the chart or the values."""


def value_sets() -> Mapping[str, Mapping[str, Any]]:
    """What stands in the values files: by name, the chart's own first."""
    files = sorted(CHART.glob("values-*.yaml"))
    named = {file.stem.removeprefix("values-"): yaml.safe_load(file.read_text()) for file in files}
    return {DEFAULT: {}, **named}


@cache
def rendered() -> Mapping[str, Sequence[Document]]:
    """Each set of values with its documents. Raises RenderError."""
    sets = value_sets()
    return dict(zip(sets, render(list(sets.values())), strict=True))


def render(sets: Sequence[Mapping[str, Any]], *, chart: Path = CHART) -> list[list[Document]]:
    """Raises RenderError, and Skipped without Helm."""
    jobs = [{"values": values, "name": RELEASE, "namespace": NAMESPACE} for values in sets]
    done = ran(tool("python"), RENDER, chart, stdin=json.dumps(jobs))
    if done.returncode != 0:
        raise RenderError(done.stderr.strip().splitlines()[-1])
    found = []
    for result in json.loads(done.stdout):
        if "error" in result:
            raise RenderError(result["error"])
        found.append([document for text in result["documents"].values() for document in _parsed(text)])
    return found


def _parsed(text: str) -> Iterator[Document]:
    try:
        yield from (document for document in yaml.load_all(text, _UniqueKeys) if document)
    except yaml.YAMLError as error:
        raise RenderError(f"what was rendered is no YAML: {error}") from error


class _UniqueKeys(yaml.CSafeLoader):
    """YAML's own loader takes the last of two keys of one name, and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 -- as the base has it.
        names = [key.value for key, _ in node.value]
        if twice := {name for name in names if names.count(name) > 1}:
            raise yaml.constructor.ConstructorError(
                problem=f"{', '.join(sorted(twice))} stands there twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


def named(document: Document) -> str:
    """How problems call a document."""
    return f"{document['kind']}/{document['metadata']['name']}"


def of_kind(documents: Sequence[Document], *kinds: str) -> list[Document]:
    return [document for document in documents if document["kind"] in kinds]
