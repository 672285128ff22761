"""The table of spans and the code tell the same, and what is OpenTelemetry's is called as OpenTelemetry calls it."""

import ast
import re
from importlib import import_module
from pathlib import Path

import opentelemetry.semconv._incubating.attributes as conventions
import pytest

from services.common.tracing.names import ATTRIBUTES, CONTENT, EVENTS, RESOURCE, tables

ROOT = Path(__file__).parents[2]
NAMES = ROOT / "services/common/tracing/names.py"
PREFIXES = (
    "gen_ai.",
    "ollamesh.",
    "db.",
    "rpc.",
    "http.",
    "url.",
    "server.",
    "error.",
    "process.",
    "service.",
)
KNOWN = {**ATTRIBUTES, **RESOURCE}
TRACING = "services.common.tracing"


def attributes_in(source: str) -> set[str]:
    """The keys of a module's dictionaries, and what it subscripts with, that look like attributes."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        keys = (
            node.keys
            if isinstance(node, ast.Dict)
            else [node.slice]
            if isinstance(node, ast.Subscript)
            else []
        )
        found |= {
            key.value
            for key in keys
            if isinstance(key, ast.Constant) and isinstance(key.value, str) and key.value.startswith(PREFIXES)
        }
    return found


def events_in(source: str) -> set[str]:
    """What is told as an event."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    told = {"event": 0, "noted": 0, "_note": 1}
    found: set[str] = set()
    for call in calls:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        place = told.get(name)
        if place is not None and len(call.args) > place:
            text = call.args[place]
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found.add(text.value)
    return found


@pytest.fixture(scope="module")
def sources() -> list[str]:
    """Of all modules that have to do with spans."""
    modules = (path for path in (ROOT / "services").rglob("*.py") if path != NAMES)
    return [text for path in modules if TRACING in (text := path.read_text()) or "tracing" in path.parts]


def test_every_attribute_is_in_the_table_and_is_used(sources: list[str]) -> None:
    used = set().union(*map(attributes_in, sources)) | {"error.type", "rpc.grpc.status_code"}
    assert used == set(KNOWN)


def test_every_event_is_in_the_table_and_is_told(sources: list[str]) -> None:
    assert set().union(*map(events_in, sources)) == set(EVENTS)


def test_what_is_not_ours_is_of_the_conventions() -> None:
    (folder,) = map(Path, conventions.__path__)
    known = {
        value
        for path in folder.glob("*_attributes.py")
        for value in vars(import_module(f"{conventions.__name__}.{path.stem}")).values()
        if isinstance(value, str)
    }
    assert {name for name in KNOWN if not name.startswith("ollamesh.")} <= known
    assert set(CONTENT) <= set(ATTRIBUTES)


def test_the_documentation_is_the_table() -> None:
    text = (ROOT / "docs/tracing.md").read_text()
    assert re.sub(r"\s+\n", "\n", "\n".join(tables())) in re.sub(r"\s+\n", "\n", text)
