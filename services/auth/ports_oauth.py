"""What OAuth needs of a store.

Every method raises StoreFailure when the store does not answer in time. What must not be torn apart (look, decide,
write) is one method that takes the decision as a plain function. It may be asked more than once and must not await;
times are the store's own, so that replicas whose clocks differ agree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from services.auth.core.clients import Client
from services.auth.core.codes import AuthorizationCode
from services.auth.core.device import Device, Reply
from services.auth.core.identity import Identity
from services.auth.core.refresh import Family
from services.auth.people_ports import Page, PageRequest

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Redeemed:
    """The code was good; its session exists now."""

    code: AuthorizationCode


@dataclass(frozen=True, slots=True)
class UsedBefore:
    """The code had been presented before; the session that it was changed for, if any, has ended."""

    session_id: str | None


class ClientStore(Protocol):
    async def find_client(self, client_id: str) -> Client | None:
        """A registered client or a service account, unless disabled."""
        ...

    async def add_client(self, client: Client) -> bool:
        """Whether the name was free."""
        ...

    async def clients(self, organization_id: str, request: PageRequest) -> Page[Client]:
        """Those that are registered and not disabled, by name."""
        ...

    async def disable_client(self, client_id: str, organization_id: str) -> bool:
        """Whether there was one to disable. What it began is ended."""
        ...

    async def find_identity(self, user_id: str) -> Identity | None:
        """A person as they are now, unless disabled."""
        ...


class SessionStore(Protocol):
    async def begin(self, make: Callable[[float], Family]) -> Family:
        """Keep a new family, made now. Bounded: a user's oldest ones, first those never used, make room."""
        ...

    async def rotate(self, handle: bytes, decide: Callable[[Family, float], tuple[T, Family]]) -> T | None:
        """Let `decide` say what becomes of the family with this handle; one caller at a time. None: there is none."""
        ...

    async def find_family(self, handle: bytes) -> Family | None: ...

    async def end(self, session_id: str) -> None:
        """Idempotent."""
        ...

    async def end_all(self, user_id: str) -> list[str]:
        """End a user's sessions, and say which they were."""
        ...


class CodeStore(Protocol):
    async def add_code(self, code: AuthorizationCode, *, lifetime_s: float) -> None: ...

    async def redeem(
        self, digest: bytes, accept: Callable[[AuthorizationCode, float], Family | None]
    ) -> Redeemed | UsedBefore | None:
        """Use a code up, whatever comes of it, and begin the family that `accept` makes. None: no such code, or late,
        or not accepted.
        """
        ...


class DeviceStore(Protocol):
    async def add_device(self, make: Callable[[float], Device], *, waiting_max: int) -> bool:
        """Whether there was room; False also for a user code that another device has."""
        ...

    async def poll(
        self, digest: bytes, decide: Callable[[Device, float], tuple[Reply, Device, Family | None]]
    ) -> tuple[Reply, Device] | None:
        """Let `decide` answer a poll, and begin the family that it makes. None: no such device."""
        ...

    async def find_device(self, user_code_digest: bytes) -> Device | None:
        """One that waits for an answer."""
        ...

    async def decide_device(
        self, user_code_digest: bytes, decide: Callable[[Device, float], Device | None]
    ) -> Device | None:
        """The device as it was decided; None if there was nothing to decide."""
        ...
