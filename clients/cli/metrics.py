"""`ollamesh metrics`: what a part of this machine's stack measures, as Prometheus would scrape it, without a Prometheus."""

import urllib.error
import urllib.request

import click

from clients.cli.failures import Unreachable
from clients.cli.settings import Settings
from clients.cli.stack import stack_settings
from deploy.local import board

WITHIN_S = 10.0
BYTES_MAX = 8 * 1024 * 1024


@click.command()
@click.argument("part")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.pass_obj
def metrics(settings: Settings, part: str, names: tuple[str, ...]) -> None:
    """Print what a part of the stack measures.

    All of it, or what begins with a NAME. PART is auth, agent, inference, sandbox or edge. What has not been counted yet may be absent.
    """
    stack = stack_settings(settings)
    found = board.of_running(stack.home)
    if found is None:
        raise Unreachable("the stack is not running; start it with `ollamesh up`")
    urls = {each.name: each.metrics for each in found.parts if each.metrics}
    if part not in urls:
        raise click.UsageError(f"{part} measures nothing; there are {', '.join(sorted(urls))}")
    lines = [line for line in scraped(urls[part]).splitlines() if line and not line.startswith("#")]
    click.echo("\n".join(line for line in lines if not names or line.startswith(names)))
    for name in names:
        if not any(line.startswith(name) for line in lines):
            click.echo(f"{part} has nothing yet that begins with {name}", err=True)


def scraped(url: str) -> str:
    """What is there, as text."""
    try:
        with urllib.request.urlopen(url, timeout=WITHIN_S) as answer:  # noqa: S310 - An http URL of our own stack.
            return str(answer.read(BYTES_MAX).decode())
    except (OSError, urllib.error.URLError) as error:
        raise Unreachable(f"{url} cannot be read: {getattr(error, 'reason', error)}") from None
