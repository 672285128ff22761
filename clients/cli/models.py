"""`ollamesh models`: what there is, and what an admin does about it."""

from contextlib import aclosing
from dataclasses import asdict

import click
from ollamesh.client import Client
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from ollamesh.inference.v1.model_pb2 import DeleteModelRequest, LoadModelRequest, PullModelRequest

from clients.cli.connection import call
from clients.cli.output import console, print_json, print_table, size
from clients.cli.settings import Settings

MODEL_DEADLINE_S = 3600.0  # A large model on a slow line.


@click.group()
def models() -> None:
    """List and manage models."""


@models.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def ls(settings: Settings, *, as_json: bool) -> None:
    """List the models that you may use, and where they are loaded."""
    found = call(settings, lambda client: client.models())
    if as_json:
        print_json({"models": [asdict(model) for model in found]})
        return
    print_table(
        ("MODEL", ">SIZE", "PARAMETERS", "QUANTIZATION", "CAN", "LOADED ON"),
        [
            (
                model.name,
                size(model.size_bytes),
                model.parameter_size,
                model.quantization,
                ", ".join(model.capabilities),
                ", ".join(model.resident_instances) or "-",
            )
            for model in found
        ],
    )


@models.command()
@click.argument("model")
@click.pass_obj
def pull(settings: Settings, model: str) -> None:
    """Have every instance fetch MODEL."""
    out = console()

    async def work(client: Client) -> None:
        request = PullModelRequest(model=model)
        stream = client.stream(
            client.stub(InferenceServiceStub).PullModel, request, deadline_s=MODEL_DEADLINE_S
        )
        async with aclosing(stream) as responses:
            async for response in responses:
                if response.HasField("progress"):
                    progress = response.progress
                    done = f"{size(progress.completed_bytes)} of {size(progress.total_bytes)}"
                    out.print(
                        f"{progress.instance}: {progress.status} {done if progress.total_bytes else ''}"
                    )

    call(settings, work)


@models.command()
@click.argument("model")
@click.pass_obj
def rm(settings: Settings, model: str) -> None:
    """Remove MODEL from every instance."""
    request = DeleteModelRequest(model=model)
    call(settings, lambda client: client.call(client.stub(InferenceServiceStub).DeleteModel, request))


@models.command()
@click.argument("model")
@click.option("--pin", is_flag=True, help="Keep it loaded.")
@click.pass_obj
def preload(settings: Settings, model: str, *, pin: bool) -> None:
    """Load MODEL before it is needed."""
    request = LoadModelRequest(model=model, pin=pin)
    loaded = call(
        settings,
        lambda client: client.call(
            client.stub(InferenceServiceStub).LoadModel, request, deadline_s=MODEL_DEADLINE_S
        ),
    )
    click.echo(f"{model} is loaded on {loaded.instance}")
