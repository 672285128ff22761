"""`ollamesh batch`: many requests that may wait, submitted from a file, and what came of them."""

from contextlib import aclosing
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TextIO

import click
import grpc
from ollamesh.client import CallError, Client, batches

from clients.cli.batch_lines import BadLine, items_of
from clients.cli.connection import call
from clients.cli.failures import Failure
from clients.cli.output import print_json, print_line, print_table, quantity
from clients.cli.printable import printable
from clients.cli.settings import Settings

FOLLOW_S = 3000.0  # Streams must have an end; one that reaches it goes on where it was.


@click.group()
def batch() -> None:
    """Have many requests answered in idle slots."""


@batch.command()
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--name", default="", help="What to call it.")
@click.option(
    "--request-id", help="Your own name for the submission: with the same one, it is not done twice."
)
@click.option(
    "--window", "window_h", type=click.FloatRange(0, 720, min_open=True), help="Hours; 24 if not given."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def submit(
    settings: Settings,
    file: TextIO,
    name: str,
    request_id: str | None,
    window_h: float | None,
    *,
    as_json: bool,
) -> None:
    """Submit the requests in FILE, one a line; - reads standard input.

    A line is OpenAI's ({"custom_id": ..., "url": "/v1/chat/completions", "body": {...}}), or a BatchItem of the protos
    as JSON ({"custom_id": ..., "chat": {...}}), which can say all that a call can.
    """
    try:
        items = items_of(file)
    except BadLine as error:
        raise Failure(f"{Path(file.name).name}, line {error.number}: {error}") from None

    async def work(client: Client) -> batches.Batch:
        return await client.create_batch(
            items,
            request_id=request_id,
            display_name=name,
            window_s=None if window_h is None else window_h * 3600,
        )

    _show(call(settings, work), as_json=as_json)


@batch.command()
@click.argument("batch_id", metavar="[ID]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(settings: Settings, batch_id: str | None, *, as_json: bool) -> None:
    """Say how far a batch is; without an ID, list yours."""
    if batch_id is not None:
        _show(call(settings, lambda client: client.batch(batch_id)), as_json=as_json)
        return

    async def work(client: Client) -> list[batches.Batch]:
        return [found async for found in client.list_batches()]

    found = call(settings, work)
    if as_json:
        print_json({"batches": [asdict(one) for one in found]})
        return
    print_table(
        ("BATCH", "NAME", "STATE", ">ITEMS", ">DONE", ">FAILED", "CREATED"),
        [
            (
                one.batch_id,
                one.display_name,
                one.state,
                str(one.item_count),
                str(one.succeeded_count),
                str(one.failed_count),
                _time(one.create_time),
            )
            for one in found
        ],
    )


@batch.command()
@click.argument("batch_id", metavar="ID")
@click.option(
    "--after", "after_sequence", type=click.IntRange(0), default=0, help="The last one that you have."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document for each result.")
@click.pass_obj
def results(settings: Settings, batch_id: str, after_sequence: int, *, as_json: bool) -> None:
    """Print results as they appear, to the end of the batch. The exit code is 1 if an item failed."""

    async def work(client: Client) -> int:
        failed_count, last = 0, after_sequence
        while True:
            stream = client.batch_results(batch_id, after_sequence=last, deadline_s=FOLLOW_S)
            try:
                async with aclosing(stream) as found:
                    async for result in found:
                        last = result.sequence
                        failed_count += result.error is not None
                        _tell(result, as_json=as_json)
            except CallError as error:
                if error.code is not grpc.StatusCode.DEADLINE_EXCEEDED or error.reason:
                    raise
            else:
                return failed_count

    if failed_count := call(settings, work):
        raise Failure(f"{quantity(failed_count, 'item')} failed")


@batch.command()
@click.argument("batch_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def cancel(settings: Settings, batch_id: str, *, as_json: bool) -> None:
    """End a batch. What is done stays done."""
    _show(call(settings, lambda client: client.cancel_batch(batch_id)), as_json=as_json)


def _show(found: batches.Batch, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
        return
    done = found.succeeded_count + found.failed_count
    facts = f"{done:,} of {quantity(found.item_count, 'item')} done, {found.failed_count:,} failed"
    click.echo(f"{found.batch_id}  {found.state}  {facts}")


def _tell(result: batches.Result, *, as_json: bool) -> None:
    error = result.error
    if as_json:
        fields = {
            **asdict(result),
            "error": error and {"reason": error.reason, "message": error.message, **error.metadata},
        }
        print_line("result", **fields)
        return
    name = printable(result.custom_id) or str(result.item_index)
    click.echo(f"{name}: {printable(result.text) if error is None else f'failed: {error}'}")


def _time(moment: datetime | None) -> str:
    return "-" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
