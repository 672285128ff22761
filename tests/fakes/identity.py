"""An identity for tests: a signing key, tokens as the auth service writes them, and a server of its keys.

    identity = Identity()
    async with identity.served() as target:   # OLLAMESH_AUTH_TARGET for the service under test
        metadata = bearer(identity.token(role="admin"))

What a strict reader must refuse is made by overriding claims or the header, or with another Identity's key.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from google.api.httpbody_pb2 import HttpBody
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.audit_pb2 import AuditEvent
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceServicer, add_AuthServiceServicer_to_server
from ollamesh.auth.v1.oauth_service_pb2 import GetJwksRequest
from ollamesh.auth.v1.oauth_service_pb2_grpc import (
    OAuthServiceServicer,
    add_OAuthServiceServicer_to_server,
)
from ollamesh.auth.v1.quota_pb2 import QuotaGrant

from services.auth.errors import GrantInvalid
from services.common.grpc.around import Context
from services.common.grpc.errors import CODES, DETAILS_KEY, status_of
from services.common.grpc.revocations import HEARTBEAT_EVERY_S, to_message
from services.common.policy import FOUNDING_ORGANIZATION
from services.common.revoked import Revocation

ISSUER = "http://ollamesh"
AUDIENCES = ("auth", "agent", "inference", "sandbox")


class Identity:
    """A key pair and what it signs."""

    def __init__(self, *, issuer: str = ISSUER, key_id: str = "test-key") -> None:
        self.issuer, self.key_id = issuer, key_id
        self.revoked: list[Revocation] = []  # Told within a heartbeat.
        self.audited: list[AuditEvent] = []  # What services told its audit trail,
        self.records = True  # as long as it takes it.
        self.mandates: dict[
            str, dict[str, object]
        ] = {}  # Those that work: claims of the tokens that they give.
        self.answers = True  # Whether it says anything about mandates.
        self._key = ec.generate_private_key(ec.SECP256R1())

    def token(
        self,
        *,
        role: str = "user",
        aud: Sequence[str] = AUDIENCES,
        org: str | None = None,
        project: str = "project-1",
        user_id: str = "user-1",
        client_id: str = "test",
        ttl_s: int = 300,
        claims: Mapping[str, object] | None = None,
        header: Mapping[str, object] | None = None,
    ) -> str:
        """Return a signed access token. Without `org`, an admin's is of the founding organisation.

        A negative `ttl_s` makes one that expired so long ago.
        """
        now_s = int(time.time())
        issued_s = now_s if ttl_s > 0 else now_s + ttl_s - 60
        usual = {
            "iss": self.issuer,
            "aud": list(aud),
            "sub": user_id,
            "user_id": user_id,
            "role": role,
            "org": org or (FOUNDING_ORGANIZATION if role == "admin" else "org-1"),
            "project": project,
            "scope": " ".join(aud),
            "client_id": client_id,
            "iat": issued_s,
            "nbf": issued_s,
            "exp": now_s + ttl_s,
            "jti": str(uuid.uuid4()),
        }
        return jwt.encode(
            {**usual, **(claims or {})},
            self._key,
            algorithm="ES256",
            headers={"typ": "at+jwt", "kid": self.key_id, **(header or {})},
        )

    def mandated(self, subject_token: str, scopes: Sequence[str]) -> str:
        """Return a mandate, as the agent gets one for a token."""
        claims = jwt.decode(subject_token, options={"verify_signature": False})
        mandate = f"omm_{uuid.uuid4().hex}"
        kept = ("sub", "user_id", "role", "org", "project", "client_id", "sid", "api_key")
        self.mandates[mandate] = {name: claims[name] for name in kept if name in claims} | {
            "aud": sorted(scopes),
            "scope": " ".join(sorted(scopes)),
            "act": {"sub": "service:agent"},
        }
        return mandate

    def jwks(self) -> bytes:
        """Return the public key as a JWK set (RFC 7517)."""
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key()))
        return json.dumps({"keys": [{**public, "kid": self.key_id, "use": "sig", "alg": "ES256"}]}).encode()

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """Serve the keys as the auth service does, and yield the address."""
        server = grpc.aio.server()
        add_OAuthServiceServicer_to_server(KeysServicer(self.jwks()), server)
        add_AuthServiceServicer_to_server(AskedOfAuth(self), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)


class KeysServicer(OAuthServiceServicer):
    def __init__(self, document: bytes) -> None:
        self._document = document

    async def GetJwks(self, request: GetJwksRequest, context: Context) -> HttpBody:
        return HttpBody(content_type="application/jwk-set+json", data=self._document)


class AskedOfAuth(AuthServiceServicer):
    """What services ask of the auth service."""

    def __init__(self, identity: Identity) -> None:
        self._identity, self._revoked = identity, identity.revoked

    async def RecordAuditEvents(
        self, request: pb.RecordAuditEventsRequest, context: Context
    ) -> pb.RecordAuditEventsResponse:
        if not self._identity.records:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the store is away")
        self._identity.audited += request.events
        return pb.RecordAuditEventsResponse(last_sequence=len(self._identity.audited))

    async def CreateMandate(
        self, request: pb.CreateMandateRequest, context: Context
    ) -> pb.CreateMandateResponse:
        await self._answering(context)
        mandate = self._identity.mandated(request.subject_token, request.scopes)
        response = pb.CreateMandateResponse(mandate=mandate)
        response.expire_time.FromSeconds(int(time.time()) + request.lifetime.seconds)
        return response

    async def RedeemMandate(
        self, request: pb.RedeemMandateRequest, context: Context
    ) -> pb.RedeemMandateResponse:
        await self._answering(context)
        claims = self._identity.mandates.get(request.mandate)
        if claims is None:
            error = GrantInvalid()
            details = ((DETAILS_KEY, status_of(error, "auth.ollamesh").SerializeToString()),)
            await context.abort(CODES[error.kind], str(error), details)
        token = self._identity.token(claims=claims)
        response = pb.RedeemMandateResponse(access_token=token)
        response.expire_time.FromSeconds(int(time.time()) + 300)
        return response

    async def EndMandate(self, request: pb.EndMandateRequest, context: Context) -> pb.EndMandateResponse:
        await self._answering(context)
        self._identity.mandates.pop(request.mandate, None)
        return pb.EndMandateResponse()

    async def _answering(self, context: Context) -> None:
        if not self._identity.answers:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the store is away")

    async def ReserveQuota(
        self, request: pb.ReserveQuotaRequest, context: Context
    ) -> pb.ReserveQuotaResponse:
        return pb.ReserveQuotaResponse(grant=QuotaGrant())  # There are no limits.

    async def SettleQuota(self, request: pb.SettleQuotaRequest, context: Context) -> pb.SettleQuotaResponse:
        return pb.SettleQuotaResponse(grant=QuotaGrant())

    async def WatchRevocations(
        self, request: pb.WatchRevocationsRequest, context: Context
    ) -> AsyncIterator[pb.WatchRevocationsResponse]:
        told_count = len(self._revoked)
        known = map(to_message, self._revoked[:told_count])
        yield pb.WatchRevocationsResponse(snapshot=pb.RevocationSnapshot(revocations=known, complete=True))
        while True:
            await asyncio.sleep(HEARTBEAT_EVERY_S)
            new = self._revoked[told_count:]
            told_count += len(new)
            if new:
                yield pb.WatchRevocationsResponse(
                    changes=pb.RevocationChanges(revocations=map(to_message, new))
                )
            else:
                yield pb.WatchRevocationsResponse(heartbeat=pb.RevocationHeartbeat())
