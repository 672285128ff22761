"""Revocation over gRPC; decides nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from ollamesh.auth.v1 import auth_service_pb2 as pb

from services.auth.core.refresh import PREFIX
from services.auth.errors import WatchEnded
from services.auth.logins import Logins
from services.auth.ports_oauth import ClientStore
from services.auth.revocations import Revocations
from services.common.audit import Action, Happened, Outcome, Trail
from services.common.errors import RoleRequired, TokenExpired, TokenInvalid
from services.common.grpc.around import Context
from services.common.grpc.caller import Verifier, caller
from services.common.grpc.revocations import HEARTBEAT_EVERY_S, to_message
from services.common.revoked import Kind, Revocation
from services.common.tokens import Role

PART_COUNT = 1000  # Entries in a message.


@dataclass(frozen=True, slots=True)
class _Meant:
    kind: Kind
    id: str
    user_id: str
    organization_id: str


class RevocationMethods:
    def __init__(
        self,
        revocations: Revocations,
        verifier: Verifier,
        trail: Trail,
        *,
        logins: Logins,
        people: ClientStore,
    ) -> None:
        self._revocations, self._verifier, self._trail = revocations, verifier, trail
        self._logins, self._people = logins, people

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Context) -> pb.RevokeTokenResponse:
        meant = await self._meant(request.token)
        if meant is None:
            return pb.RevokeTokenResponse()  # It was useless before.
        by = caller()
        is_own = meant.user_id == by.user_id
        if not is_own and (by.role is not Role.ADMIN or by.organization_id != meant.organization_id):
            raise RoleRequired(role=Role.ADMIN.value)
        await self._trail.assure(
            Happened(
                action=Action.TOKEN_REVOKED,
                outcome=Outcome.ALLOWED,
                user_id=by.user_id,
                organization_id=by.organization_id,
                object=f"{meant.kind.value}/{meant.id}",
                details={"owner": meant.user_id},
            )
        )
        if meant.kind is Kind.SESSION:
            await self._logins.end(meant.id, user_id=meant.user_id, reason="REVOKED")
        else:
            await self._revocations.revoke(meant.kind, meant.id, owner=meant.user_id)
        return pb.RevokeTokenResponse()

    async def _meant(self, token: str) -> _Meant | None:
        """What a token stands for: itself, or the whole login that it renews. None: nothing, or nothing any more."""
        if token.startswith(PREFIX):
            family = await self._logins.belongs(token)
            owner = await self._people.find_identity(family.user_id) if family else None
            if family is None or owner is None:
                return None
            return _Meant(Kind.SESSION, family.session_id, owner.user_id, owner.organization_id)
        try:
            found = await self._verifier.verify_any(token)
        except (TokenInvalid, TokenExpired):
            return None
        return _Meant(Kind.TOKEN, found.token_id, found.user_id, found.organization_id)

    async def WatchRevocations(
        self, request: pb.WatchRevocationsRequest, context: Context
    ) -> AsyncIterator[pb.WatchRevocationsResponse]:
        with self._revocations.watched() as (known, watcher):
            for part in _parts(known):
                yield pb.WatchRevocationsResponse(
                    snapshot=pb.RevocationSnapshot(revocations=map(to_message, part))
                )
            yield pb.WatchRevocationsResponse(snapshot=pb.RevocationSnapshot(complete=True))
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_EVERY_S):
                        await watcher.stirred.wait()
                if watcher.lost:
                    raise WatchEnded
                changes = watcher.take()
                for part in _parts(changes):
                    yield pb.WatchRevocationsResponse(
                        changes=pb.RevocationChanges(revocations=map(to_message, part))
                    )
                if not changes:
                    yield pb.WatchRevocationsResponse(heartbeat=self._heartbeat())

    def _heartbeat(self) -> pb.RevocationHeartbeat:
        age = Duration()
        age.FromMilliseconds(round(min(self._revocations.age_s, 1e6) * 1000))
        return pb.RevocationHeartbeat(age=age)


def _parts(entries: Sequence[Revocation]) -> list[Sequence[Revocation]]:
    return [entries[at : at + PART_COUNT] for at in range(0, len(entries), PART_COUNT)]
