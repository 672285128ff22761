"""What can be wrong with the runbooks: each check yields sentences."""

from collections.abc import Iterator, Sequence

from deploy.prometheus.files import RUNBOOKS
from deploy.prometheus.rule_checks import page_of
from deploy.prometheus.rule_files import Alert
from deploy.runbooks.pages import RUNS, Page

SECTIONS = ("## Checks", "## Actions", "## Do not", "## Verify", "## Escalate")


def cross_problems(alerts: Sequence[Alert], all_pages: Sequence[Page], contents: Page) -> Iterator[str]:
    """Every alert has a page that names it, every page an alert or a symptom in the index, every link an end."""
    by_name = {page.name: page for page in all_pages}
    for alert in alerts:
        page = by_name.get(page_of(alert) or "")
        if page is None:
            yield f"{alert.name} leads to {alert.annotations.get('runbook_url')}, which is not in deploy/runbooks."
        elif alert.name not in page.alerts:
            yield f"{page.name}.md does not say that it is for {alert.name}."
    leading = {(page_of(alert), alert.name) for alert in alerts}
    for page in all_pages:
        for name in page.alerts:
            if (page.name, name) not in leading:
                yield f"{page.name}.md says that it is for {name}, which does not lead there."
        if f"{page.name}.md" not in contents.links:
            yield f"{page.name}.md is not in the index."
        if not page.alerts and "No alert of its own" not in page.text:
            yield f"{page.name}.md is for no alert, and does not say so."


def form_problems(all_pages: Sequence[Page]) -> Iterator[str]:
    """The same order everywhere, since nobody reads at three in the morning; and links that lead somewhere."""
    for page in all_pages:
        places = [page.text.find(section) for section in SECTIONS]
        if -1 in places or places != sorted(places):
            yield f"{page.name}.md has not the sections {', '.join(SECTIONS)}, in this order."
        for link in page.links:
            if not (RUNBOOKS / link).exists():
                yield f"{page.name}.md links {link}, which is not there."
        for command in page.commands:
            if command.run not in RUNS:
                yield f"{page.name}.md: a block says run={command.run}, and not one of {', '.join(RUNS)}."
        if not any(command.run == "local" for command in page.commands):
            yield f"{page.name}.md has no command that the tests run."
