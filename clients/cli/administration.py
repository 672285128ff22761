"""What the commands of administrators share: calls to the auth service, lists of any length, and passwords."""

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click
from google.protobuf.message import Message
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from ollamesh.auth.v1.identity_pb2 import Organization, Project, Role, ServiceAccount, User
from ollamesh.client import Client
from ollamesh.client.values import time

from clients.cli import connection
from clients.cli.settings import Settings

if TYPE_CHECKING:  # Known to type checkers only.
    from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceAsyncStub

PAGE_SIZE = 100
ROLES = {"user": Role.ROLE_USER, "admin": Role.ROLE_ADMIN}

T = TypeVar("T")


class Paged(Protocol):
    """The answer of a method that lists."""

    @property
    def next_page_token(self) -> str: ...


Page = TypeVar("Page", bound=Paged)


class Auth:
    """The auth service, as this client's caller may use it."""

    def __init__(self, client: Client) -> None:
        self.stub: AuthServiceAsyncStub = client.stub(AuthServiceStub)
        self.call = client.call

    async def pages(self, ask: Callable[[str], Awaitable[Page]]) -> list[Page]:
        """Every page of a list; `ask` gets the token of each."""
        pages = [await ask("")]
        while pages[-1].next_page_token:
            pages.append(await ask(pages[-1].next_page_token))
        return pages


def call(settings: Settings, work: Callable[[Auth], Awaitable[T]]) -> T:
    return connection.call(settings, lambda client: work(Auth(client)))


def as_dict(message: Message) -> dict[str, Any]:
    """A resource as a script reads it: the fields of the proto by name, roles and times as text."""
    told: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.name == "role":
            value = role_name(value)
        elif field.name.endswith("_time"):
            value = time(value)
        elif field.is_repeated:
            value = list(value)
        told[field.name] = value
    return told


def role_name(role: int) -> str:
    return next((name for name, number in ROLES.items() if number == role), "")


def date(message: User | ServiceAccount | Organization | Project) -> str:
    created = time(message.create_time)
    return f"{created.astimezone():%Y-%m-%d %H:%M}" if created else ""


def state(message: User | ServiceAccount) -> str:
    return "disabled" if message.disabled else "active"


def new_password(whose: str, *, from_stdin: bool) -> str:
    """Ask twice, or read a line. Never from an argument: every user of the machine can read those."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    answer: str = click.prompt(
        f"New password of {whose}", hide_input=True, confirmation_prompt=True, err=True
    )
    return answer
