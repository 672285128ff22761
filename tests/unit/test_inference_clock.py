"""A clock that somebody sets changes nothing: whatever is decided or awaited goes by the event loop's own, which
only rises. Wall-clock time is for those who read it.
"""

import ast
from pathlib import Path

import pytest

SERVICE = Path(__file__).parents[2] / "services" / "inference"
# What says when something was seen, or when it may be somebody's turn, to readers outside.
TELLS_TIME = {
    "fleet.py": "datetime.now",
    "tracing.py": "time",
    "wire/events.py": "datetime.now",
    "wire/listings.py": "datetime.now",
    "rest/ollama_replies.py": "time_ns",
    "rest/openai_replies.py": "time",
}
SOURCES = sorted(path for path in SERVICE.glob("**/*.py") if "simulation" not in path.parts)


def wall_clocks(source: str) -> set[str]:
    """Return the ways in which it asks what the time of day is."""
    used = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names) | ast.ImportFrom(module="time", names=names):
                used |= {alias.name for alias in names if alias.name in {"time", "time_ns"}}
            case ast.Attribute(attr="now" | "utcnow" | "today", value=ast.Name(id="datetime" | "date")):
                used.add(f"datetime.{node.attr}")
    return used


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(SERVICE).as_posix())
def test_decisions_do_not_know_the_time_of_day(path: Path) -> None:
    name = path.relative_to(SERVICE).as_posix()
    found = wall_clocks(path.read_text())
    assert not found or found == {TELLS_TIME.get(name)}, f"{name} uses {found}"


def test_the_rule_sees_what_it_is_to_see() -> None:
    for source in (
        "import time",
        "from time import time",
        "from time import time_ns",
        "datetime.now(UTC)",
        "x = datetime.utcnow()",
    ):
        assert wall_clocks(source), source
    assert not wall_clocks("from datetime import datetime\nloop.time()")
