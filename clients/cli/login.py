"""`ollamesh login`, `logout` and `token`: being somebody, here and elsewhere."""

import asyncio
import sys
from collections.abc import Awaitable, Callable

import click
from ollamesh.auth.v1.auth_service_pb2 import RevokeTokenRequest
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from ollamesh.client import Client, Password, SavedSession, Session, device
from ollamesh.client.credentials import Role

from clients.cli.connection import LoginFile, call, calling, credentials
from clients.cli.failures import Denied
from clients.cli.settings import ADMIN, Login, Settings


@click.command()
@click.option("--username", default=None, help="Asked for if not given.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--device", "by_device", is_flag=True, help="Log in with a browser, here or elsewhere.")
@click.option("--forget", is_flag=True, help="The same as `ollamesh logout`.")
@click.pass_obj
def login(
    settings: Settings, username: str | None, *, password_stdin: bool, by_device: bool, forget: bool
) -> None:
    """Log in, and stay so for the commands that follow.

    The login lasts 30 days. Tokens are saved, readable by you only, and not the password.
    """
    if forget:
        _log_out(settings)
        return
    if by_device:
        session = _by_device(settings)
        _keep(settings, "", session)
        click.echo(f"logged in to {settings.edge}")
        return
    username = username or click.prompt("Username", default=ADMIN, err=True)
    password = (
        sys.stdin.readline().rstrip("\n")
        if password_stdin
        else click.prompt("Password", hide_input=True, err=True)
    )

    async def log_in(client: Client) -> tuple[Session, bool]:
        token = await client.access_token()
        assert token.expire_time
        session = await client.session()
        return session or Session(token.value, token.expire_time, ""), session is not None

    session, lasts = call(settings, log_in, Password(username, password))
    _keep(settings, username, session)
    until = "" if lasts else f" until {session.expire_time.astimezone():%H:%M:%S}"
    click.echo(f"logged in to {settings.edge} as {username}{until}")


@click.command()
@click.pass_obj
def logout(settings: Settings) -> None:
    """End the saved login, here and in the mesh."""
    _log_out(settings)


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
    if isinstance(who, SavedSession) and role is None:
        who = SavedSession(who.store, lifetime_s)
    elif role is not None or lifetime_s is not None:
        if not isinstance(who, Password):
            raise Denied("--role takes a new login, and only the local stack's admin is known here")
        who = Password(who.username, who.password, role, lifetime_s)
    click.echo(call(settings, lambda client: client.access_token(), who).value)


def _by_device(settings: Settings) -> Session:
    async def main() -> Session:
        begun = await device.begin(settings.edge)
        click.echo(f"Open {begun.verification_uri} and enter the code {begun.user_code}", err=True)
        return await begun.wait()

    with calling(settings):
        return asyncio.run(main())


def _keep(settings: Settings, username: str, session: Session) -> None:
    settings.save_login(
        Login(
            edge=settings.edge,
            username=username,
            token=session.access_token,
            expires_at_s=session.expire_time.timestamp(),
            refresh_token=session.refresh_token,
        )
    )


def _log_out(settings: Settings) -> None:
    """Whatever the mesh says, nothing stays here."""
    try:
        saved = settings.saved_login()
        if saved is not None and saved.refresh_token:
            call(settings, _revoke(LoginFile(settings)), SavedSession(LoginFile(settings)))
    except Denied:
        pass  # It was over already.
    finally:
        settings.login_file.unlink(missing_ok=True)


def _revoke(store: LoginFile) -> Callable[[Client], Awaitable[None]]:
    async def work(client: Client) -> None:
        await client.access_token()  # This may renew the login: what is revoked must be what it is now.
        revoke = client.stub(AuthServiceStub).RevokeToken
        await client.call(revoke, RevokeTokenRequest(token=store.load().refresh_token))

    return work
