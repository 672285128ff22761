"""The checks of runbooks: what is in the tree passes, and each fault that is planted is found."""

from dataclasses import replace

import pytest

from deploy.check import runbooks as checked
from deploy.prometheus.rule_files import read_rules
from deploy.runbooks.checks import cross_problems, form_problems
from deploy.runbooks.command_checks import problems
from deploy.runbooks.pages import Command, Page, index, pages

PAGES = {page.name: page for page in pages()}


def test_the_runbooks_are_fine() -> None:
    assert checked.check() == []


def test_an_alert_without_a_page_and_a_page_without_an_alert_are_found() -> None:
    alerts = read_rules().alerts
    without = [page for name, page in PAGES.items() if name != "clock"]
    assert any("HostClockOff leads to" in problem for problem in cross_problems(alerts, without, index()))

    stray = replace(PAGES["clock"], name="stray")
    found = list(cross_problems(alerts, [*PAGES.values(), stray], index()))
    assert "stray.md says that it is for HostClockOff, which does not lead there." in found
    assert "stray.md is not in the index." in found


def test_a_page_that_does_not_name_its_alert_is_found() -> None:
    silent = replace(PAGES["clock"], text=PAGES["clock"].text.replace("`HostClockOff`", "it"))
    others = [page for name, page in PAGES.items() if name != "clock"]
    found = list(cross_problems(read_rules().alerts, [*others, silent], index()))
    assert found == [
        "clock.md does not say that it is for HostClockOff.",
        "clock.md is for no alert, and does not say so.",
    ]


def test_pages_have_one_form() -> None:
    text = PAGES["clock"].text.replace("## Verify", "## Done?").replace("run=local", "run=sometimes")
    found = " ".join(form_problems([Page("clock", f"{text}\nSee [x](not-there.md).\n")]))
    assert "has not the sections" in found
    assert "run=sometimes" in found
    assert "links not-there.md" in found
    assert "has no command that the tests run" in found


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ollamesh fleets", "there is no command fleets"),
        ("ollamesh batch pause ID", "there is no command pause"),
        ("ollamesh signing rotate --urgently", "No such option"),
        ("ollamesh metrics auth ollamesh_made_up", "nothing that begins with ollamesh_made_up"),
        ("kubectl -n ollamesh repair deployment/auth", "no verb repair"),
        ("kubectl -n ollamesh get gadgets", "nothing of kind gadgets"),
        ("kubectl -n ollamesh scale statefulset/ollama-0 --replicas=4", "autoscalers undo it"),
        ("kubectl -n ollamesh delete pod -l app.kubernetes.io/component=auth", "all of them at once"),
        ("kubectl -n ollamesh rollout restart deployment/inference", "no deployment inference"),
        ("kubectl -n ollamesh logs statefulset/auth --tail=5", "no statefulset auth"),
        ("kubectl -n ollamesh get certificate auth-outside", "no certificate auth-outside"),
        ("helm -n ollamesh undo ollamesh", "no such verb"),
        ("promtool query instant http://127.0.0.1:9090 'sum by up'", "no PromQL"),
        ("ollamesh status && ollamesh stop", "there is no command stop"),
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str, problem: str) -> None:
    found = list(problems([Command("page", "never", line)]))
    assert len(found) == 1
    assert problem in found[0]
