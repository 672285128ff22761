"""`ollamesh up`, `down`, `status` and `doctor`: the stack on this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import click
import msgspec

from clients.cli.failures import Failure, Unreachable
from clients.cli.settings import Settings
from deploy.local import report, stack
from deploy.local.control import Outcome
from deploy.local.errors import StackError
from deploy.local.settings import Settings as StackSettings


@click.command()
@click.pass_obj
def up(settings: Settings) -> None:
    """Start the stack in the background; return when every part is ready."""
    with sentences():
        wanted = stack_settings(settings)
        outcome = stack.up(wanted, say)
        status = stack.status(wanted)
    was_up = outcome is Outcome.WAS_UP
    click.echo("\n".join(report.up_lines(status, was_up=was_up, observes=wanted.observes)))


@click.command()
@click.pass_obj
def down(settings: Settings) -> None:
    """Stop the stack and leave nothing running."""
    with sentences():
        was_running = stack.down(stack_settings(settings), say)
    click.echo("down" if was_running else "was not running")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(settings: Settings, *, as_json: bool) -> None:
    """Show each part of the stack.

    The exit code is 0 if all of it is ready, 1 if some of it is not, and 3 if it is not running.
    """
    with sentences():
        found = stack.status(stack_settings(settings))
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        click.echo("\n".join(report.status_table(found)))
    if not found.ready:
        raise click.exceptions.Exit(Failure.exit_code if found.running else Unreachable.exit_code)


def stack_settings(settings: Settings) -> StackSettings:
    """The environment's, for the home that was asked for."""
    return StackSettings.from_env({**os.environ, "OLLAMESH_HOME": str(settings.home)})


def say(line: str) -> None:
    """Show progress, apart from the result."""
    click.echo(line, err=True)


@contextmanager
def sentences() -> Iterator[None]:
    """Turn what stops the stack inside into a Failure."""
    try:
        yield
    except StackError as error:
        raise Failure(str(error)) from None
