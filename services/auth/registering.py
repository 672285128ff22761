"""Registering programs that people log in to, by the admins of their organisation."""

import secrets
from dataclasses import replace

from services.auth.changes import changing
from services.auth.core.client_secret import SecretDigest
from services.auth.core.clients import BUILT_IN, ActsFor, Client, Grant, is_redirect_uri
from services.auth.core.people import Actor, check_grants
from services.auth.ending import Revoker
from services.auth.errors import NameTaken, NotFound
from services.auth.people_ports import Page, PageRequest
from services.auth.ports_oauth import ClientStore
from services.common.audit import Trail
from services.common.errors import InvalidRequest, Violation
from services.common.revoked import Kind

SECRET_BYTES = 32


class Registering:
    def __init__(self, store: ClientStore, digest: SecretDigest, revoker: Revoker, trail: Trail) -> None:
        self._store, self._digest, self._revoker, self._trail = store, digest, revoker, trail

    async def register(self, actor: Actor, wanted: Client, *, confidential: bool) -> tuple[Client, str]:
        """The client and its secret, which is empty for a public one.

        Raises InvalidRequest, RoleRequired, NameTaken, AuditUnavailable.
        """
        with changing(self._trail, actor, "created", f"oauth_client/{wanted.client_id}") as change:
            check_grants(actor, wanted.role_max)
            if broken := _broken(wanted, confidential=confidential):
                raise InvalidRequest(broken)
            secret = secrets.token_urlsafe(SECRET_BYTES) if confidential else ""
            client = replace(
                wanted,
                organization_id=actor.organization_id,
                secret_digest=self._digest.of(secret) if confidential else None,
                acts_for=ActsFor.ORGANIZATION if Grant.TOKEN_EXCHANGE in wanted.grants else ActsFor.NOBODY,
            )
            await change.assure(scopes=" ".join(sorted(client.scopes)), role=client.role_max.value)
            if client.client_id in BUILT_IN or not await self._store.add_client(client):
                raise NameTaken
        return client, secret

    async def registered(self, actor: Actor, request: PageRequest) -> Page[Client]:
        return await self._store.clients(actor.organization_id, request)

    async def disable(self, actor: Actor, client_id: str) -> None:
        """Raises NotFound, AuditUnavailable."""
        with changing(self._trail, actor, "disabled", f"oauth_client/{client_id}") as change:
            known = await self._store.find_client(client_id)
            if known is None or known.organization_id != actor.organization_id or known.identity is not None:
                raise NotFound(kind="oauth_client")
            await change.assure()
            if not await self._store.disable_client(client_id, actor.organization_id):
                raise NotFound(kind="oauth_client")  # Another admin was quicker.
            await self._revoker.revoke(Kind.CLIENT, client_id)


def _broken(wanted: Client, *, confidential: bool) -> list[Violation]:
    """Every rule of clients that the request breaks, beside those in its proto."""
    broken = [
        Violation(
            f"redirect_uris[{at}]", "must be https, http on 127.0.0.1 or ::1, or an app's own scheme", "uri"
        )
        for at, uri in enumerate(wanted.redirect_uris)
        if not is_redirect_uri(uri)
    ]
    if (Grant.AUTHORIZATION_CODE in wanted.grants) != bool(wanted.redirect_uris):
        broken.append(Violation("redirect_uris", "belong to the grant authorization_code", "grant"))
    if not wanted.grants and wanted.resource_server is None:
        broken.append(Violation("grants", "a client that is no resource server needs one", "grant"))
    needs_secret = Grant.TOKEN_EXCHANGE in wanted.grants or wanted.resource_server is not None
    if needs_secret and not confidential:
        broken.append(Violation("confidential", "is needed to act for users and to introspect", "secret"))
    if wanted.in_browser and confidential:
        broken.append(Violation("confidential", "nothing is secret in a browser", "secret"))
    return broken
