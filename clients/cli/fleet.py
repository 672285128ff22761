"""`ollamesh fleet`: instances, what they hold, and who waits."""

import asyncio
from contextlib import aclosing, suppress
from dataclasses import asdict
from itertools import zip_longest

import click
from ollamesh.client.fleet import Fleet, Gpu, Instance, ResidentModel

from clients.cli.connection import call, calling, open_client
from clients.cli.output import console, print_json, print_line, print_table, quantity, size
from clients.cli.printable import printable
from clients.cli.settings import Settings

# Streams must have an end; a watch that reaches it begins anew, as it does when the service is replaced.
WATCH_S = 3600.0
AGAIN_AFTER_S = 1.0


@click.command()
@click.option("--watch", is_flag=True, help="Go on, and show every change, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch, a line for each change.")
@click.pass_obj
def fleet(settings: Settings, *, watch: bool, as_json: bool) -> None:
    """Show instances, their models and slots, and who waits."""
    if watch:
        with calling(settings), suppress(KeyboardInterrupt):
            asyncio.run(_watch(settings, as_json=as_json))
        return
    found = call(settings, lambda client: client.fleet())
    if as_json:
        print_json(asdict(found))
    else:
        _print(found)


async def _watch(settings: Settings, *, as_json: bool) -> None:
    on_screen = console().is_terminal and not as_json
    is_first = True
    async with open_client(settings) as client:
        while True:
            async with aclosing(client.watch_fleet(deadline_s=WATCH_S)) as states:
                async for found in states:
                    if as_json:
                        print_line("fleet", **asdict(found))
                        continue
                    if on_screen:
                        click.clear()
                    elif not is_first:
                        click.echo()
                    is_first = False
                    _print(found)
            await asyncio.sleep(AGAIN_AFTER_S)


def _print(found: Fleet) -> None:
    if not found.instances:
        click.echo("there is no instance")
        return
    _print_instances(found)
    _print_troubles(found)
    if found.queues:
        click.echo()
        print_table(
            ("WAITING FOR", ">REQUESTS", ">LONGEST"),
            [
                (queue.model, str(queue.waiting_count), f"{queue.oldest_wait_s:.1f} s")
                for queue in found.queues
            ],
        )


def _print_instances(found: Fleet) -> None:
    """A line for each instance, and more where it has several models or GPUs."""
    columns = ["INSTANCE", "STATE", "VERSION", ">SLOTS BUSY", "MODELS IN MEMORY"]
    rows = [row for instance in found.instances for row in _rows(instance)]
    if any(instance.gpus for instance in found.instances):
        columns.append("GPU")
    else:
        rows = [row[:-1] for row in rows]
    print_table(columns, rows)


def _rows(instance: Instance) -> list[tuple[str, ...]]:
    models = [_model(model) for model in instance.resident_models] or ["-"]
    gpus = [_gpu(gpu) for gpu in instance.gpus]
    busy = f"{instance.busy_slot_count}/{instance.slot_count}"
    heads = [(instance.name, instance.state, instance.version, busy)]
    return [
        (*head, model, gpu)
        for head, model, gpu in (
            (head or ("", "", "", ""), model or "", gpu or "")
            for head, model, gpu in zip_longest(heads, models, gpus)
        )
    ]


def _model(model: ResidentModel) -> str:
    name = f"{model.name} {model.quantization}".rstrip()
    on_cpu = "" if model.vram_bytes >= model.size_bytes or not model.vram_bytes else ", in part on the CPU"
    return f"{name} ({size(model.size_bytes)}{on_cpu})"


def _gpu(gpu: Gpu) -> str:
    told = [gpu.name]
    if gpu.memory_bytes:
        told.append(f"{size(gpu.memory_used_bytes)} of {size(gpu.memory_bytes)}")
    told.append(f"{gpu.utilization:.0%}")
    if gpu.temperature_celsius:
        told.append(f"{gpu.temperature_celsius:.0f} °C")
    return ", ".join(told)


def _print_troubles(found: Fleet) -> None:
    troubled = [one for one in found.instances if one.state_reason or one.breaker in {"open", "half_open"}]
    if troubled:
        click.echo()
        click.echo(f"{quantity(len(troubled), 'instance')} not ready:")
    for one in troubled:
        breaker = (
            f" (breaker {one.breaker.replace('_', ' ')})" if one.breaker in {"open", "half_open"} else ""
        )
        click.echo(printable(f"  {one.name}: {one.state_reason or one.state}{breaker}"))
