"""Queries: the few shapes that panels are made of, and what a query asks for.

Every panel's query is made here, so that all of them look through the window that Grafana picks, and sum before they
take quantiles.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import promql_parser as promql

WINDOW = "$__rate_interval"
# What Grafana fills in, and what stands for it where queries are looked at without Grafana.
BUILT_IN: Mapping[str, str] = {"__rate_interval": "5m", "__interval": "1m", "__range": "1h"}


def rate(metric: str, matchers: str = "", *, by: Sequence[str] = ()) -> str:
    """Per second, summed over all that `by` does not name."""
    return f"sum{_by(by)}(rate({_selector(metric, matchers)}[{WINDOW}]))"


def increase(metric: str, matchers: str = "", *, by: Sequence[str] = (), over: str = WINDOW) -> str:
    """How many came within the window."""
    return f"sum{_by(by)}(increase({_selector(metric, matchers)}[{over}]))"


def total(metric: str, matchers: str = "", *, by: Sequence[str] = ()) -> str:
    """A gauge, summed."""
    return f"sum{_by(by)}({_selector(metric, matchers)})"


def largest(metric: str, matchers: str = "", *, by: Sequence[str] = ()) -> str:
    """A gauge that several replicas tell of the same thing, which adding up would count several times."""
    return f"max{_by(by)}({_selector(metric, matchers)})"


def quantile(share: float, metric: str, matchers: str = "", *, by: Sequence[str] = ()) -> str:
    """Of a histogram, named without `_bucket`."""
    buckets = rate(f"{metric}_bucket", matchers, by=("le", *by))
    return f"histogram_quantile({share}, {buckets})"


def mean(metric: str, matchers: str = "", *, by: Sequence[str] = ()) -> str:
    """Of a histogram or summary, named without its suffixes."""
    return f"{rate(f'{metric}_sum', matchers, by=by)} / {rate(f'{metric}_count', matchers, by=by)}"


def or_zero(query: str) -> str:
    """Zero where nothing was counted yet: a counter with labels is absent until it counts."""
    return f"{query} or vector(0)"


@dataclass(frozen=True, slots=True)
class Selector:
    """What a query asks for: a name, and the labels that it chooses, groups or joins by."""

    name: str
    labels: frozenset[str]


def filled(query: str, values: Mapping[str, str]) -> str:
    """The query as Prometheus gets it. Longer names first, for none may be the beginning of another."""
    known = {**BUILT_IN, **values}
    for name in sorted(known, key=len, reverse=True):
        query = query.replace(f"${{{name}}}", known[name]).replace(f"${name}", known[name])
    return query


def selectors(query: str) -> Iterator[Selector]:
    """Yield what a query, filled in, asks for. Raises ValueError if it is no PromQL."""
    yield from _within(promql.parse(query), frozenset())


def _within(node: promql.Expr, labels: frozenset[str]) -> Iterator[Selector]:
    match node:
        case promql.VectorSelector():
            own = {matcher.name for matcher in node.matchers.matchers}
            yield Selector(node.name or "", labels | own)
        case promql.MatrixSelector():
            yield from _within(node.vector_selector, labels)
        case promql.AggregateExpr():
            # What an inner aggregation drops, an outer one cannot group by: the inner one's labels count.
            grouped = frozenset(node.modifier.labels) if node.modifier else frozenset()
            yield from _within(node.expr, grouped)
        case promql.BinaryExpr():
            yield from _within(node.lhs, labels)
            yield from _within(node.rhs, labels)
        case promql.Call():
            for argument in node.args:
                yield from _within(argument, labels)
        case promql.ParenExpr() | promql.SubqueryExpr() | promql.UnaryExpr():
            yield from _within(node.expr, labels)
        case _:
            return


def _selector(metric: str, matchers: str) -> str:
    return f"{metric}{{{matchers}}}" if matchers else metric


def _by(labels: Sequence[str]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""
