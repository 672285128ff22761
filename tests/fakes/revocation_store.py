"""Revocations in memory, as services/auth/adapters/postgres_revocations.py keeps them."""

from services.auth.revocations import Read
from services.common.errors import StoreUnavailable
from services.common.revoked import Kind, Revocation


class FakeRevocationStore:
    def __init__(self) -> None:
        self.entries: dict[tuple[Kind, str], Revocation] = {}
        self.down = False

    async def write(self, entry: Revocation) -> Revocation:
        self._asked()
        key = (entry.kind, entry.id)
        self.entries[key] = entry.merged(self.entries.get(key))
        return self.entries[key]

    async def read(self, since: str) -> Read:
        self._asked()
        return Read(list(self.entries.values()), since)

    async def forget(self) -> None:
        self._asked()

    def _asked(self) -> None:
        if self.down:
            raise StoreUnavailable
