"""Runbooks: every alert leads to a page that names it and back, pages have one form, and their commands exist.

Those that can run on one machine are run by tests/mesh/test_runbooks.py.
"""

from deploy.prometheus.known_metrics import problems as metric_problems
from deploy.prometheus.rule_files import read_rules
from deploy.runbooks.checks import cross_problems, form_problems
from deploy.runbooks.command_checks import problems as command_problems
from deploy.runbooks.command_checks import simple_commands
from deploy.runbooks.pages import index, pages
from tools.metrics_catalogue import catalogue


def check() -> list[str]:
    found, rules = pages(), read_rules()
    commands = [command for page in found for command in page.commands]
    queries = [
        words[-1]
        for command in commands
        for words in simple_commands(command.line)
        if words[:2] == ["promtool", "query"]
    ]
    return [
        *cross_problems(rules.alerts, found, index()),
        *form_problems(found),
        *command_problems(commands),
        *metric_problems([query for query in queries if "ALERTS" not in query], catalogue(), rules.recorded),
    ]
