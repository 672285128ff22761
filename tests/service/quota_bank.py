"""The ledger of budgets as the auth service serves it, for tokens that a test signs itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
from ollamesh.auth.v1.auth_service_pb2_grpc import add_AuthServiceServicer_to_server
from ollamesh.auth.v1.oauth_service_pb2_grpc import add_OAuthServiceServicer_to_server
from prometheus_client import CollectorRegistry

from deploy.local.ports import free_ports
from services.auth.adapters.postgres import connected
from services.auth.adapters.postgres_quotas import PostgresQuotas
from services.auth.core.quotas import Amount, Kind, Limits, Subject
from services.auth.quota_metrics import QuotaMetrics
from services.auth.quotas import Quotas
from services.auth.rpc.quotas import QuotaMethods
from services.auth.servicer import AuthServicer
from services.common.grpc.around import Interceptor
from services.common.grpc.caller import Keys, Verifier
from services.common.grpc.errors import errors
from services.common.grpc.keys import parse_keys
from tests.fakes.identity import ISSUER, AskedOfAuth, Identity, KeysServicer
from tests.fakes.trail import KeptTrail

ORG, PROJECT = "org-1", "project-1"
ORG_SUBJECT = Subject(Kind.ORGANIZATION, ORG, ORG)
PROJECT_SUBJECT = Subject(Kind.PROJECT, ORG, PROJECT)


def key_subject(key_id: str) -> Subject:
    return Subject(Kind.API_KEY, ORG, key_id)


class Banker(Identity):
    """An identity that keeps budgets too. `stop` and `start` have it go away and come back, in its place."""

    def __init__(self, database_url: str) -> None:
        super().__init__()
        self._database_url = database_url
        self._port = free_ports(1)[0]
        self._server: grpc.aio.Server | None = None
        self.ledger: PostgresQuotas

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        if self._server is not None:  # For a second replica.
            yield f"127.0.0.1:{self._port}"
            return
        async with connected(self._database_url) as database:
            self.ledger = PostgresQuotas(database, {})
            await self.start()
            try:
                yield f"127.0.0.1:{self._port}"
            finally:
                await self.stop()

    async def start(self) -> None:
        async def keys() -> Keys:
            return parse_keys(self.jwks())

        payers = {"inference": Verifier(keys, issuer=ISSUER, audience="inference")}
        quotas = Quotas(self.ledger, payers, KeptTrail(), QuotaMetrics(CollectorRegistry()))
        server = grpc.aio.server(interceptors=[Interceptor([errors("auth.ollamesh")])])
        add_OAuthServiceServicer_to_server(KeysServicer(self.jwks()), server)
        methods = QuotaMethods(quotas), AskedOfAuth(self)
        add_AuthServiceServicer_to_server(AuthServicer(*methods), server)
        server.add_insecure_port(f"127.0.0.1:{self._port}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)

    async def limit(self, subject: Subject = PROJECT_SUBJECT, **limits: float) -> None:
        await self.ledger.set_limits(subject, Limits(**limits))  # type: ignore[arg-type]

    async def used(self, subject: Subject = PROJECT_SUBJECT) -> Amount:
        return (await self.ledger.book(subject))[0].used
