"""A board: rows of panels with what can be chosen above them, as one JSON document of Grafana's."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
    TextBoxVariable,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from deploy.grafana.panels import BAD, CALM, DATASOURCE, Panel, built

TAG = "ollamesh"
RUNBOOKS_AT = (
    "https://ollamesh.example/runbooks"  # As in the alerts; set the variable to where yours are read.
)
EXPR_OF_ALERTS = 'ALERTS{alertstate="firing"}'
EXPR_OF_STARTS = 'changes(process_start_time_seconds{job=~"auth|agent|inference|sandbox"}[$__interval]) > 0'


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A variable that lists the values of a label; all of them at first."""

    name: str
    label: str
    metric: str
    of: str  # The label.


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A variable that a person types."""

    name: str
    label: str
    about: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    name: str  # Of its file, and of its address in Grafana.
    title: str
    about: str
    sections: Sequence[Section]
    choices: Sequence[Choice] = ()
    entries: Sequence[Entry] = ()

    @property
    def panels(self) -> Iterator[Panel]:
        for section in self.sections:
            yield from section.panels

    @property
    def queries(self) -> Iterator[tuple[str, str]]:
        """Every query with where it stands, those of variables and annotations too."""
        yield "annotation: alerts", EXPR_OF_ALERTS
        yield "annotation: starts", EXPR_OF_STARTS
        for choice in self.choices:
            yield f"variable: {choice.name}", f"count by ({choice.of}) ({choice.metric})"
        for panel in self.panels:
            for query in panel.queries:
                yield panel.title, query.expr


def document(board: Board) -> str:
    """The board as Grafana reads it."""
    made = Dashboard(f"Ollamesh: {board.title}").uid(f"ollamesh-{board.name}").description(board.about)
    made.tags([TAG]).time("now-1h", "now").refresh("30s").timezone("browser").readonly()
    made.tooltip(DashboardCursorSync.CROSSHAIR)
    _choose(made, board)
    _annotate(made)
    others = DashboardLink("Ollamesh").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    made.link(others.as_dropdown(as_dropdown=True).keep_time(keep_time=True).include_vars(include_vars=True))
    number = 0
    for section in board.sections:
        made.with_row(Row(section.title).id(number := number + 1))
        for panel in section.panels:
            made.with_panel(built(panel, number := number + 1))
    return json.dumps(made.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _choose(made: Dashboard, board: Board) -> None:
    made.with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    for choice in board.choices:
        variable = QueryVariable(choice.name).label(choice.label).datasource(DATASOURCE)
        variable.query(f"label_values({choice.metric}, {choice.of})").multi(multi=True)
        variable.include_all(include_all=True).all_value(".*")
        variable.current(VariableOption(selected=True, text="All", value="$__all"))
        variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.NATURAL_ASC)
        made.with_variable(variable)
    for entry in board.entries:
        typed = TextBoxVariable(entry.name).label(entry.label).description(entry.about)
        made.with_variable(typed.default_value(entry.value).current(_chosen(entry.value)))
    runbooks = TextBoxVariable("runbooks").label("Runbooks").description("Where deploy/runbooks is read.")
    runbooks.default_value(RUNBOOKS_AT).current(_chosen(RUNBOOKS_AT))
    made.with_variable(runbooks)


def _chosen(value: str) -> VariableOption:
    return VariableOption(selected=True, text=value, value=value)


def _annotate(made: Dashboard) -> None:
    alerts = AnnotationQuery().name("Alerts").expr(EXPR_OF_ALERTS).icon_color(BAD)
    starts = AnnotationQuery().name("Starts of services").expr(EXPR_OF_STARTS).icon_color(CALM)
    for annotation in (alerts, starts):
        made.annotation(annotation.datasource(DATASOURCE).enable(enable=True))
