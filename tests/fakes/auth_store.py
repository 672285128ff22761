"""The auth service's store in memory; tests/contract/test_auth_store.py holds it to PostgreSQL's behaviour."""

from collections.abc import Sequence
from dataclasses import replace

from services.auth.ports import Founders, SealedKey, ServiceAccount, User
from services.common.errors import StoreUnavailable


class FakeStore:
    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.service_accounts: dict[str, ServiceAccount] = {}
        self.keys: list[SealedKey] = []
        self.disabled: set[str] = set()  # User ids.
        self.down = False
        self.asked_count = 0

    async def found(self, founders: Founders) -> None:
        self._asked()
        self.users.setdefault(founders.username, founders.admin)
        self.service_accounts.setdefault(founders.service.identity.client_id, founders.service)
        if not self.keys:
            self.keys.append(founders.key)

    async def find_user(self, username: str) -> User | None:
        self._asked()
        user = self.users.get(username)
        return None if user is None or user.identity.user_id in self.disabled else user

    async def find_service_account(self, client_id: str) -> ServiceAccount | None:
        self._asked()
        account = self.service_accounts.get(client_id)
        return None if account is None or account.identity.user_id in self.disabled else account

    async def replace_password_hash(self, user_id: str, *, old: str, new: str) -> None:
        self._asked()
        for name, user in self.users.items():
            if user.identity.user_id == user_id and user.password_hash == old:
                self.users[name] = replace(user, password_hash=new)

    async def signing_keys(self) -> Sequence[SealedKey]:
        self._asked()
        return sorted(self.keys, key=lambda key: (key.term.active_from_s, key.term.key_id))

    async def answers(self) -> bool:
        return not self.down

    def _asked(self) -> None:
        self.asked_count += 1
        if self.down:
            raise StoreUnavailable
