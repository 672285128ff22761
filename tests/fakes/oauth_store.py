"""OAuth's stores in memory; tests/contract/test_oauth_store.py holds them to PostgreSQL's behaviour."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from services.auth.adapters.postgres_families import FAMILIES_MAX
from services.auth.core.clients import Client
from services.auth.core.codes import AuthorizationCode
from services.auth.core.device import Device, Reply, State
from services.auth.core.identity import Identity
from services.auth.core.refresh import Family, ended
from services.auth.people_ports import Page, PageRequest
from services.auth.ports_oauth import Redeemed, UsedBefore
from services.common.revoked import Kind

T = TypeVar("T")


@dataclass(slots=True)
class _Code:
    code: AuthorizationCode
    expires_at_s: float
    used: bool = False
    session_id: str | None = None


@dataclass(slots=True)
class FakeOAuthStore:
    """All four stores. `now_s` is the store's own clock."""

    now_s: Callable[[], float] = time.time
    registered: dict[str, Client] = field(default_factory=dict)
    people: dict[str, Identity] = field(default_factory=dict)
    families: dict[str, Family] = field(default_factory=dict)  # By session.
    codes: dict[bytes, _Code] = field(default_factory=dict)
    devices: dict[bytes, Device] = field(default_factory=dict)

    async def find_client(self, client_id: str) -> Client | None:
        return self.registered.get(client_id)

    async def add_client(self, client: Client) -> bool:
        return self.registered.setdefault(client.client_id, client) is client

    async def clients(self, organization_id: str, request: PageRequest) -> Page[Client]:
        found = [client for client in self.registered.values() if client.organization_id == organization_id]
        names = sorted(client.client_id for client in found if client.identity is None)
        names = [name for name in names if name > request.after]
        page = [self.registered[name] for name in names[: request.size]]
        return Page(page, page[-1].client_id if len(names) > request.size else "")

    async def disable_client(self, client_id: str, organization_id: str) -> bool:
        client = self.registered.get(client_id)
        if client is None or client.organization_id != organization_id or client.identity is not None:
            return False
        del self.registered[client_id]
        for family in [family for family in self.families.values() if family.client_id == client_id]:
            self.families[family.session_id] = ended(family)
        return True

    async def find_identity(self, user_id: str) -> Identity | None:
        return self.people.get(user_id)

    async def begin(self, make: Callable[[float], Family]) -> Family:
        family = make(self.now_s())
        self._begin(family)
        return family

    def _begin(self, family: Family) -> None:
        own = [known for known in self.families.values() if known.user_id == family.user_id]
        now_s = self.now_s()

        def worth(known: Family) -> tuple[bool, bool]:
            return (not known.revoked and known.expires_at_s > now_s, known.generation > 1)

        own.reverse()  # Sorting keeps the order of equals: the newest first.
        newest_first = sorted(own, key=worth, reverse=True)
        for known in newest_first[FAMILIES_MAX - 1 :]:
            del self.families[known.session_id]
        self.families[family.session_id] = family

    async def rotate(self, handle: bytes, decide: Callable[[Family, float], tuple[T, Family]]) -> T | None:
        known = await self.find_family(handle)
        if known is None:
            return None
        result, family = decide(known, self.now_s())
        self.families[family.session_id] = family
        return result

    async def find_family(self, handle: bytes) -> Family | None:
        return next((family for family in self.families.values() if family.handle == handle), None)

    async def end(self, session_id: str) -> None:
        if session_id in self.families:
            self.families[session_id] = ended(self.families[session_id])

    async def end_all(self, user_id: str) -> list[str]:
        now_s = self.now_s()
        live = [
            family.session_id
            for family in self.families.values()
            if family.user_id == user_id and not family.revoked and family.expires_at_s > now_s
        ]
        for session_id in live:
            await self.end(session_id)
        return live

    async def add_code(self, code: AuthorizationCode, *, lifetime_s: float) -> None:
        self.codes[code.digest] = _Code(code, self.now_s() + lifetime_s)

    async def redeem(
        self, digest: bytes, accept: Callable[[AuthorizationCode, float], Family | None]
    ) -> Redeemed | UsedBefore | None:
        kept = self.codes.get(digest)
        if kept is None:
            return None
        if kept.used:
            await self.end(kept.session_id or "")
            return UsedBefore(kept.session_id)
        kept.used = True
        family = None if kept.expires_at_s <= self.now_s() else accept(kept.code, self.now_s())
        if family is None:
            return None
        self._begin(family)
        kept.session_id = family.session_id
        return Redeemed(kept.code)

    async def add_device(self, make: Callable[[float], Device], *, waiting_max: int) -> bool:
        device, now_s = make(self.now_s()), self.now_s()
        same = [known for known in self.devices.values() if known.client_id == device.client_id]
        taken = any(known.user_code_digest == device.user_code_digest for known in self.devices.values())
        if taken or sum(known.expires_at_s > now_s for known in same) >= waiting_max:
            return False
        self.devices[device.digest] = device
        return True

    async def poll(
        self, digest: bytes, decide: Callable[[Device, float], tuple[Reply, Device, Family | None]]
    ) -> tuple[Reply, Device] | None:
        if digest not in self.devices:
            return None
        reply, device, family = decide(self.devices[digest], self.now_s())
        self.devices[digest] = device
        if family is not None:
            self._begin(family)
        return reply, device

    async def find_device(self, user_code_digest: bytes) -> Device | None:
        now_s = self.now_s()
        for device in self.devices.values():
            if device.user_code_digest == user_code_digest and device.state is State.PENDING:
                return device if device.expires_at_s > now_s else None
        return None

    async def decide_device(
        self, user_code_digest: bytes, decide: Callable[[Device, float], Device | None]
    ) -> Device | None:
        known = await self.find_device(user_code_digest)
        device = decide(known, self.now_s()) if known else None
        if device is not None:
            self.devices[device.digest] = replace(device)
        return device


@dataclass(slots=True)
class RecordedRevoker:
    revoked: list[tuple[Kind, str]] = field(default_factory=list)

    async def revoke(self, kind: Kind, id: str, *, owner: str = "") -> None:  # noqa: A002 - The list's own name.
        self.revoked.append((kind, id))
