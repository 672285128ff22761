"""`ollamesh trace`: what happened inside a call of the stack on this machine, and where its time went."""

import time
from collections.abc import Sequence
from datetime import datetime

import click
import msgspec

from clients.cli.failures import Failure
from clients.cli.output import console, print_json, print_table
from clients.cli.settings import Settings
from clients.cli.trace_view import TraceView, title
from clients.cli.waterfall import duration, waterfall
from deploy.local.traces.reading import NoTracesError, reading
from deploy.local.traces.records import Summary

LATEST = 20
WAIT_S = 6.0  # Services send what they have every few seconds.
LOOK_EVERY_S = 0.25
TRACES_SHOWN_MAX = 5


@click.command()
@click.argument("trace_id", metavar="[ID]", required=False)
@click.option(
    "-n", "limit", type=click.IntRange(1, 1000), default=LATEST, show_default=True, help="How many to list."
)
@click.option("-a", "--all", "shows_all", is_flag=True, help="Every span, with all that is known of it.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, 3600),
    default=WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="For how long to look for one that is not there yet.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def trace(
    settings: Settings, trace_id: str | None, *, limit: int, shows_all: bool, wait_s: float, as_json: bool
) -> None:
    """Show what happened inside a call, and where its time went.

    ID is a trace's, or how it begins; or a request's (the header x-request-id of its answer), a run's or an
    execution's. Without it, the latest traces are listed. Traces are kept by the stack on this machine only; elsewhere
    they are where OLLAMESH_OTLP_TARGET sends them.
    """
    try:
        if trace_id is None:
            with reading(settings.home) as reader:
                _list(reader.latest(limit), as_json=as_json)
            return
        _show(settings, _find(settings, trace_id, wait_s), shows_all=shows_all, as_json=as_json)
    except NoTracesError as error:
        raise Failure(
            f"no traces: {error}; the stack keeps them unless OLLAMESH_TRACES is false or OLLAMESH_OTLP_TARGET "
            "sends them elsewhere"
        ) from None


def _find(settings: Settings, name: str, wait_s: float) -> list[Summary]:
    until_s = time.monotonic() + wait_s
    while True:
        with reading(settings.home) as reader:
            found = reader.find(name)
        if found:
            return found
        if time.monotonic() >= until_s:
            raise Failure(
                f"there is no trace of {name}: it may be too old, not sampled, or not of this stack; "
                "`ollamesh trace` lists the latest"
            )
        time.sleep(LOOK_EVERY_S)


def _list(found: Sequence[Summary], *, as_json: bool) -> None:
    if as_json:
        print_json({"traces": [msgspec.to_builtins(one) for one in found]})
        return
    rows = [
        (
            one.trace_id,
            f"{datetime.fromtimestamp(one.start_ns / 1e9).astimezone():%m-%d %H:%M:%S}",
            duration(one.end_ns - one.start_ns),
            str(one.span_count),
            str(one.error_count or ""),
            title(one.name),
        )
        for one in found
    ]
    print_table(("trace", "began", ">took", ">spans", ">errors", "first span"), rows)


def _show(settings: Settings, found: Sequence[Summary], *, shows_all: bool, as_json: bool) -> None:
    view = TraceView(console(), shows_all=shows_all)
    with reading(settings.home) as reader:
        for place, one in enumerate(found[:TRACES_SHOWN_MAX]):
            spans = sorted(reader.spans(one.trace_id), key=lambda span: span.start_ns)
            if not spans:  # It was let go of just now.
                continue
            drawn = waterfall(spans, folds=not shows_all)
            if as_json:
                print_json(
                    {
                        **msgspec.to_builtins(one),
                        "missing_parent_count": drawn.missing_count,
                        "spans": [msgspec.to_builtins(span) for span in spans],
                    }
                )
                continue
            if place:
                click.echo()
            view.show(one.trace_id, spans, drawn, left_out_count=one.left_out_count)
    if (more := len(found) - TRACES_SHOWN_MAX) > 0:
        click.echo(f"and {more} more traces whose ids begin so; give more of the id", err=True)
