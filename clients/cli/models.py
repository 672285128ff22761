"""`ollamesh models`: what there is, and what an admin does about it."""

from contextlib import aclosing
from dataclasses import asdict

import click
from ollamesh.client import Client, library

from clients.cli.connection import call
from clients.cli.output import console, print_event, print_json, print_table, size
from clients.cli.pull_view import PullView
from clients.cli.settings import Settings

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def models() -> None:
    """List and manage models."""


@models.command()
@JSON
@click.pass_obj
def ls(settings: Settings, *, as_json: bool) -> None:
    """List the models that you may use, and where they are loaded."""
    found = call(settings, lambda client: client.models())
    if as_json:
        print_json({"models": [asdict(model) for model in found]})
        return
    print_table(
        ("MODEL", ">SIZE", ">MEMORY", "PARAMETERS", "QUANTIZATION", "CAN", "LOADED ON"),
        [
            (
                model.name,
                size(model.size_bytes),
                size(model.vram_bytes) if model.vram_bytes else "-",
                model.parameter_size,
                model.quantization,
                ", ".join(model.capabilities),
                (", ".join(model.resident_instances) or "-") + (" (pinned)" if model.pinned else ""),
            )
            for model in found
        ],
    )


@models.command()
@click.argument("model")
@click.option("--instance", "instances", multiple=True, help="Only there; give it again for more.")
@JSON
@click.pass_obj
def pull(settings: Settings, model: str, instances: tuple[str, ...], *, as_json: bool) -> None:
    """Have every instance fetch MODEL.

    Interrupted, it stops unless somebody else watches; asked for again, it goes on from there.
    """

    async def work(client: Client) -> None:
        with PullView(console()) as view:
            async with aclosing(client.pull_model(model, instances)) as events:
                async for event in events:
                    if as_json:
                        print_event(event)
                    elif isinstance(event, library.PullProgress):
                        view.show(event)
                    else:
                        view.done(event.model)

    call(settings, work)


@models.command()
@click.argument("model")
@JSON
@click.pass_obj
def rm(settings: Settings, model: str, *, as_json: bool) -> None:
    """Remove MODEL from every instance."""
    call(settings, lambda client: client.delete_model(model))
    if as_json:
        print_json({"deleted": model})


@models.command()
@click.argument("source")
@click.argument("destination")
@JSON
@click.pass_obj
def cp(settings: Settings, source: str, destination: str, *, as_json: bool) -> None:
    """Give the model SOURCE a second name, DESTINATION."""
    made = call(settings, lambda client: client.copy_model(source, destination))
    if as_json:
        print_json({"model": asdict(made)})


@models.command()
@click.argument("model")
@click.option("--instance", default="", help="There; otherwise where it disturbs least.")
@click.option("--pin", is_flag=True, help="Keep it loaded, until `models unload`.")
@JSON
@click.pass_obj
def preload(settings: Settings, model: str, instance: str, *, pin: bool, as_json: bool) -> None:
    """Load MODEL before it is needed."""
    where = call(settings, lambda client: client.load_model(model, instance, pin=pin))
    if as_json:
        print_json({"model": model, "instance": where, "pinned": pin})
    else:
        click.echo(f"{model} is loaded on {where}")


@models.command()
@click.argument("model")
@click.option("--instance", default="", help="Only there.")
@JSON
@click.pass_obj
def unload(settings: Settings, model: str, instance: str, *, as_json: bool) -> None:
    """Free MODEL's memory, and pin it no longer."""
    call(settings, lambda client: client.unload_model(model, instance))
    if as_json:
        print_json({"unloaded": model})
