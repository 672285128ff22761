"""The dashboards' files, and that the check of them finds what is planted."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.check import grafana
from deploy.grafana.absent import ABSENT
from deploy.grafana.board import Board, Section, document
from deploy.grafana.boards import BOARDS, fleet
from deploy.grafana.files import drifted, write
from deploy.grafana.panels import Limits, Panel, Query
from deploy.grafana.promql import Selector, filled, selectors

BY_NAME = {board.name: board for board in BOARDS}


def with_panel(**changes: Any) -> Board:
    """The fleet's board, its first panel changed."""
    first = fleet.BOARD.sections[0]
    panel: Panel = replace(first.panels[0], **changes)
    return replace(fleet.BOARD, sections=(Section(title=first.title, panels=(panel,)),))


def test_the_files_are_as_the_code_has_them() -> None:
    assert drifted() == []


def test_a_file_that_was_changed_by_hand_is_found(tmp_path: Path) -> None:
    write(tmp_path)
    assert drifted(tmp_path) == []
    (tmp_path / "fleet.json").write_text("{}")
    (tmp_path / "agents.json").unlink()
    (tmp_path / "another.json").write_text("{}")
    assert drifted(tmp_path) == ["agents.json", "another.json", "fleet.json"]


@pytest.mark.parametrize("name", BY_NAME)
def test_a_board_is_well_formed(name: str) -> None:
    board = BY_NAME[name]
    assert list(grafana.form_problems(name, json.loads(document(board)))) == []
    assert list(grafana.query_problems(board)) == []
    assert list(grafana.catalogue_problems(board)) == []


def test_boards_and_sources_are_told_apart_and_linked() -> None:
    documents = {board.name: json.loads(document(board)) for board in BOARDS}
    assert list(grafana.unique_problems(documents)) == []
    assert list(grafana.provisioning_problems(grafana.GRAFANA / "provisioning")) == []
    assert list(grafana.unique_problems({"a": documents["fleet"], "b": documents["fleet"]})) == [
        "Two boards have the same uid.",
        "Two boards have the same title.",
    ]


@pytest.mark.skipif(not grafana.RUNBOOKS.exists(), reason="deploy/runbooks is not there")
@pytest.mark.parametrize("name", BY_NAME)
def test_runbooks_that_are_linked_exist(name: str) -> None:
    assert list(grafana.runbook_problems(BY_NAME[name], grafana.RUNBOOKS)) == []


def test_a_runbook_that_does_not_exist_is_found(tmp_path: Path) -> None:
    (problem,) = grafana.runbook_problems(with_panel(runbook="no-such-page"), tmp_path)
    assert "no-such-page" in problem


def _on_each_other(board: dict[str, Any]) -> None:
    board["panels"][1]["gridPos"] |= {"x": 0, "y": 0}


def _too_wide(board: dict[str, Any]) -> None:
    board["panels"][1]["gridPos"]["w"] = 25


def _same_id(board: dict[str, Any]) -> None:
    board["panels"][1]["id"] = board["panels"][0]["id"]


def _silent(board: dict[str, Any]) -> None:
    del board["panels"][1]["fieldConfig"]["defaults"]["noValue"]


def _without_unit(board: dict[str, Any]) -> None:
    board["panels"][1]["fieldConfig"]["defaults"]["unit"] = ""


def _without_query(board: dict[str, Any]) -> None:
    board["panels"][1]["targets"] = []


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_on_each_other, "lie on each other"),
        (_too_wide, "wider than the board"),
        (_same_id, "same id"),
        (_silent, "what an empty panel means"),
        (_without_unit, "no unit"),
        (_without_query, "no query"),
    ],
)
def test_a_fault_of_form_is_found(spoil: Callable[[dict[str, Any]], None], told: str) -> None:
    board = json.loads(document(with_panel()))
    spoil(board)
    assert any(told in problem for problem in grafana.form_problems("fleet", board))


def test_thresholds_that_do_not_rise_are_found() -> None:
    board = json.loads(document(with_panel(limits=Limits(warn=2, bad=1))))
    assert any("do not rise" in problem for problem in grafana.form_problems("fleet", board))


@pytest.mark.parametrize(
    ("expr", "told"),
    [("sum(rate(x[5m])", "no PromQL"), ('x{model=~"$modle"}', "a variable that the board has not")],
)
def test_a_query_that_cannot_be_asked_is_found(expr: str, told: str) -> None:
    (problem,) = grafana.query_problems(with_panel(queries=(Query(expr=expr),)))
    assert told in problem


@pytest.mark.parametrize(
    ("expr", "told"),
    [
        ("sum(ollamesh_no_such_thing)", "ollamesh_no_such_thing"),
        ("sum by (colour) (ollamesh_ready)", "colour"),
    ],
)
def test_a_metric_that_no_service_has_is_found(expr: str, told: str) -> None:
    (problem,) = grafana.catalogue_problems(
        with_panel(
            queries=(Query(expr=expr),),
        )
    )
    assert told in problem


def test_a_query_is_filled_in_by_whole_names() -> None:
    assert filled('a{m="$model", n="${model_name}"}[$__range]', {"model": "x", "model_name": "y"}) == (
        'a{m="x", n="y"}[1h]'
    )


def test_what_a_query_asks_for_is_read_of_its_form() -> None:
    query = (
        'sum by (a) (rate(x_total{b="1"}[5m])) / on (a) group_left (z) (max by (a, c) (y) > 1) or vector(0)'
    )
    assert set(selectors(query)) == {
        Selector("x_total", frozenset({"a", "b"})),
        Selector("y", frozenset({"a", "c"})),
    }


def test_every_excuse_has_a_reason() -> None:
    assert all(ABSENT.values())
