"""`ollamesh doctor`: what is wrong with this machine or configuration, and the command that mends it."""

import click
import msgspec

from clients.cli.settings import Settings
from clients.cli.stack import sentences, stack_settings
from deploy.local import doctor as examination
from deploy.local import report


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def doctor(settings: Settings, *, as_json: bool) -> None:
    """Say what is wrong with this machine, and what mends it.

    The exit code is 1 if anything is.
    """
    checks = []
    with sentences():
        for check in examination.examine(stack_settings(settings)):
            checks.append(check)
            if not as_json:
                click.echo("\n".join(report.check_lines(check)))
    if as_json:
        click.echo(msgspec.json.encode(checks))
    if not all(check.ok for check in checks):
        raise click.exceptions.Exit(1)
