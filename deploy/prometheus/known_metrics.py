"""Whether what a rule asks for exists: in docs/metrics.md, which a test compares with a live stack, among what rules record, or made
by a program that is not ours and listed here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from deploy.grafana.promql import Selector, selectors
from tools.metrics_catalogue import Entry

# What Prometheus adds to every series of a target. A label `instance` of our own is renamed for it.
OF_TARGETS = frozenset({"job", "instance", "exported_instance"})
# What other programs make, and who.
EXPORTERS: Mapping[str, str] = {
    r"up|scrape_duration_seconds|scrape_samples_scraped": "Prometheus, with every scrape",
    r"envoy_(cluster|http|listener|overload|sds)_\w+": "Envoy",
    r"pg_(up|settings_max_connections)|pg_stat_(activity|database|archiver)_\w+": "postgres_exporter",
    r"cnpg_pg_stat_archiver_failed_count": "CloudNativePG",
    r"barman_cloud_cloudnative_pg_io_last_available_backup_timestamp": "its Barman plugin",
    r"redis_(up|memory_\w+|evicted_keys_total|rejected_connections_total)": "redis_exporter",
    r"node_(filesystem|memory|cpu|timex)_\w+": "node_exporter",
    r"DCGM_FI_DEV_(GPU_TEMP|FB_USED|FB_FREE|XID_ERRORS)": "NVIDIA's dcgm-exporter, in its default set",
    r"prometheus_\w+": "Prometheus, of itself",
    r"alertmanager_\w+": "Alertmanager, of itself",
}


def problems(
    expressions: Iterable[str], catalogue: Mapping[str, Entry], recorded: frozenset[str]
) -> Iterator[str]:
    """A sentence for each name that nothing makes, and each label that ours has not."""
    for selector in sorted({found for each in expressions for found in selectors(each)}, key=str):
        if selector.name in recorded or any(re.fullmatch(made, selector.name) for made in EXPORTERS):
            continue
        entry = _entry(selector.name, catalogue)
        if entry is None:
            yield f"{selector.name} is not in docs/metrics.md, and no exporter that is listed makes it."
        elif missing := _missing(selector, entry):
            yield f"{selector.name} has no label {', '.join(sorted(missing))}, by docs/metrics.md."


def _entry(name: str, catalogue: Mapping[str, Entry]) -> Entry | None:
    """Of a histogram, its samples have names of their own."""
    if name in catalogue:
        return catalogue[name]
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    entry = catalogue.get(base)
    return entry if entry is not None and entry.type == "histogram" else None


def _missing(selector: Selector, entry: Entry) -> frozenset[str]:
    own = entry.labels | OF_TARGETS | ({"le"} if selector.name.endswith("_bucket") else set())
    return frozenset(selector.labels - own)
