"""`ollamesh keys`: credentials that last, for programs that nobody logs in for."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime

import click
from ollamesh.client import Client
from ollamesh.client import keys as client_keys
from ollamesh.client.credentials import Role

from clients.cli.connection import call
from clients.cli.output import print_json, print_table
from clients.cli.settings import Settings

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
DAY_S = 86_400.0


@click.group()
def keys() -> None:
    """Make, list and revoke API keys.

    A key is sent where a token is: as OLLAMESH_TOKEN, or as the api_key of OpenAI's and Ollama's clients.
    """


@keys.command()
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, help="What it may reach, such as inference; again for more."
)
@click.option("--role", type=click.Choice(["user", "admin"]), help="A lesser role than your own.")
@click.option("--days", type=click.FloatRange(1 / 1440, 365), help="How long it lasts; 90 days if not given.")
@JSON
@click.pass_obj
def create(
    settings: Settings,
    name: str,
    scopes: tuple[str, ...],
    role: Role | None,
    days: float | None,
    *,
    as_json: bool,
) -> None:
    """Make a key called NAME. It is shown this once: on standard output, and nothing else."""

    async def work(client: Client) -> tuple[client_keys.Key, str]:
        return await client.create_api_key(
            name,
            scopes=scopes,
            role=role,
            lifetime_s=None if days is None else days * DAY_S,
        )

    key, text = call(settings, work)
    if as_json:
        print_json({"api_key": asdict(key), "secret": text})
        return
    until = f"{key.expire_time.astimezone():%Y-%m-%d %H:%M}" if key.expire_time else "-"
    click.echo(text)
    click.echo(f"key {key.api_key_id} lasts until {until}; it is not shown again", err=True)


@keys.command()
@JSON
@click.pass_obj
def ls(settings: Settings, *, as_json: bool) -> None:
    """List your keys or, for an admin, the organisation's; newest first."""

    async def work(client: Client) -> list[client_keys.Key]:
        return [key async for key in client.list_api_keys()]

    found = call(settings, work)
    if as_json:
        print_json({"api_keys": [asdict(key) for key in found]})
        return
    print_table(
        ("KEY", "NAME", "OWNER", "ROLE", "SCOPES", "LAST USED", "STATE"),
        [
            (
                key.api_key_id,
                key.display_name,
                key.user_id,
                key.role or "?",
                ", ".join(key.scopes),
                f"{key.last_used_time.astimezone():%Y-%m-%d %H:%M}" if key.last_used_time else "never",
                _state(key),
            )
            for key in found
        ],
    )


@keys.command()
@click.argument("key_id", metavar="KEY")
@JSON
@click.pass_obj
def revoke(settings: Settings, key_id: str, *, as_json: bool) -> None:
    """Make KEY useless, everywhere within a second. KEY is its id, or how it begins."""
    key_id = key_id.split("_")[2] if key_id.startswith("omk_") and key_id.count("_") >= 2 else key_id
    ended = call(settings, lambda client: client.revoke_api_key(key_id))
    if as_json:
        print_json({"api_key": asdict(ended)})
    else:
        click.echo(f"key {ended.api_key_id} ({ended.display_name}) is revoked")


def _state(key: client_keys.Key, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> str:
    if key.revoke_time:
        return "revoked"
    if key.expire_time is None or key.expire_time <= now():
        return "expired"
    return f"until {key.expire_time.astimezone():%Y-%m-%d}"
