"""`ollamesh rollout`: bring a new version of a service in behind the edge of this machine, or take it back."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TypeVar

import click
import msgspec

from clients.cli.failures import Failure, Unreachable
from clients.cli.settings import Settings
from clients.cli.stack import say
from deploy.envoy.config import SERVICES, SETS
from deploy.local import board
from deploy.local.probes import HttpProbe
from deploy.rollout import driver
from deploy.rollout.core import Policy
from deploy.rollout.driver import Driver, Place, RolloutError

DEFAULT = Policy()
T = TypeVar("T")
SERVICE = click.argument("service", type=click.Choice(SERVICES))


@click.group()
def rollout() -> None:
    """Bring a new version of a service in, a share of the calls at a time.

    Start its replicas first and add them to the set that has no calls: `python -m deploy.envoy.endpoints add SERVICE
    HOST:PORT --set green`.
    """


@rollout.command()
@SERVICE
@click.option("--to", type=click.Choice(SETS), required=True, help="The set with the new version.")
@click.option("--steps", default=",".join(map(str, DEFAULT.steps)), show_default=True, help="Percents.")
@click.option("--step-s", type=click.FloatRange(0.1, 86_400), default=DEFAULT.step_s, show_default=True)
@click.option("--calls-min", type=click.IntRange(1), default=DEFAULT.calls_min, show_default=True,
              help="Calls in a step that it takes to tell.")  # fmt: skip
@click.pass_obj
def start(settings: Settings, service: str, to: str, steps: str, step_s: float, calls_min: int) -> None:
    """Go on by steps as long as it does well; else give all calls back. Exit code 1 then."""
    try:
        percents = tuple(int(one) for one in steps.split(","))
    except ValueError:
        raise click.UsageError("--steps is a list of percentages, such as 5,25,100") from None
    policy = replace(DEFAULT, steps=percents, step_s=step_s, calls_min=calls_min)
    record = _told(lambda: Driver(_place(settings), service, to, policy).run())
    if record.state != driver.FINISHED:
        raise Failure(f"{record.state}: {record.why}")
    click.echo(f"{to} has {record.percent} % of {service}'s calls: {record.why}")


@rollout.command()
@SERVICE
@click.pass_obj
def abort(settings: Settings, service: str) -> None:
    """Give all calls back to the version that had them, at once."""
    record = _told(lambda: driver.abort(_place(settings), service))
    click.echo(f"{driver.other(record.to)} has all of {service}'s calls")


@rollout.command()
@click.argument("service", type=click.Choice(SERVICES), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line for each service.")
@click.pass_obj
def status(settings: Settings, service: str | None, *, as_json: bool) -> None:
    """Show the sets of each service, their shares, and what Envoy counted of them."""
    place = _place(settings)
    for name in [service] if service else SERVICES:
        _show(place, name, as_json=as_json)


def _show(place: Place, service: str, *, as_json: bool) -> None:
    sets, measured = _told(lambda: (place.sets(service), place.measure(service)))
    record = place.record(service)
    if as_json:
        told = {
            "service": service,
            "sets": {name: {**asdict(found), "measured": asdict(measured[name])} for name, found in sets.items()},
            "rollout": msgspec.to_builtins(record),
            "driven": place.is_driven(service),
        }  # fmt: skip
        click.echo(json.dumps(told))
        return
    for color, found in sets.items():
        if found.replicas:
            did = measured[color]
            p95_ms = did.quantile_ms(0.95)
            click.echo(
                f"{service:<10} {color:<6} {found.weight:>3} %  {did.healthy_count}/{len(found.replicas)} healthy  "
                f"{did.call_count} calls, {did.error_count} failed"
                + (f", p95 {p95_ms:.0f} ms" if p95_ms is not None else "")
            )
    if record is not None:
        alone = record.state == driver.GOING and not place.is_driven(service)
        click.echo(
            f"{service:<10} {record.state} to {record.to} at {record.percent} %{': ' if record.why else ''}{record.why}"
            + ("; nobody drives it: start it again, or abort it" if alone else "")
        )


def _place(settings: Settings) -> Place:
    running = board.of_running(settings.home)
    for part in running.parts if running is not None else ():
        if part.name == "edge" and isinstance(part.probe, HttpProbe):
            return Place(folder=settings.home / "edge", admin=f"http://127.0.0.1:{part.probe.port}", say=say)
    raise Unreachable("the edge does not run; start the stack with `make up`")


def _told(work: Callable[[], T]) -> T:
    try:
        return work()
    except RolloutError as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Unreachable(f"Envoy does not answer: {error.strerror or error}") from None
