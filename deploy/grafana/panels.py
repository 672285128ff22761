"""A panel as this project describes it, and as Grafana's own builders make it.

What is the same for all of them is decided here once: what colours mean, how legends look, that panels which may be
empty say what that means, and that a panel with a runbook links it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, assert_never

from grafana_foundation_sdk.builders import common as build
from grafana_foundation_sdk.builders import heatmap, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.dashboard import DashboardLink, FieldColor, ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.grafana.promql import quantile

GOOD, WARN, BAD, CALM = "green", "orange", "red", "blue"
GREY = "#808080"
# What is named the same has the same colour on every board: series by their own name, or by the label they are called after.
SERIES: Mapping[str, str] = {"p50": GOOD, "p95": WARN, "p99": BAD, "limit": BAD}
LABELS: Mapping[str, Mapping[str, str]] = {
    "{{priority}}": {"interactive": CALM, "default": GOOD, "batch": "purple"},
    "{{envoy_response_code_class}}xx": {"2xx": GOOD, "3xx": CALM, "4xx": WARN, "5xx": BAD},
    "{{use}}": {"tenants": GOOD, "load": WARN, "idle": GREY},
    "{{result}}": {"hit": GOOD, "miss": WARN, "bypass": GREY, "error": BAD},
    "{{gen_ai_token_type}}": {"input": CALM, "output": GOOD},
    "{{status}}": {"succeeded": GOOD, "failed": BAD, "cancelled": GREY, "limited": WARN},
    "{{outcome}}": {"OK": GOOD, "succeeded": GOOD, "failed": BAD, "lost": BAD, "put_back": GREY},
    "{{to}}": {"chain": GOOD, "spool": WARN, "nowhere": BAD},
    "{{level}}": {"debug": GREY, "info": GOOD, "warning": WARN, "error": BAD, "critical": "purple"},
    "{{job}}": {"auth": "purple", "agent": CALM, "inference": GOOD, "sandbox": WARN, "edge": GREY},
}
DATASOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")
RUNBOOKS = "${runbooks}"  # A variable of every board: where the runbooks are read.

Kind = Literal["lines", "stacked", "bars", "stat", "states", "table", "heat"]
Visual: TypeAlias = timeseries.Panel | stat.Panel | statetimeline.Panel | table.Panel | heatmap.Panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """PromQL, and how its series are called."""

    expr: str
    legend: str = ""
    exemplars: bool = False  # Whether single requests are shown, with a link to their traces.


def quantiles(metric: str, matchers: str = "") -> tuple[Query, ...]:
    """How a histogram's values are spread: half, nearly all, the slowest of a hundred with their traces."""
    return tuple(
        Query(expr=quantile(share, metric, matchers), legend=name, exemplars=name == "p99")
        for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """From where on a value is worth a look, and from where on it is trouble. `falling`: from there down."""

    warn: float
    bad: float
    falling: bool = False

    @property
    def steps(self) -> list[tuple[float | None, str]]:
        between = [(self.bad if self.falling else self.warn, WARN)] if self.warn != self.bad else []
        if self.falling:
            return [(None, BAD), *between, (self.warn, GOOD)]
        return [(None, GOOD), *between, (self.bad, BAD)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """`about` says what is seen and what to think of it. `none` is what an empty panel says."""

    title: str
    about: str
    queries: Sequence[Query]
    unit: str
    kind: Kind = "lines"
    width: int = 8
    height: int = 8
    limits: Limits | None = None
    runbook: str | None = None  # A file in deploy/runbooks, without `.md`.
    none: str = "nothing yet"
    top: float | None = None
    decimals: int | None = None
    words: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # By value: a word and its colour.

    @property
    def description(self) -> str:
        """With a link to what to do about it."""
        if self.runbook is None:
            return self.about
        return f"{self.about}\n\n[Runbook: {self.runbook}]({RUNBOOKS}/{self.runbook}.md)"


def built(panel: Panel, number: int) -> Visual:
    """The panel as Grafana knows it. `number` is its own on a board."""
    made = _drawn(panel)
    made.id(number).title(panel.title).description(panel.description).datasource(DATASOURCE)
    made.span(panel.width).height(panel.height).unit(panel.unit).no_value(panel.none)
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        made.with_target(_target(panel, query, letter))
    if panel.kind != "heat":
        made.color_scheme(FieldColor().mode(_colour_mode(panel))).thresholds(_thresholds(panel))
    if panel.top is not None:
        made.max(panel.top)
    if panel.decimals is not None:
        made.decimals(panel.decimals)
    if panel.words:
        words = {
            value: dashboard.ValueMappingResult(text=word, color=colour, index=index)
            for index, (value, (word, colour)) in enumerate(panel.words.items())
        }
        made.mappings([dashboard.ValueMap(options=words)])
    if panel.runbook is not None:
        link = (
            DashboardLink("What to do").url(f"{RUNBOOKS}/{panel.runbook}.md").target_blank(target_blank=True)
        )
        made.links([link.type(dashboard.DashboardLinkType.LINK)])
    return made


def _drawn(panel: Panel) -> Visual:
    match panel.kind:
        case "lines" | "stacked" | "bars":
            return _time_series(panel)
        case "stat":
            last = build.ReduceDataOptions().calcs(["lastNotNull"])
            made = stat.Panel().reduce_options(last).graph_mode(common.BigValueGraphMode.AREA)
            return made.color_mode(common.BigValueColorMode.VALUE)
        case "states":
            shown = statetimeline.Panel().show_value(common.VisibilityMode.AUTO).row_height(0.8)
            return shown.legend(build.VizLegendOptions().show_legend(show_legend=False))
        case "table":
            made_of = table.Panel().show_header(show_header=True)
            hidden = dashboard.DynamicConfigValue(id_val="custom.hidden", value=True)
            called = dashboard.DynamicConfigValue(id_val="displayName", value=panel.title)
            return made_of.override_by_name("Time", [hidden]).override_by_name("Value", [called])
        case "heat":
            colour = (
                heatmap.HeatmapColorOptions().mode(heat.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
            )
            axis = heatmap.YAxisConfig().unit(panel.unit).axis_placement(common.AxisPlacement.LEFT)
            return heatmap.Panel().calculate(calculate=False).color(colour).y_axis(axis)
        case _:
            assert_never(panel.kind)


def _time_series(panel: Panel) -> timeseries.Panel:
    legend = (
        build.VizLegendOptions().display_mode(common.LegendDisplayMode.TABLE).show_legend(show_legend=True)
    )
    legend.placement(common.LegendPlacement.BOTTOM).calcs(["lastNotNull", "max"])
    tooltip = (
        build.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
    )
    made = timeseries.Panel().legend(legend).tooltip(tooltip).min(0).line_width(1)
    made.fill_opacity(10 if panel.kind == "lines" else 40).show_points(common.VisibilityMode.NEVER)
    if panel.kind != "lines":
        made.stacking(build.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if panel.kind == "bars":
        made.draw_style(common.GraphDrawStyle.BARS).fill_opacity(80)
    if panel.limits is not None:
        style = build.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        made.thresholds_style(style)
    for name, colour in _coloured(panel).items():
        fixed = {"mode": "fixed", "fixedColor": colour}
        made.override_by_name(name, [dashboard.DynamicConfigValue(id_val="color", value=fixed)])
    return made


def _coloured(panel: Panel) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for query in panel.queries:
        found |= LABELS.get(query.legend, {})
        if query.legend in SERIES:
            found[query.legend] = SERIES[query.legend]
    return found


def _colour_mode(panel: Panel) -> dashboard.FieldColorModeId:
    if panel.kind in {"stat", "states"}:
        return dashboard.FieldColorModeId.THRESHOLDS
    return dashboard.FieldColorModeId.PALETTE_CLASSIC_BY_NAME


def _thresholds(panel: Panel) -> ThresholdsConfig:
    steps: Sequence[tuple[float | None, str]] = panel.limits.steps if panel.limits else [(None, CALM)]
    made = [dashboard.Threshold(value=value, color=colour) for value, colour in steps]
    return ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(made)


def _target(panel: Panel, query: Query, letter: str) -> Dataquery:
    made = Dataquery().expr(query.expr).ref_id(letter).datasource(DATASOURCE)
    made.legend_format(query.legend or "__auto").exemplar(query.exemplars)
    if panel.kind == "table":
        return made.instant().format(PromQueryFormat.TABLE)
    if panel.kind == "heat":
        return made.range().format(PromQueryFormat.HEATMAP)
    return made.range()
