"""The store of API keys in memory, for those who only ask it; tests/service/ holds PostgreSQL to its promises."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from services.auth.api_keys import Request
from services.auth.core.api_keys import ApiKey, Kept
from services.auth.errors import NotFound
from services.common.errors import StoreUnavailable
from services.common.revoked import Revocation


class FakeApiKeys:
    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}
        self.down = False
        self.gate = asyncio.Event()  # What is asked waits for it.
        self.gate.set()
        self.asked: list[str] = []
        self.asking_max = 0
        self.times: list[tuple[str, float]] = []
        self._asking = 0

    async def find(self, key_id: str) -> Kept | None:
        self.asked.append(key_id)
        self._asking += 1
        kept = self.kept.get(key_id)  # As it is now, however long the answer takes.
        self.asking_max = max(self.asking_max, self._asking)
        try:
            await self.gate.wait()
        finally:
            self._asking -= 1
        if self.down:
            raise StoreUnavailable
        return kept

    async def used(self, times: Sequence[tuple[str, float]]) -> None:
        if self.down:
            raise StoreUnavailable
        self.times += times

    async def end(self, key: ApiKey, revocation: Revocation) -> ApiKey:
        kept = self.kept[key.key_id]
        self.kept[key.key_id] = replace(kept, key=replace(kept.key, revoked_at_s=revocation.forget_at_s))
        return self.kept[key.key_id].key

    async def make(self, key: ApiKey, digest: bytes, request: Request | None) -> ApiKey:
        raise NotFound(kind="project")

    async def made_by(self, organization_id: str, user_id: str, request: Request) -> ApiKey | None:
        return None

    async def page(
        self, organization_id: str, user_id: str | None, *, before: tuple[float, str] | None, count: int
    ) -> Sequence[ApiKey]:
        return []
