"""Secrets of organisations: written and listed by their admins, read by the services that each names, and never shown again.

Whether a secret is missing, another organisation's, or not for the service that asks: all of that is NOT_FOUND.
"""

from collections.abc import Sequence
from dataclasses import replace

import structlog
from cryptography.fernet import InvalidToken

from services.auth.adapters.postgres_secrets import PostgresSecrets, StoredSecret, TooMany
from services.auth.adapters.seal import Seal
from services.auth.changes import changing
from services.auth.core.people import Actor, Asked
from services.auth.core.secrets import COUNT_MAX, Binding, bound, unbound
from services.auth.errors import NotFound, SecretUnreadable, TooManySecrets
from services.auth.people_ports import Page, PageRequest
from services.common.audit import Action, Happened, Outcome, Trail
from services.common.errors import MeshError
from services.common.tokens import Caller

log = structlog.get_logger(__name__)


class Secrets:
    def __init__(
        self, store: PostgresSecrets, seal: Seal, trail: Trail, *, count_max: int = COUNT_MAX
    ) -> None:
        self._store, self._seal, self._trail, self._count_max = store, seal, trail, count_max

    async def put(
        self, actor: Actor, name: str, value: bytes, readers: Sequence[str], asked: Asked | None
    ) -> StoredSecret:
        """Raises TooManySecrets, RequestIdReused, AuditUnavailable, StoreFailure."""
        with changing(self._trail, actor, "put", f"secret/{name}", action=Action.SECRET_WRITTEN) as change:
            if asked and await self._store.remembered(actor, asked):
                known = await self._store.find(actor.organization_id, name)
                if known is not None:
                    return known
            await change.assure(readers=" ".join(sorted(readers)))

            def sealed_as(version: int) -> bytes:
                binding = Binding(
                    organization_id=actor.organization_id, name=name, version=version, readers=readers
                )
                return self._seal.encrypt(bound(binding, value))

            try:
                return await self._store.put(
                    actor, name, readers, sealed_as, asked=asked, count_max=self._count_max
                )
            except TooMany:
                raise TooManySecrets(count_max=self._count_max) from None

    async def get(self, whose: Caller, name: str, reader: str | None) -> bytes:
        """The value, for the service `reader`; None: inside is plain text, and services are not told apart.

        Raises NotFound, SecretUnreadable, StoreFailure.
        """
        event = Happened(
            action=Action.SECRET_READ,
            outcome=Outcome.ALLOWED,
            user_id=whose.user_id,
            organization_id=whose.organization_id,
            object=f"secret/{name}",
            details={"reader": reader or "unknown"},
        )
        try:
            value = await self._opened(whose.organization_id, name, reader)
        except MeshError as error:
            self._trail.note(replace(event, outcome=Outcome.DENIED, reason=error.reason))
            raise
        # Before the value leaves: an access that is nowhere recorded is none.
        await self._trail.assure(event)
        return value

    async def page(self, actor: Actor, request: PageRequest) -> Page[StoredSecret]:
        """Raises StoreFailure."""
        return await self._store.page(actor.organization_id, request)

    async def delete(self, actor: Actor, name: str) -> None:
        """Raises AuditUnavailable, StoreFailure. Idempotent."""
        with changing(
            self._trail, actor, "deleted", f"secret/{name}", action=Action.SECRET_WRITTEN
        ) as change:
            await change.assure()
            await self._store.delete(actor.organization_id, name)

    async def _opened(self, organization_id: str, name: str, reader: str | None) -> bytes:
        stored = await self._store.find(organization_id, name)
        if stored is None or (reader is not None and reader not in stored.readers):
            raise NotFound(kind="secret")
        binding = Binding(
            organization_id=organization_id, name=name, version=stored.version, readers=stored.readers
        )
        try:
            value = unbound(binding, self._seal.decrypt(stored.sealed_value))
        except InvalidToken:
            value = None
        if value is None:
            log.error(
                "secret_unreadable",
                organization_id=organization_id,
                name=name,
                mend="add its key to ENCRYPTION_KEY; or the row was changed",
            )
            raise SecretUnreadable
        return value
