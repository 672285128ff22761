"""A mesh with registered clients behind the real edge, and what OAuth's tests do with it."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
import grpc.aio
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub

if TYPE_CHECKING:  # Known to type checkers only.
    from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceAsyncStub

from services.auth.core.client_secret import SecretDigest
from services.common.grpc.client import bearer
from services.common.tokens import Caller, verify
from tests.service import auth_app
from tests.service.auth_app import ADMIN_PASSWORD, CLIENT_SECRET, ISSUER, TIMEOUT_S, failure
from tests.service.edge_app import World, whole
from tests.stack import Database

SECRET = "a" * 40
REGISTERED = """
    INSERT INTO oauth_clients (client_id, organization_id, display_name, redirect_uris, grants, scopes, secret_digest,
                               first_party, in_browser, resource_server)
    VALUES ('web', 'default', 'Web', '{http://127.0.0.1:51234/callback}', '{authorization_code,refresh_token}',
            '{agent,inference}', NULL, true, true, NULL),
           ('broker', 'default', 'Broker', '{}', '{token_exchange}', '{agent,inference}', $1, false, false, NULL),
           ('watcher', 'default', 'Watcher', '{}', '{}', '{inference}', $1, false, false, 'inference')
"""
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


@dataclass(frozen=True, slots=True)
class Place:
    world: World
    database: Database

    @property
    def auth(self) -> "AuthServiceAsyncStub":
        return AuthServiceStub(self.world.stack.channel)

    async def login(self, **more: object) -> pb.Tokens:
        request = pb.LoginRequest(username="admin", password=ADMIN_PASSWORD, **more)  # type: ignore[arg-type]
        return (await self.auth.Login(request, timeout=TIMEOUT_S)).tokens

    async def refresh(self, token: str) -> pb.Tokens:
        request = pb.ExchangeTokenRequest(refresh=pb.ExchangeTokenRequest.Refresh(refresh_token=token))
        return (await self.auth.ExchangeToken(request, timeout=TIMEOUT_S)).tokens

    async def on_behalf_of(
        self, subject: str, *audience: str, client: str = "ollamesh", secret: str = CLIENT_SECRET
    ) -> pb.Tokens:
        actor = pb.ExchangeTokenRequest.ClientCredentials(client_id=client, client_secret=secret)
        wanted = pb.ExchangeTokenRequest.OnBehalfOf(actor=actor, subject_token=subject, audience=audience)
        request = pb.ExchangeTokenRequest(on_behalf_of=wanted)
        return (await self.auth.ExchangeToken(request, timeout=TIMEOUT_S)).tokens

    async def is_dead(self, token: str) -> bool:
        """Whether the auth service has been told that an access token is revoked."""
        try:
            await self.auth.GetCaller(pb.GetCallerRequest(), metadata=bearer(token), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return failure(error) == (UNAUTHENTICATED, "TOKEN_INVALID")
        return False

    async def read(self, token: str, audience: str) -> Caller:
        return verify(
            token, await self.world.auth.keys(), issuer=ISSUER, audience=audience, now_s=time.time()
        )

    async def execute(self, statement: str, *values: object) -> None:
        connection = await asyncpg.connect(self.database("auth"))
        await connection.execute("SET ollamesh.system = 'on'")
        await connection.execute(statement, *values)
        await connection.close()


@asynccontextmanager
async def place_of(database: Database, **more: str) -> AsyncIterator[Place]:
    """`more` is for the edge's environment."""
    async with whole(auth_app.config(database("auth")), **more) as world:
        found = Place(world, database)
        await found.execute(REGISTERED, SecretDigest("s" * 32).of(SECRET))
        yield found
