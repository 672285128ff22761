"""`ollamesh login` and `ollamesh token`: being somebody, here and elsewhere."""

import sys

import click
from ollamesh.client import Password
from ollamesh.client.credentials import Role

from clients.cli.connection import call, credentials
from clients.cli.failures import Denied
from clients.cli.settings import ADMIN, Login, Settings


@click.command()
@click.option("--username", default=None, help="Asked for if not given.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--forget", is_flag=True, help="Forget the saved login.")
@click.pass_obj
def login(settings: Settings, username: str | None, *, password_stdin: bool, forget: bool) -> None:
    """Log in, and stay so for the commands that follow.

    The token is saved, not the password. Other commands use it until it expires.
    """
    if forget:
        settings.login_file.unlink(missing_ok=True)
        return
    username = username or click.prompt("Username", default=ADMIN, err=True)
    password = (
        sys.stdin.readline().rstrip("\n")
        if password_stdin
        else click.prompt("Password", hide_input=True, err=True)
    )
    token = call(settings, lambda client: client.access_token(), Password(username, password))
    assert token.expire_time
    settings.save_login(
        Login(
            edge=settings.edge,
            username=username,
            token=token.value,
            expires_at_s=token.expire_time.timestamp(),
        )
    )
    until = token.expire_time.astimezone()
    click.echo(f"logged in to {settings.edge} as {username} until {until:%H:%M:%S}")


@click.command()
@click.option("--role", type=click.Choice(["user", "admin"]), help="A lesser role than your own.")
@click.option(
    "--ttl", "lifetime_s", type=click.FloatRange(1, 600), metavar="SECONDS", help="A shorter life than usual."
)
@click.pass_obj
def token(settings: Settings, role: Role | None, lifetime_s: float | None) -> None:
    """Print an access token, and nothing else, on standard output.

    For curl and the stubs: -H "authorization: Bearer $(ollamesh token)".
    """
    who = credentials(settings)
    if role is not None or lifetime_s is not None:
        if not isinstance(who, Password):
            raise Denied("--role and --ttl take a new login, and only the local stack's admin is known here")
        who = Password(who.username, who.password, role, lifetime_s)
    click.echo(call(settings, lambda client: client.access_token(), who).value)
