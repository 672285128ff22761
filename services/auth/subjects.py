"""What the service serves, subject by subject, built from what all of them share. A part of the composition root."""

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from services.auth.adapters.common_passwords import common_passwords
from services.auth.adapters.postgres_api_keys import PostgresApiKeys
from services.auth.adapters.postgres_people import PostgresPeople
from services.auth.adapters.postgres_quotas import PostgresQuotas
from services.auth.adapters.postgres_tenants import PostgresTenants
from services.auth.api_keys import ApiKeys
from services.auth.attempts import Attempts
from services.auth.config import Config
from services.auth.core.api_keys import KeyDigest
from services.auth.core.client_secret import SecretDigest
from services.auth.core.request_digest import RequestDigest
from services.auth.ending import ExpiringSessions
from services.auth.keyring import Keyring
from services.auth.people import Passwords, People
from services.auth.ports import Hasher
from services.auth.quota_metrics import QuotaMetrics
from services.auth.quotas import Quotas
from services.auth.rpc.people import PeopleMethods
from services.auth.rpc.tenants import TenantMethods
from services.auth.tenants import Tenants
from services.common.audit import Trail
from services.common.grpc.caller import Verifier
from services.common.postgres import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What several subjects need."""

    config: Config
    database: Database
    registry: CollectorRegistry
    hasher: Hasher
    attempts: Attempts
    digest: SecretDigest = field(repr=False)
    trail: Trail


def administration(shared: Shared) -> tuple[object, ...]:
    """Users, service accounts, organisations and projects."""
    passwords, sessions = Passwords(shared.hasher, common_passwords()), ExpiringSessions()
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
    return PeopleMethods(people, request_digest), TenantMethods(tenants, request_digest)


def api_keys_of(shared: Shared) -> ApiKeys:
    return ApiKeys(
        store=PostgresApiKeys(shared.database),
        digest=KeyDigest(shared.config.secret_key),
        trail=shared.trail,
        environment=shared.config.environment,
    )


def quotas_of(shared: Shared, keyring: Keyring) -> Quotas:
    issuer = shared.config.issuer
    subjects = {"inference": Verifier(keyring.verification_keys, issuer=issuer, audience="inference")}
    ledger = PostgresQuotas(shared.database, shared.config.quotas.defaults)
    return Quotas(ledger, subjects, shared.trail, QuotaMetrics(shared.registry))
