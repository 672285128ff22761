"""What the service serves, subject by subject, built from what all of them share. A part of the composition root."""

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from ollamesh.auth.v1.auth_service_pb2_grpc import add_AuthServiceServicer_to_server
from ollamesh.auth.v1.oauth_service_pb2_grpc import add_OAuthServiceServicer_to_server
from ollamesh.compat.envoy.v3.rls_pb2_grpc import add_RateLimitServiceServicer_to_server
from prometheus_client import CollectorRegistry

from services.auth.adapters.argon2_hasher import Argon2Hasher
from services.auth.adapters.common_passwords import common_passwords
from services.auth.adapters.es256 import Es256Locksmith
from services.auth.adapters.limits_counters import LimitsCounter, RedisCounter
from services.auth.adapters.oidc import HttpOpenIdProvider
from services.auth.adapters.postgres import PostgresStore, connected
from services.auth.adapters.postgres_api_keys import PostgresApiKeys
from services.auth.adapters.postgres_oauth import PostgresSessions
from services.auth.adapters.postgres_people import PostgresPeople
from services.auth.adapters.postgres_quotas import PostgresQuotas
from services.auth.adapters.postgres_revocations import CHANNEL as REVOCATIONS
from services.auth.adapters.postgres_revocations import PostgresRevocations, listen
from services.auth.adapters.postgres_secrets import PostgresSecrets
from services.auth.adapters.postgres_signing_keys import CHANNEL as SIGNING_KEYS
from services.auth.adapters.postgres_signing_keys import PostgresSigningKeys
from services.auth.adapters.postgres_tenants import PostgresTenants
from services.auth.adapters.seal import Seal
from services.auth.api_keys import ApiKeys
from services.auth.attempts import Attempts
from services.auth.audit import audit_log
from services.auth.config import Config
from services.auth.core.api_keys import KeyForm
from services.auth.core.client_secret import SecretDigest
from services.auth.core.request_digest import RequestDigest
from services.auth.ending import RevokedSessions
from services.auth.founding import founded, founders
from services.auth.key_checks import KeyChecks
from services.auth.key_metrics import keys_watched
from services.auth.key_swaps import Swaps
from services.auth.key_uses import KeyUses
from services.auth.keyring import Keyring
from services.auth.people import Passwords, People
from services.auth.quota_config import QuotaConfig
from services.auth.quota_metrics import QuotaMetrics
from services.auth.quotas import Quotas
from services.auth.rates import Rates
from services.auth.revocations import Revocations
from services.auth.rotation import Rotation
from services.auth.rpc.api_keys import ApiKeyMethods
from services.auth.rpc.audit import AuditMethods
from services.auth.rpc.ext_authz import ExtAuthz, passed
from services.auth.rpc.people import PeopleMethods
from services.auth.rpc.quotas import QuotaMethods
from services.auth.rpc.rate_limits import RateLimitServicer
from services.auth.rpc.revocations import RevocationMethods
from services.auth.rpc.secrets import SecretMethods
from services.auth.rpc.signing_keys import SigningKeyMethods
from services.auth.rpc.tenants import TenantMethods
from services.auth.sealing import Resealing
from services.auth.secrets import Secrets
from services.auth.servicer import AuthServicer
from services.auth.shared import Shared
from services.auth.telemetry import KeyMetrics
from services.auth.tenants import Tenants
from services.auth.wiring import OAuth, wired
from services.common.grpc.address import client_network
from services.common.grpc.caller import Verifier
from services.common.grpc.dpop import proven_key
from services.common.grpc.server import Server
from services.common.postgres_metrics import PostgresMetrics
from services.common.redis_metrics import RedisMetrics

Background = tuple[str, Callable[[], Awaitable[None]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What one serves, and what must run for it."""

    methods: Sequence[object] = ()
    background: Sequence[Background] = ()


async def shared_by_all(config: Config, registry: CollectorRegistry, opened: AsyncExitStack) -> Shared:
    """Reach for what is outside. None of it need be there yet."""
    stores = PostgresMetrics(registry)
    database = await opened.enter_async_context(connected(config.database_url, stores.pool("main")))
    store = PostgresStore(database)
    seal = Seal(config.encryption_keys)
    locksmith = Es256Locksmith(seal)
    return Shared(
        config=config,
        registry=registry,
        database=database,
        store=store,
        hasher=opened.enter_context(Argon2Hasher.started()),
        attempts=Attempts(clock=time.monotonic, where=client_network),
        seal=seal,
        locksmith=locksmith,
        digest=SecretDigest(config.secret_key),
        keyring=Keyring(store, locksmith, proven_key=proven_key),
        revocations=Revocations(PostgresRevocations(database)),
        audit=await opened.enter_async_context(
            audit_log(config.database_url, config.audit, seal, registry, stores.pool("audit"))
        ),
        provider=await opened.enter_async_context(HttpOpenIdProvider.connected(config.federation))
        if config.federation
        else None,
        rates_redis=await _rates_redis(config.quotas, registry, opened),
    )


async def _rates_redis(
    config: QuotaConfig, registry: CollectorRegistry, opened: AsyncExitStack
) -> RedisCounter | None:
    if config.redis_url is None:
        return None
    return await opened.enter_async_context(
        RedisCounter.opened(
            config.redis_url, timeout_s=config.redis_timeout_s, metrics=RedisMetrics(registry)
        )
    )


def serve_all(shared: Shared, server: Server, verifier: Verifier) -> list[Background]:
    """Have the server serve every subject; return what must run for them."""
    api_keys, key_checks = _api_keys(shared), _key_checks(shared)
    oauth = wired(shared, verifier, api_keys)
    subjects = [
        Subject(methods=[oauth.login, oauth.clients, oauth.mandates]),
        _keys(shared, verifier, oauth),
        Subject(methods=[ApiKeyMethods(api_keys)], background=[("key checks", key_checks.run)]),
        _quotas(shared, server),
        Subject(methods=[AuditMethods(shared.audit)]),
        _secrets(shared),
        _administration(shared),
    ]
    servicer = AuthServicer(*(methods for subject in subjects for methods in subject.methods))
    add_AuthServiceServicer_to_server(servicer, server.grpc)
    add_OAuthServiceServicer_to_server(oauth.servicer, server.grpc)
    server.grpc.add_generic_rpc_handlers((ExtAuthz(key_checks).handler(),))
    return [each for subject in subjects for each in subject.background]


async def _keep_keys(shared: Shared, rotation: Rotation) -> None:
    """Make what must exist before anybody can log in, then follow the keys."""
    made = await founders(
        shared.config, hasher=shared.hasher, digest=shared.digest, locksmith=shared.locksmith
    )
    await founded(shared.store, shared.keyring, shared.revocations, made)
    await rotation.follow()


def _keys(shared: Shared, verifier: Verifier, oauth: OAuth) -> Subject:
    """What signs tokens, and what takes them back."""
    config, revocations = shared.config, shared.revocations
    rotation = Rotation(
        PostgresSigningKeys(shared.database),
        shared.keyring,
        shared.locksmith,
        revocations,
        shared.trail,
        every_s=config.key_rotation_s,
        lead_s=config.key_lead_s,
    )
    keys_watched(shared.registry, shared.keyring, rotation_s=config.key_rotation_s)
    bells = {REVOCATIONS: revocations.ring, SIGNING_KEYS: rotation.ring}
    taken_back = RevocationMethods(
        revocations, verifier, shared.trail, logins=oauth.logins, people=oauth.people
    )
    return Subject(
        methods=[taken_back, SigningKeyMethods(rotation)],
        background=[
            ("keys", lambda: _keep_keys(shared, rotation)),
            ("revocations", revocations.follow),
            ("bells", lambda: listen(config.database_url, bells)),
        ],
    )


def _administration(shared: Shared) -> Subject:
    """Users, service accounts, organisations and projects."""
    passwords = Passwords(shared.hasher, common_passwords())
    sessions = RevokedSessions(shared.revocations, PostgresSessions(shared.database))
    people = People(
        store=PostgresPeople(shared.database),
        passwords=passwords,
        attempts=shared.attempts,
        sessions=sessions,
        trail=shared.trail,
    )
    tenants = Tenants(
        store=PostgresTenants(shared.database),
        passwords=passwords,
        digest=shared.digest,
        sessions=sessions,
        trail=shared.trail,
    )
    request_digest = RequestDigest(shared.config.secret_key)
    return Subject(methods=[PeopleMethods(people, request_digest), TenantMethods(tenants, request_digest)])


def _api_keys(shared: Shared) -> ApiKeys:
    return ApiKeys(
        store=PostgresApiKeys(shared.database),
        form=_key_form(shared.config),
        trail=shared.trail,
        revocations=shared.revocations,
    )


def _key_checks(shared: Shared) -> KeyChecks:
    """What the edge asks about keys."""
    store = PostgresApiKeys(shared.database)
    return KeyChecks(
        store=store,
        form=_key_form(shared.config),
        swaps=Swaps(
            shared.keyring,
            issuer=shared.config.issuer,
            passed=passed,
            issuable_from_s=shared.revocations.denied.issuable_from_s,
        ),
        uses=KeyUses(store, shared.trail, KeyMetrics(shared.registry)),
        denied=shared.revocations.denied,
    )


def _key_form(config: Config) -> KeyForm:
    return KeyForm(config.environment, config.secret_key)


def _secrets(shared: Shared) -> Subject:
    """And the keys that everything is sealed with."""
    store = PostgresSecrets(shared.database)
    resealing = Resealing(shared.seal, [store.reseal, shared.audit.reseal], shared.config.encryption_key_file)
    methods = SecretMethods(
        Secrets(store, shared.seal, shared.trail),
        resealing,
        RequestDigest(shared.config.secret_key),
        verifiers={name: shared.verifier(name) for name in ("auth", "agent", "inference", "sandbox")},
        any_verifier=shared.verifier("auth"),
    )
    return Subject(methods=[methods], background=[("sealing", resealing.run)])


def _quotas(shared: Shared, server: Server) -> Subject:
    config, metrics = shared.config.quotas, QuotaMetrics(shared.registry)
    ledger = PostgresQuotas(shared.database, config.defaults)
    quotas = Quotas(ledger, {"inference": shared.verifier("inference")}, shared.trail, metrics)
    background: list[Background] = [("quotas", quotas.run)]
    if (redis := shared.rates_redis) is not None:
        redis.changed = metrics.redis
        background.append(("rates", redis.run))
    metrics.redis(up=redis is not None)
    rates = Rates(ledger, redis, LimitsCounter.in_memory(), metrics, replica_count=config.replica_count)
    add_RateLimitServiceServicer_to_server(RateLimitServicer(rates), server.grpc)
    return Subject(methods=[QuotaMethods(quotas)], background=background)
