"""`ollamesh edge`: the edge of the stack on this machine."""

import click

from clients.cli.settings import Settings
from clients.cli.stack import sentences
from deploy.local import edge as local_edge


@click.group()
def edge() -> None:
    """Replace the edge of the stack on this machine without losing a call."""


@edge.command()
@click.pass_obj
def reload(settings: Settings) -> None:
    """Replace Envoy and its configuration without losing a call.

    What is rendered anew comes from the same settings, so this is for a new version of Envoy, of this program, or of
    the files that the configuration names. Replicas and certificates change by themselves.
    """
    with sentences():
        local_edge.reload(settings.home)
    click.echo("the new edge serves; the old one ends when its callers have gone")
