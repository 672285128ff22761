"""Reads docs/metrics.md: what every metric is called, of which type, with which labels, of which services.

For whoever checks something against it: that services publish it (tests/mesh/test_metrics_catalogue.py), that alerts and
dashboards ask only for what there is.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs/metrics.md"
SERVICES = ("auth", "agent", "inference", "sandbox")
TYPES = ("counter", "gauge", "histogram")
_CELL = re.compile(r"\s*\|\s*")
_CONDITION = re.compile(r" \((?:with|in) [^()]+\)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row. `meaning` is the metric's own help text."""

    name: str  # As it is scraped; of a histogram, without what follows it.
    type: str
    labels: frozenset[str]
    services: frozenset[str]
    meaning: str
    is_conditional: bool  # It is there only with a GPU, an MCP server, ...
    advice: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names that queries may use."""
        if self.type != "histogram":
            return (self.name,)
        return tuple(f"{self.name}{suffix}" for suffix in ("_bucket", "_sum", "_count"))


def catalogue(document: Path = DOCUMENT) -> Mapping[str, Entry]:
    """Every entry by name. Raises ValueError if a row makes no sense, or a name comes twice."""
    found: dict[str, Entry] = {}
    for entry in _entries(document.read_text()):
        if entry.name in found:
            raise ValueError(f"{entry.name} is there twice")
        found[entry.name] = entry
    return found


def _entries(text: str) -> Iterator[Entry]:
    for line in text.splitlines():
        if not line.startswith("| `"):
            continue
        name, kind, labels, services, meaning, advice = _CELL.split(line.strip("| "))
        if kind not in TYPES or not advice:
            raise ValueError(f"the row of {name} is wrong")
        yield Entry(
            name=name.strip("`"),
            type=kind,
            labels=frozenset(re.findall(r"`(\w+)`", labels)),
            services=frozenset(SERVICES if services == "all" else services.split(", ")),
            meaning=_CONDITION.sub("", meaning),
            is_conditional=_CONDITION.search(meaning) is not None,
            advice=advice,
        )
