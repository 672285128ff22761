"""`ollamesh fleet`: instances, what they hold, and who waits."""

from dataclasses import asdict

import click
from ollamesh.client.fleet import Instance

from clients.cli.connection import call
from clients.cli.output import print_json, print_table, size
from clients.cli.settings import Settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def fleet(settings: Settings, *, as_json: bool) -> None:
    """Show instances, their models and slots, and who waits."""
    found = call(settings, lambda client: client.fleet())
    if as_json:
        print_json(asdict(found))
        return
    print_table(
        ("INSTANCE", "STATE", "VERSION", ">SLOTS BUSY", "MODELS IN MEMORY"),
        [
            (
                instance.name,
                f"{instance.state} {instance.state_reason}".strip(),
                instance.version,
                f"{instance.busy_slot_count}/{instance.slot_count}",
                _resident(instance),
            )
            for instance in found.instances
        ],
    )
    if found.queues:
        click.echo()
        print_table(
            ("WAITING FOR", ">REQUESTS", ">LONGEST"),
            [
                (queue.model, str(queue.waiting_count), f"{queue.oldest_wait_s:.1f} s")
                for queue in found.queues
            ],
        )


def _resident(instance: Instance) -> str:
    held = [f"{model.name} ({size(model.size_bytes)})" for model in instance.resident_models]
    return ", ".join(held) or "-"
