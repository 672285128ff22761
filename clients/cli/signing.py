"""`ollamesh signing`: the keys that sign everybody's tokens. For admins of the founding organisation."""

from datetime import UTC

import click
from ollamesh.auth.v1 import auth_service_pb2 as pb

from clients.cli.administration import Auth, call
from clients.cli.output import print_json
from clients.cli.settings import Settings


@click.group()
def signing() -> None:
    """Replace the key that signs tokens."""


@signing.command()
@click.option(
    "--emergency",
    is_flag=True,
    help="Somebody may have the key: end every token that there is, at once, your own login too.",
)
@click.option("--request-id", default="", help="Chosen by you: the same one rotates once.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def rotate(settings: Settings, *, emergency: bool, request_id: str, as_json: bool) -> None:
    """Make a new signing key. As planned, nobody notices: it is published before it signs, the old one after."""
    request = pb.RotateSigningKeyRequest(emergency=emergency, request_id=request_id)

    async def work(auth: Auth) -> pb.RotateSigningKeyResponse:
        return await auth.call(auth.stub.RotateSigningKey, request)

    made = call(settings, work)
    active_time = made.active_time.ToDatetime(UTC)
    if as_json:
        print_json({"key_id": made.key_id, "active_time": active_time.isoformat()})
    elif emergency:
        click.echo(f"key {made.key_id} signs now; every token from before is useless, so log in again")
    else:
        click.echo(f"key {made.key_id} signs from {active_time.astimezone():%H:%M:%S} on")
