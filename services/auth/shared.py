"""What several subjects of the service need. A part of the composition root."""

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from services.auth.adapters.limits_counters import RedisCounter
from services.auth.adapters.oidc import HttpOpenIdProvider
from services.auth.adapters.postgres import PostgresStore
from services.auth.adapters.seal import Seal
from services.auth.attempts import Attempts
from services.auth.audit import AuditLog
from services.auth.config import Config
from services.auth.core.client_secret import SecretDigest
from services.auth.keyring import Keyring
from services.auth.ports import Hasher, Locksmith
from services.auth.revocations import Revocations
from services.common.audit import Trail
from services.common.grpc.caller import Verifier
from services.common.postgres import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What several subjects need."""

    config: Config
    registry: CollectorRegistry
    database: Database
    store: PostgresStore
    hasher: Hasher
    attempts: Attempts
    seal: Seal
    locksmith: Locksmith
    digest: SecretDigest = field(repr=False)
    keyring: Keyring
    revocations: Revocations
    audit: AuditLog
    provider: HttpOpenIdProvider | None
    rates_redis: RedisCounter | None  # Where request rates are counted for all replicas.

    @property
    def trail(self) -> Trail:
        return self.audit.trail

    def verifier(self, audience: str) -> Verifier:
        """One that asks this service's own keyring and revocations."""
        return Verifier(
            self.keyring.verification_keys,
            issuer=self.config.issuer,
            audience=audience,
            denied=self.revocations.denied,
            refetch_after_s=0.0,
        )
