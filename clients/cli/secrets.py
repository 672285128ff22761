"""`ollamesh secrets`: values that services need and nobody sees again."""

import base64
import hashlib
import os
import sys
import time
import uuid
from pathlib import Path

import click
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.client.values import time as time_of

from clients.cli.administration import PAGE_SIZE, Auth, as_dict, call
from clients.cli.failures import Failure
from clients.cli.output import print_json, print_table, quantity
from clients.cli.settings import Settings

SERVICES = ("auth", "agent", "inference", "sandbox")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
FOLLOWED_WITHIN_S = 60.0
LOOK_EVERY_S = 0.5
KEY_FILE = "encryption_key"


@click.group()
def secrets() -> None:
    """Keep secrets of your organisation for services."""


@secrets.command()
@click.argument("name")
@click.option(
    "--reader",
    "readers",
    multiple=True,
    required=True,
    type=click.Choice(SERVICES),
    help="Who may read it; again for more.",
)
@JSON
@click.pass_obj
def put(settings: Settings, name: str, readers: tuple[str, ...], *, as_json: bool) -> None:
    """Seal what comes on standard input under NAME, without the newline at its end.

    Never from an argument: every user of the machine can read those.
    """
    if sys.stdin.isatty():
        value = click.prompt(f"Value of {name}", hide_input=True, err=True).encode()
    else:
        value = sys.stdin.buffer.read().removesuffix(b"\n")
    if not value:
        raise click.UsageError("there is no value on standard input")

    async def work(auth: Auth) -> pb.PutSecretResponse:
        request = pb.PutSecretRequest(request_id=str(uuid.uuid4()), name=name, value=value, readers=readers)
        return await auth.call(auth.stub.PutSecret, request)

    stored = call(settings, work).secret
    if as_json:
        print_json({"secret": as_dict(stored)})
    else:
        click.echo(f"{name}, version {stored.version}, for {', '.join(stored.readers)}")


@secrets.command()
@JSON
@click.pass_obj
def ls(settings: Settings, *, as_json: bool) -> None:
    """List names, never values."""

    async def work(auth: Auth) -> list[pb.ListSecretsResponse]:
        return await auth.pages(
            lambda token: auth.call(
                auth.stub.ListSecrets, pb.ListSecretsRequest(page_size=PAGE_SIZE, page_token=token)
            )
        )

    found = [secret for page in call(settings, work) for secret in page.secrets]
    if as_json:
        print_json({"secrets": [as_dict(secret) for secret in found]})
        return
    print_table(
        ("NAME", ">VERSION", "READERS", "CHANGED"),
        [
            (
                secret.name,
                str(secret.version),
                ", ".join(secret.readers),
                f"{changed.astimezone():%Y-%m-%d %H:%M}" if (changed := time_of(secret.update_time)) else "",
            )
            for secret in found
        ],
    )


@secrets.command()
@click.argument("name")
@click.pass_obj
def rm(settings: Settings, name: str) -> None:
    """Forget a secret."""

    async def work(auth: Auth) -> None:
        await auth.call(auth.stub.DeleteSecret, pb.DeleteSecretRequest(name=name))

    call(settings, work)
    click.echo(f"{name} is gone")


@secrets.command()
@click.option("--new-key", is_flag=True, help="Make a new encryption key first. Only for the local stack.")
@click.option("--drop-old", is_flag=True, help="Forget older keys afterwards. Only for the local stack.")
@click.pass_obj
def rotate(settings: Settings, *, new_key: bool, drop_old: bool) -> None:
    """Seal everything with the newest encryption key, without a restart.

    Elsewhere than on the local stack, first put a new key before the old one into the file that ENCRYPTION_KEY_FILE
    names; the old one can go when nothing is left that it sealed.
    """
    file = _key_file(settings) if new_key or drop_old else None
    if new_key and file is not None:
        _write(file, ",".join([base64.urlsafe_b64encode(os.urandom(32)).decode(), *_keys(file)]))
    expected = _key_id(_keys(file)[0]) if file is not None else None

    async def work(auth: Auth) -> pb.ResealSecretsResponse:
        return await auth.call(auth.stub.ResealSecrets, pb.ResealSecretsRequest())

    resealed_count, end_s = 0, time.monotonic() + FOLLOWED_WITHIN_S
    while True:
        done = call(settings, work)
        resealed_count += done.resealed_count
        if done.unreadable_count:
            raise Failure(
                f"no key opens {quantity(done.unreadable_count, 'sealed value')}; put the old key back, after the new one"
            )
        if expected in {None, done.key_id} and not done.resealed_count:
            break
        if time.monotonic() > end_s:
            raise Failure("the auth service does not use the new key: does it read this file?")
        time.sleep(LOOK_EVERY_S)
    if drop_old and file is not None:
        _write(file, _keys(file)[0])
    click.echo(f"{quantity(resealed_count, 'value')} sealed anew; key {done.key_id} seals now")


def _key_file(settings: Settings) -> Path:
    if settings.admin_password() is None:
        raise click.UsageError("this is for the local stack only, while it runs")
    return settings.home / "secrets" / KEY_FILE


def _key_id(key: str) -> str:
    """What the auth service calls it: see services/auth/adapters/seal.py."""
    return hashlib.sha256(b"ollamesh-encryption-key-1\n" + key.encode()).hexdigest()[:16]


def _keys(file: Path) -> list[str]:
    return [key.strip() for key in file.read_text().split(",") if key.strip()]


def _write(file: Path, text: str) -> None:
    """By rename, so that nobody reads half of it."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    unfinished.replace(file)
