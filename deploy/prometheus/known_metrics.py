"""Which metrics there are: those that our code makes, found in it, and those of programs that are not ours, listed."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.prometheus.expressions import family

ROOT = Path(__file__).parents[2]
OURS = re.compile(r"(ollamesh|agent|gen_ai|process)_[a-z0-9_]+")
# Names that other programs make, by a pattern, and why they may be asked for.
EXPORTERS: dict[str, str] = {
    r"up|scrape_duration_seconds|scrape_samples_scraped": "Prometheus adds them to every scrape",
    r"envoy_\w+": "Envoy's own; their names are checked against a live edge by tests/deploy",
    r"pg_(up|settings_max_connections|stat_activity_\w+|stat_database_\w+|stat_archiver_\w+)": "postgres_exporter",
    r"redis_(up|memory_\w+|evicted_keys_total|rejected_connections_total)": "redis_exporter",
    r"node_(filesystem|memory|cpu|timex)_\w+": "node_exporter",
    r"DCGM_FI_DEV_(GPU_TEMP|FB_USED|FB_FREE|XID_ERRORS)": "NVIDIA's DCGM exporter, in its default set",
    r"prometheus_\w+": "Prometheus about itself",
    r"alertmanager_\w+": "Alertmanager about itself",
    r"process_\w+": "prometheus_client's collector of the process",
}


def of_code(folders: Sequence[str] = ("services", "deploy/backup")) -> frozenset[str]:
    """Families that our code makes: all of its literals that look like one, and f-strings as patterns."""
    found: set[str] = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            found.update(_literals(ast.parse(path.read_text())))
    return frozenset(found)


def is_known(name: str, made: frozenset[str], recorded: frozenset[str]) -> bool:
    """Whether something makes the series `name`: a recording rule, our code, or a program that is listed."""
    if name in recorded or any(re.fullmatch(pattern, name) for pattern in EXPORTERS):
        return True
    return any(re.fullmatch(pattern, candidate) for pattern in made for candidate in (name, family(name)))


def _literals(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for text in node.value.split():  # Also in lines of the text format.
                if OURS.fullmatch(text):
                    yield re.escape(family(text)) + f"|{re.escape(text)}"
        elif isinstance(node, ast.JoinedStr):
            pattern = "".join(
                re.escape(part.value)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
                else "[a-z_]+"
                for part in node.values
            )
            if re.match(r"(ollamesh|gen_ai|agent)_\w", pattern):
                yield pattern
