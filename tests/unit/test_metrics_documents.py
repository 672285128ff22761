"""Whatever a page says of a metric, there is one of that name."""

import re
from collections.abc import Collection, Iterator
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from deploy.backup.metrics import Collected
from deploy.backup.repository import Repository
from deploy.backup.sealing import make_key
from tools.metrics_catalogue import catalogue

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for folder in ("services", "docs", "deploy", "clients")
    for path in (ROOT / folder).glob("**/*.md")
    if path.name != "metrics.md"
)
# In code, such as `ollamesh_instance_{ready,slots}` or `ollamesh_rpc_*{method}`. Names that end in an underscore, or are
# those of modules, hosts, roles, slots and what rules record, are none.
CODE = re.compile(r"`([^`\n]+)`")
METRIC = re.compile(
    r"(?<![\w./:@-])(?:ollamesh|gen_ai_server|gen_ai_client|agent_request)[a-z0-9_]*_(?:[a-z0-9_]|\{[a-z0-9_,]+\})+\*?"
)
LABELS = re.compile(r"\{[a-z0-9_,]+\}$")
BRACES = re.compile(r"\{([a-z0-9_]+(?:,[a-z0-9_]+)+)\}")
NO_METRICS = re.compile(
    r"ollamesh_(auth|agent|inference|sandbox|migrator|owner|run_id|admin|exporter|system|postgres_exporter|monitor|backup)$"
)


def spelt_out(name: str, known: Collection[str]) -> Iterator[str]:
    """Braces are alternatives, as a shell has them, or the labels of what stands before them."""
    bare = LABELS.sub("", name)
    if bare in known:
        yield bare
        return
    parts = BRACES.split(name)
    choices = [part.split(",") if number % 2 else [part] for number, part in enumerate(parts)]
    yield from ("".join(chosen) for chosen in product(*choices))


def named(page: Path) -> set[str]:
    known = names_known()
    return {
        name
        for code in CODE.findall(page.read_text())
        for found in METRIC.findall(code)
        for name in spelt_out(found, known)
        if not NO_METRICS.fullmatch(name)
    }


@cache
def names_known() -> frozenset[str]:
    """Those of services, and those of who follows the log for backups, which is none."""
    follower = Collected(Repository(Path("/nonexistent"), make_key())).collect()
    return frozenset(name for entry in catalogue().values() for name in (entry.name, *entry.series)).union(
        f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in follower
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_metrics_that_a_page_names_are_there(page: Path) -> None:
    known = names_known()
    for name in named(page):
        if name.endswith("*"):
            assert any(each.startswith(name.removesuffix("*")) for each in known), name
        else:
            assert name in known, name


def test_pages_are_really_read() -> None:
    assert "ollamesh_queue_depth" in named(ROOT / "services/inference/README.md")
    assert "ollamesh_instance_breaker_open" in named(ROOT / "services/inference/README.md")
