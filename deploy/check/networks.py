"""Who reaches whom, computed from the NetworkPolicies, against the table of docs/kubernetes.md: no connection more, and none less."""

import re
from collections.abc import Iterator, Mapping, Sequence

from deploy.check import stores
from deploy.check.charts import Document, rendered
from deploy.check.network_model import Place, reachable
from deploy.check.pods import pods_of
from deploy.check.tools import ROOT

PAGE = ROOT / "docs/kubernetes.md"
# A set of values in which every part is there, and every connection is used.
FULLEST = "production"
DNS = {"udp": 53}
OUTSIDE = (
    Place(
        "postgres",
        "ollamesh-stores",
        {"cnpg.io/cluster": "postgres"},
        {"postgresql": 5432, "status": 8000, "metrics": 9187},
    ),
    Place("redis", "ollamesh-stores", {"app": "redis"}, {"redis": 6379, "metrics": 9121}),
    Place("monitoring", "monitoring", {"app.kubernetes.io/name": "prometheus"}, {"web": 9090}),
    Place(
        "collector", "observability", {"app.kubernetes.io/name": "collector"}, {"otlp": 4317, "http": 4318}
    ),
    Place("dns", "kube-system", {"k8s-app": "kube-dns"}, DNS),
    Place("other pods", "elsewhere", {"app": "stranger"}, {"http": 80, "https": 443, "any": 8080}),
    Place("other pods here", "ollamesh", {"app": "stranger"}, {"http": 80, "https": 443, "any": 8080}),
    Place("internet", address="203.0.113.7", ports={"http": 80, "https": 443, "ssh": 22}),
    Place("private networks", address="10.20.30.40", ports={"http": 80, "https": 443, "kubernetes": 6443}),
    Place("metadata of the cloud", address="169.254.169.254", ports={"http": 80, "https": 443}),
)
# Of the others, "other pods" and "internet" ask in their place.
NEVER_ASK = {"collector", "dns", "metadata of the cloud", "private networks"}
_ROW = re.compile(r"^\| `?([a-z ]+?)`? \| (.*?) \|$", re.MULTILINE)
_CELL = re.compile(r"`?([a-z][a-z ]*?)`? ([0-9]+(?:, [0-9]+)*)(?:;|$)")

Matrix = Mapping[str, Mapping[str, frozenset[int]]]


def check() -> list[str]:
    found = rendered()
    documented = table(PAGE.read_text())
    return [
        problem
        for place, group in found.items()
        for problem in problems(
            matrix([*group, *stores.examples()]), documented, place, whole=place == FULLEST
        )
    ]


def matrix(documents: Sequence[Document]) -> Matrix:
    """By source and target, the ports."""
    own = {
        each.component: Place(each.component, each.namespace, each.labels, each.ports)
        for each in pods_of(documents)
    }
    ours = own.keys() | {"postgres", "redis"}
    places = [*own.values(), *OUTSIDE]
    return {
        source.name: {
            target.name: ports
            for target in places
            if target.name != source.name
            and {source.name, target.name} & ours
            and (ports := reachable(source, target, documents))
        }
        for source in places
        if source.name not in NEVER_ASK
    }


def table(page: str) -> Matrix:
    """The rows below the heading that says so."""
    section = page.partition("## Who reaches whom")[2].partition("\n## ")[0]
    return {
        source: {target: frozenset(map(int, ports.split(", "))) for target, ports in _CELL.findall(cell)}
        for source, cell in _ROW.findall(section)
    }


def problems(found: Matrix, documented: Matrix, place: str, *, whole: bool) -> Iterator[str]:
    """`whole`: what is documented has to be there, too; else it may be less."""
    for source, targets in found.items():
        for target, ports in targets.items():
            extra = ports - documented.get(source, {}).get(target, frozenset())
            if extra:
                yield f"{place}: {source} reaches {target} at {_listed(extra)}, which {PAGE.name} does not say."
    if whole:  # A part that is not in this set has its row for others.
        for source in documented.keys() & found.keys():
            targets = documented[source]
            for target, ports in targets.items():
                if missing := ports - found.get(source, {}).get(target, frozenset()):
                    yield f"{place}: {source} does not reach {target} at {_listed(missing)}, as {PAGE.name} says."


def _listed(ports: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(ports)))


def as_table(found: Matrix) -> str:
    """Rows for docs/kubernetes.md."""
    rows = []
    for source, targets in found.items():
        cells = [f"`{target}` {_listed(ports)}" for target, ports in targets.items()]
        rows.append(f"| `{source}` | {'; '.join(cells)} |")
    return "\n".join(rows)
