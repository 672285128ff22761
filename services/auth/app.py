"""Composition root: the only module that knows every concrete class."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from ollamesh.auth.v1.auth_service_pb2_grpc import add_AuthServiceServicer_to_server
from ollamesh.auth.v1.oauth_service_pb2_grpc import add_OAuthServiceServicer_to_server
from prometheus_client import CollectorRegistry

from services.auth.adapters.argon2_hasher import Argon2Hasher
from services.auth.adapters.es256 import Es256Locksmith
from services.auth.adapters.postgres import PostgresStore, connected
from services.auth.attempts import Attempts
from services.auth.config import Config
from services.auth.core.client_secret import SecretDigest
from services.auth.founding import founded, founders
from services.auth.grants import Grants
from services.auth.keyring import Keyring
from services.auth.rpc.api_keys import ApiKeyMethods
from services.auth.rpc.login import LoginMethods
from services.auth.rpc.oauth import OAuthServicer
from services.auth.rpc.quotas import QuotaMethods
from services.auth.servicer import AuthServicer
from services.auth.subjects import Shared, administration, api_keys_of, quotas_of
from services.auth.telemetry import AuthMetrics
from services.common.audit import LoggedTrail
from services.common.grpc.address import addressed, client_network
from services.common.grpc.caller import Verifier, authentication, deadline
from services.common.grpc.errors import errors
from services.common.grpc.server import Server
from services.common.loop_lag import loop_watched
from services.common.telemetry import RpcMetrics, serve_metrics, telemetry

SERVICES = ("ollamesh.auth.v1.AuthService", "ollamesh.auth.v1.OAuthService")


async def run(
    config: Config, stop: asyncio.Event, *, started: Callable[[int], None] = lambda _: None
) -> None:
    """Serve until `stop`. `started` is told the port."""
    registry = CollectorRegistry()
    async with AsyncExitStack() as opened:  # Closed in reverse, after the tasks that use them.
        database = await opened.enter_async_context(connected(config.database_url))
        store = PostgresStore(database)
        hasher = opened.enter_context(Argon2Hasher.started())
        locksmith, digest = Es256Locksmith(config.encryption_keys), SecretDigest(config.secret_key)
        keyring = Keyring(store, locksmith)
        attempts = Attempts(clock=time.monotonic, where=client_network)
        grants = Grants(
            store=store,
            hasher=hasher,
            digest=digest,
            keyring=keyring,
            issuer=config.issuer,
            metrics=AuthMetrics(registry),
            attempts=attempts,
        )
        shared = Shared(
            config=config,
            database=database,
            registry=registry,
            hasher=hasher,
            attempts=attempts,
            digest=digest,
            trail=LoggedTrail(),
        )
        api_keys = api_keys_of(shared)
        quotas = quotas_of(shared, keyring)
        servicer = AuthServicer(
            LoginMethods(grants), ApiKeyMethods(api_keys), QuotaMethods(quotas), *administration(shared)
        )
        verifier = Verifier(keyring.verification_keys, issuer=config.issuer, audience="auth")

        server = Server(
            config.server,
            [telemetry(RpcMetrics(registry)), errors("auth.ollamesh")],
            [deadline(), addressed(), authentication(verifier)],
        )
        add_AuthServiceServicer_to_server(servicer, server.grpc)
        add_OAuthServiceServicer_to_server(
            OAuthServicer(grants, keyring, api_keys, issuer=config.issuer), server.grpc
        )
        opened.enter_context(loop_watched(registry))
        serve_metrics(registry, bind=config.server.bind, port=config.server.metrics_port)

        async def keep_keys() -> None:
            made = await founders(config, hasher=hasher, digest=digest, locksmith=locksmith)
            await founded(store, keyring, made)
            await keyring.follow()

        async def ready() -> bool:
            return keyring.usable and await store.answers()

        async with asyncio.TaskGroup() as tasks:  # A bug in any of these ends the process.
            background = [
                tasks.create_task(keep_keys(), name="keys"),
                tasks.create_task(quotas.run(), name="quotas"),
            ]
            await server.serve(stop, services=SERVICES, ready=ready, started=started)
            for task in background:
                task.cancel()
