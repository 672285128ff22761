"""Checks of keys over a store in memory, with a clock that a test moves."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jwt
from prometheus_client import CollectorRegistry

from services.auth.core.api_keys import ID_LENGTH, SECRET_LENGTH, ApiKey, Kept, KeyForm, Owner
from services.auth.core.claims import Claims
from services.auth.core.identity import SCOPES, Role
from services.auth.key_checks import KeyChecks
from services.auth.key_swaps import Swaps
from services.auth.key_uses import KeyUses
from services.auth.telemetry import KeyMetrics
from services.common.errors import StoreUnavailable
from services.common.revoked import DenyList
from tests.fakes.api_key_store import FakeApiKeys
from tests.fakes.trail import KeptTrail

FORM = KeyForm("live", "s" * 32)
NOW_S = 1_800_000_000.5


class Signer:
    def __init__(self) -> None:
        self.claims: list[Claims] = []
        self.has_key = True

    def sign(self, claims: Claims) -> str:
        if not self.has_key:
            raise StoreUnavailable
        self.claims.append(claims)
        return jwt.encode(dict(claims), "k" * 32, headers={"kid": "one"})


@dataclass(slots=True)
class Clock:
    now_s: float = NOW_S

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s - NOW_S


class Rig:
    """Checks over a fake store, and a clock that a test moves."""

    def __init__(self) -> None:
        self.clock, self.store, self.signer = Clock(), FakeApiKeys(), Signer()
        self.trail, self.denied = KeptTrail(), DenyList()
        self.uses = KeyUses(self.store, self.trail, KeyMetrics(CollectorRegistry()), clock=self.clock)
        swaps = Swaps(
            self.signer,
            issuer="http://ollamesh",
            passed=lambda token, _service: token.encode(),
            issuable_from_s=self.denied.issuable_from_s,
            clock=self.clock,
        )
        self.checks = KeyChecks(
            store=self.store, form=FORM, swaps=swaps, uses=self.uses, denied=self.denied, clock=self.clock
        )

    def keep(self, number: int = 0, change: Mapping[str, object] | None = None) -> str:
        """A key that the store has; the text of it."""
        key_id = f"{number:0{ID_LENGTH}d}"
        text = FORM.written(key_id, "b" * SECRET_LENGTH)
        presented = FORM.read(text)
        assert presented
        key = ApiKey(
            key_id=key_id,
            prefix=FORM.prefix(key_id),
            display_name="mine",
            user_id="user:ann",
            organization_id="acme",
            project_id="lab",
            role=Role.ADMIN,
            scopes=SCOPES,
            created_at_s=NOW_S - 10,
            expires_at_s=NOW_S + 86_400,
        )
        changed: Any = {} if change is None else change
        owner = Owner(role=Role.USER)
        self.store.kept[key_id] = Kept(key=replace(key, **changed), digest=presented.digest, owner=owner)
        return text

    async def asked(self, text: str, service: str = "inference") -> dict[str, Any]:
        """What the token says with which the request goes on."""
        token = await self.checks.answer(text, service)
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False, "verify_aud": False})
        return claims

    async def settled(self) -> None:
        """Until nothing is being asked in the background."""
        for _ in range(10):
            await asyncio.sleep(0)
