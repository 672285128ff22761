"""From a command to the mesh: the client it speaks through, and what it says when that fails."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import click
import grpc
from ollamesh.client import (
    CallError,
    Client,
    Credentials,
    Password,
    SavedSession,
    Session,
    StaticToken,
)

from clients.cli.failures import Denied, Failure, Unreachable
from clients.cli.settings import ADMIN, Login, Settings

T = TypeVar("T")

DENIALS = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


@dataclass(frozen=True, slots=True)
class LoginFile:
    """The saved login. Commands that run at once share it: whichever renews it saves it for all.

    Two that renew at the same moment are given the same by the mesh, so it does not matter who saves last.
    """

    settings: Settings

    def load(self) -> Session:
        if (login := self.settings.saved_login()) is None:
            raise Denied("somebody has logged out meanwhile; run `ollamesh login` again")
        return Session(login.token, datetime.fromtimestamp(login.expires_at_s, UTC), login.refresh_token)

    def save(self, session: Session) -> None:
        known = self.settings.saved_login()
        self.settings.save_login(
            Login(
                edge=self.settings.edge,
                username=known.username if known else "",
                token=session.access_token,
                expires_at_s=session.expire_time.timestamp(),
                refresh_token=session.refresh_token,
            )
        )


def credentials(settings: Settings) -> Credentials:
    """Who is calling: the given token, who logged in, or the local stack's admin."""
    if settings.token_given:  # Or an API key: both are sent as they are.
        return StaticToken(settings.token_given)
    if (login := settings.saved_login()) is not None:
        return SavedSession(LoginFile(settings)) if login.refresh_token else StaticToken(login.token)
    if (password := settings.admin_password()) is not None:
        return Password(ADMIN, password)
    raise Denied(
        f"nobody is logged in to {settings.edge}; run `ollamesh login`, set OLLAMESH_TOKEN, "
        "or start the local stack with `ollamesh up`"
    )


def open_client(settings: Settings, who: Credentials | None = None) -> Client:
    """A client for these settings, or for somebody else. Only inside a running loop."""
    try:
        return Client(settings.edge, who or credentials(settings), ca=settings.ca)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def call(settings: Settings, work: Callable[[Client], Awaitable[T]], who: Credentials | None = None) -> T:
    """Do `work` with a client, and fail as a command does."""

    async def main() -> T:
        async with open_client(settings, who) as client:
            return await work(client)

    with calling(settings):
        return asyncio.run(main())


@contextmanager
def calling(settings: Settings) -> Iterator[None]:
    """Turn what a call raises inside into a Failure."""
    try:
        yield
    except CallError as error:
        raise failure_of(error, settings.edge) from None


def failure_of(error: CallError, edge: str) -> Failure:
    """The sentence and the exit code for a failed call."""
    if error.is_unreachable and error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unreachable(f"the mesh at {edge} did not answer in time")
    if error.is_unreachable:
        hint = "is the stack up? `ollamesh status` tells, `ollamesh up` starts it"
        return Unreachable(f"the mesh does not answer at {edge}; {hint}")
    facts = [error.reason or error.code.name]
    facts += [f"{name} {value}" for name, value in sorted(error.metadata.items())]
    if error.retry_after_s is not None:
        facts.append(f"try again in {error.retry_after_s:g} s")
    if error.request_id:  # For `ollamesh trace`, and for who searches the log.
        facts.append(f"request {error.request_id}")
    sentence = f"{error.message} ({', '.join(facts)})"
    broken = [f"\n  {violation.field}: {violation.description}" for violation in error.violations]
    kind = Denied if error.code in DENIALS else Failure
    return kind(sentence + "".join(broken))
