"""`ollamesh quota`: what an organisation, a project or a key may use, and what is left of it."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime

import click
from ollamesh.client import Client, quotas
from ollamesh.client.quotas import LIMITS, Kind, Quota

from clients.cli.connection import call
from clients.cli.output import print_json, print_table
from clients.cli.settings import Settings

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
SUBJECTS = ("organization", "project", "api_key")
WHOLE = {"request_burst_count", "tokens_per_day", "concurrent_stream_count", "batch_items_per_day"}
# Which part of an amount a budget is of.
BUDGETS = {
    "tokens_per_day": "token_count",
    "gpu_seconds_per_day": "gpu_seconds",
    "batch_items_per_day": "batch_item_count",
}

Command = Callable[..., None]


def _of(command: Command) -> Command:
    """Whose quota: one of three options."""
    for name in reversed(SUBJECTS):
        option = f"--{name.replace('_', '-')}"
        command = click.option(option, name, metavar="ID", help=f"That of this {name.replace('_', ' ')}.")(
            command
        )
    return command


@click.group()
def quota() -> None:
    """Show and set what an organisation, a project or a key may use."""


@quota.command()
@_of
@JSON
@click.pass_obj
def show(settings: Settings, /, *, as_json: bool, **subject: str | None) -> None:
    """Show limits and what is left of them: your project's, if you name nothing."""
    named = _named(subject)
    found = call(settings, lambda client: quotas.get(client, *(named or ())))
    _print(found, as_json=as_json)


@quota.command(name="set")
@_of
@click.argument("limits", nargs=-1, metavar="[LIMIT=VALUE]...")
@click.option("--replace", is_flag=True, help="Remove all limits that are not named.")
@JSON
@click.pass_obj
def set_(
    settings: Settings, /, limits: tuple[str, ...], *, replace: bool, as_json: bool, **subject: str | None
) -> None:
    """Set limits, such as tokens_per_day=1000000; LIMIT=none removes one. What is not named stays as it is.

    Limits: requests_per_second, request_burst_count, tokens_per_day, gpu_seconds_per_day, concurrent_stream_count,
    batch_items_per_day.
    """
    named = _named(subject)
    if named is None:
        raise click.UsageError("name an --organization, a --project or an --api-key")
    wanted = dict(map(_limit, limits))

    async def work(client: Client) -> Quota:
        old = {} if replace else dict((await quotas.get(client, *named)).limits)
        new = {name: value for name, value in {**old, **wanted}.items() if value is not None}
        return await quotas.set_limits(client, *named, new)

    _print(call(settings, work), as_json=as_json)


def _named(subject: dict[str, str | None]) -> tuple[Kind, str] | None:
    given = [(kind, subject[kind]) for kind in SUBJECTS if subject[kind] is not None]
    if len(given) > 1:
        raise click.UsageError("name one of --organization, --project and --api-key")
    return given[0] if given else None  # type: ignore[return-value]  # Names of Kind.


def _limit(text: str) -> tuple[str, float | None]:
    name, _, value = text.partition("=")
    if name not in LIMITS:
        raise click.BadParameter(f"{name!r} is none of {', '.join(LIMITS)}", param_hint="LIMIT")
    if value == "none":
        return name, None
    try:
        return name, int(value) if name in WHOLE else float(value)
    except ValueError:
        kind = "a whole number" if name in WHOLE else "a number"
        raise click.BadParameter(f"{name} is {kind} or none", param_hint="LIMIT") from None


def _print(found: Quota, *, as_json: bool) -> None:
    if as_json:
        print_json({"quota": asdict(found)})
        return
    click.echo(f"{found.kind.replace('_', ' ')} {found.subject_id}")
    rows = []
    for name in LIMITS:
        part = BUDGETS.get(name)
        limit = found.limits.get(name)
        used = getattr(found.used, part) if part else None
        held = getattr(found.reserved, part) if part else None
        rows.append((name, _number(limit, "unlimited"), _number(used, "-"), _number(held, "-")))
    print_table(("LIMIT", ">OF", ">USED TODAY", ">RESERVED"), rows)
    if found.reset_time is not None:
        left_s = (found.reset_time - datetime.now(UTC)).total_seconds()
        click.echo(f"the day ends in {max(0, round(left_s / 60))} minutes")


def _number(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:,.10g}"
