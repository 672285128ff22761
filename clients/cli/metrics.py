"""`ollamesh metrics`: what a part of this machine's stack measures, as Prometheus would scrape it, without a Prometheus."""

import urllib.error
import urllib.request

import click

from clients.cli.failures import Failure, Unreachable
from clients.cli.settings import Settings
from clients.cli.stack import sentences, stack_settings
from deploy.local import stack

WITHIN_S = 10.0
BYTES_MAX = 8 * 1024 * 1024


@click.command()
@click.argument("part")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.pass_obj
def metrics(settings: Settings, part: str, names: tuple[str, ...]) -> None:
    """Print what PART of the stack measures: all of it, or what begins with a NAME.

    PART is auth, agent, inference, sandbox or edge. The exit code is 1 if nothing begins so.
    """
    with sentences():
        found = stack.status(stack_settings(settings))
    if not found.running:
        raise Unreachable("the stack is not running; start it with `ollamesh up`")
    urls = {each.name: each.metrics for each in found.parts if each.metrics}
    if part not in urls:
        raise click.UsageError(f"{part} measures nothing; there are {', '.join(sorted(urls))}")
    lines = [line for line in scraped(urls[part]).splitlines() if line and not line.startswith("#")]
    wanted = [line for line in lines if line.startswith(names)] if names else lines
    if not wanted:
        raise Failure(f"{part} has nothing that begins with {' or '.join(names)}")
    click.echo("\n".join(wanted))


def scraped(url: str) -> str:
    """What is there, as text."""
    try:
        with urllib.request.urlopen(url, timeout=WITHIN_S) as answer:  # noqa: S310 - An http URL of our own stack.
            return str(answer.read(BYTES_MAX).decode())
    except (OSError, urllib.error.URLError) as error:
        raise Unreachable(f"{url} cannot be read: {getattr(error, 'reason', error)}") from None
