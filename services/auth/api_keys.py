"""API keys made, listed and ended. Whether one lets a request in is asked elsewhere: key_checks.py.

An administrative act is on the audit trail before it takes effect, so what works has its event. An event may name a
key that then could not be made; a second one says that it failed.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.auth.core.api_keys import (
    ALPHABET,
    ID_LENGTH,
    LIFETIME_S,
    SECRET_LENGTH,
    ApiKey,
    Asker,
    Kept,
    KeyForm,
    Wish,
    check_may_end,
    granted,
)
from services.auth.core.bucket import Bucket
from services.auth.core.identity import Role
from services.auth.errors import NotFound, RateLimited
from services.common.audit import Action, Happened, Outcome, Trail
from services.common.errors import MeshError
from services.common.revoked import Kind, Revocation

LEAKED_MAX = 20  # Keys in one report.
REPORTS_PER_S, REPORTS_BURST = 5.0, 20  # At each replica, from all the world.


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that its caller has named, so that it is done once."""

    request_id: str
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    key: ApiKey
    text: str = field(default="", repr=False)  # The whole key; empty if it was made before.


class ApiKeyStore(Protocol):
    """Keys. Every method raises StoreFailure when the store does not answer in time."""

    async def make(self, key: ApiKey, digest: bytes, request: Request | None) -> ApiKey:
        """Keep a key; return it, or the one that the same request made within 24 hours.

        Raises RequestIdReused, TooManyApiKeys, and NotFound for a project that is not there.
        """
        ...

    async def made_by(self, organization_id: str, user_id: str, request: Request) -> ApiKey | None:
        """What the same request made before. Raises RequestIdReused."""
        ...

    async def find(self, key_id: str) -> Kept | None: ...

    async def page(
        self, organization_id: str, user_id: str | None, *, before: tuple[float, str] | None, count: int
    ) -> Sequence[ApiKey]:
        """Keys of one user or of all, newest first, from after `before`, which is (created_at_s, key_id)."""
        ...

    async def end(self, key: ApiKey, revocation: Revocation) -> ApiKey:
        """Have the key let in nobody any more, and tell all replicas, at once or not at all. Raises NotFound."""
        ...

    async def used(self, times: Sequence[tuple[str, float]]) -> None:
        """Keep when keys were used last, if that is a minute later than what is known."""
        ...


class Revocations(Protocol):
    """What tells every replica and service (revocations.py)."""

    def entry(self, kind: Kind, id: str, /, *, owner: str = "") -> Revocation: ...  # noqa: A002 - theirs.


class ApiKeys:
    def __init__(
        self,
        *,
        store: ApiKeyStore,
        form: KeyForm,
        trail: Trail,
        revocations: Revocations,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._form, self._trail, self._clock = store, form, trail, clock
        self._revocations = revocations
        self._reports = Bucket(per_s=REPORTS_PER_S, burst=REPORTS_BURST)

    async def make(self, asker: Asker, wish: Wish, request: Request | None) -> Made:
        """Raises LoginRequired, RoleRequired, KeyScopeNotHeld, RequestIdReused, TooManyApiKeys, NotFound."""
        identity = granted(asker, wish)
        owner = identity.organization_id, identity.user_id
        if request and (known := await self._store.made_by(*owner, request)):
            return Made(key=known)
        now_s, key_id = self._clock(), _drawn(ID_LENGTH)
        text = self._form.written(key_id, _drawn(SECRET_LENGTH))
        presented = self._form.read(text)
        assert presented
        key = ApiKey(
            key_id=key_id,
            prefix=self._form.prefix(key_id),
            display_name=wish.display_name,
            user_id=identity.user_id,
            organization_id=identity.organization_id,
            project_id=identity.project_id,
            role=identity.role,
            scopes=identity.scopes,
            created_at_s=now_s,
            expires_at_s=now_s + (wish.lifetime_s or LIFETIME_S),
        )
        happened = _happened(Action.API_KEY_CREATED, asker, key)
        await self._trail.assure(happened)
        try:
            made = await self._store.make(key, presented.digest, request)
        except MeshError as error:
            self._trail.note(_happened(Action.API_KEY_CREATED, asker, key, failed=error))
            raise
        return Made(key=made, text=text if made.key_id == key_id else "")

    async def page(
        self, asker: Asker, *, before: tuple[float, str] | None, count: int
    ) -> tuple[Sequence[ApiKey], bool]:
        """One's own keys or, for an admin, the organisation's; and whether there are more."""
        identity = asker.identity
        user_id = None if identity.role is Role.ADMIN else identity.user_id
        found = await self._store.page(identity.organization_id, user_id, before=before, count=count + 1)
        return found[:count], len(found) > count

    async def end(self, asker: Asker, key_id: str) -> ApiKey:
        """Raises NotFound, LoginRequired."""
        kept = await self._store.find(key_id)
        if kept is None:
            raise NotFound(kind="api_key")
        check_may_end(asker, kept.key)
        if kept.key.revoked_at_s is not None:
            return kept.key
        await self._trail.assure(_happened(Action.API_KEY_REVOKED, asker, kept.key))
        return await self._end(kept.key)

    async def leaked(self, text: str) -> None:
        """End every key that is in `text` whole: whoever holds one may end it. Raises RateLimited."""
        if (wait_s := self._reports.take(self._clock())) is not None:
            raise RateLimited(retry_after_s=wait_s)
        for presented in self._form.found_in(text, count_max=LEAKED_MAX):
            kept = await self._store.find(presented.key_id)
            if kept is None or kept.key.revoked_at_s is not None or not presented.fits(kept):
                continue
            key = kept.key
            await self._trail.assure(
                Happened(
                    action=Action.API_KEY_REVOKED,
                    outcome=Outcome.ALLOWED,
                    organization_id=key.organization_id,
                    object=f"api_key/{key.key_id}",
                    details={"owner": key.user_id, "by": "leak report"},
                )
            )
            await self._end(key)

    async def _end(self, key: ApiKey) -> ApiKey:
        entry = self._revocations.entry(Kind.API_KEY, key.key_id, owner=key.user_id)
        return await self._store.end(key, entry)


def _drawn(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def _happened(action: Action, asker: Asker, key: ApiKey, *, failed: MeshError | None = None) -> Happened:
    return Happened(
        action=action,
        outcome=Outcome.FAILED if failed else Outcome.ALLOWED,
        user_id=asker.identity.user_id,
        organization_id=asker.identity.organization_id,
        object=f"api_key/{key.key_id}",
        reason=failed.reason if failed else "",
        details={"owner": key.user_id, "role": key.role.value, "scopes": " ".join(sorted(key.scopes))},
    )
