"""The auth service's grants with everything around them in memory."""

import time

from cryptography.fernet import Fernet
from prometheus_client import CollectorRegistry

from services.auth.adapters.es256 import Es256Locksmith
from services.auth.attempts import Attempts
from services.auth.by_address import ByAddress
from services.auth.clients import Clients
from services.auth.codes import Codes
from services.auth.core.client_secret import SecretDigest
from services.auth.core.clients import ActsFor, Client, Grant
from services.auth.core.identity import SCOPES, Identity, Role, service_user_id
from services.auth.core.keys import first_term
from services.auth.core.refresh import RefreshDigest
from services.auth.devices import Devices
from services.auth.exchanging import Exchanges
from services.auth.grants import Grants
from services.auth.issuer import TokenIssuer
from services.auth.keyring import Keyring
from services.auth.logins import Logins
from services.auth.lookups import Lookups
from services.auth.ports import SealedKey, ServiceAccount, User
from services.auth.revocations import Revocations
from services.auth.telemetry import AuthMetrics
from services.auth.token_endpoint import TokenEndpoint
from services.common.grpc.caller import Verifier
from tests.fakes.auth_store import FakeStore
from tests.fakes.oauth_store import FakeOAuthStore, RecordedRevoker
from tests.fakes.revocation_store import FakeRevocationStore
from tests.fakes.trail import KeptTrail

SECRET, SECRET_KEY, ISSUER = "s" * 32, "k" * 32, "http://issuer"


class PlainHasher:
    """Hashes nothing, remembers what it was asked."""

    def __init__(self) -> None:
        self.checked: list[str | None] = []
        self.out_of_date = False

    async def hash(self, password: str) -> str:
        return f"new:{password}"

    async def matches(self, password_hash: str | None, password: str) -> bool:
        self.checked.append(password_hash)
        return password_hash is not None and password_hash.removeprefix("new:") == password

    def outdated(self, password_hash: str) -> bool:
        return self.out_of_date


class RecordedTrail(KeptTrail):
    def told(self) -> list[tuple[str, str, str]]:
        return [(event.action.name, event.outcome.name, event.reason) for event in self.events]


def identity(user_id: str, role: Role = Role.USER, *, client_id: str = "c") -> Identity:
    return Identity(user_id=user_id, role=role, organization_id="o", project_id="p", client_id=client_id)


def account(client_id: str, digest: SecretDigest, *, acts_for: ActsFor = ActsFor.ORGANIZATION) -> Client:
    return Client(
        client_id=client_id,
        display_name=client_id,
        organization_id="o",
        grants=frozenset({Grant.CLIENT_CREDENTIALS, Grant.TOKEN_EXCHANGE}),
        scopes=SCOPES,
        secret_digest=digest.of(SECRET),
        acts_for=acts_for,
        identity=identity(service_user_id(client_id), client_id=client_id),
    )


class Setup:
    """`ann` with the password `pw`, and the service account `svc`."""

    def __init__(self) -> None:
        locksmith, self.digest = Es256Locksmith((Fernet.generate_key().decode(),)), SecretDigest(SECRET_KEY)
        key_id, sealed = locksmith.make()
        self.store, self.hasher, self.registry = FakeStore(), PlainHasher(), CollectorRegistry()
        self.oauth, self.revoker, self.trail = FakeOAuthStore(), RecordedRevoker(), RecordedTrail()
        ann = identity("user:ann", client_id="login")
        self.store.users["ann"] = User(ann, "pw")
        self.oauth.people["user:ann"] = ann
        self.oauth.registered["svc"] = account("svc", self.digest)
        self.store.service_accounts["svc"] = ServiceAccount(
            identity(service_user_id("svc"), client_id="svc"), self.digest.of(SECRET)
        )
        self.store.keys.append(SealedKey(first_term(key_id), sealed))
        self.keyring = Keyring(self.store, locksmith)
        self.revocations = Revocations(FakeRevocationStore())
        self._put_together(AuthMetrics(self.registry))

    def _put_together(self, metrics: AuthMetrics) -> None:
        issuer, digest = (
            TokenIssuer(self.keyring, self.revocations, self.trail, issuer=ISSUER),
            RefreshDigest(SECRET_KEY),
        )
        self.clients = Clients(self.oauth, self.digest)
        self.verifier = Verifier(
            self.keyring.verification_keys,
            issuer=ISSUER,
            audience="auth",
            denied=self.revocations.denied,
        )
        self.logins = Logins(
            store=self.oauth,
            people=self.oauth,
            issuer=issuer,
            digest=digest,
            revoker=self.revoker,
            trail=self.trail,
        )
        self.grants = Grants(
            store=self.store,
            hasher=self.hasher,
            digest=self.digest,
            issuer=issuer,
            logins=self.logins,
            trail=self.trail,
            metrics=metrics,
            attempts=Attempts(clock=time.monotonic, where=lambda: None),
        )
        self.codes = Codes(store=self.oauth, people=self.oauth, logins=self.logins, digest=digest)
        self.devices = Devices(
            store=self.oauth,
            people=self.oauth,
            logins=self.logins,
            digest=digest,
            by_address=ByAddress(per_s=1, burst=1, clock=time.monotonic, where=lambda: None),
        )
        self.tokens = TokenEndpoint(
            clients=self.clients,
            grants=self.grants,
            logins=self.logins,
            codes=self.codes,
            devices=self.devices,
            exchanges=Exchanges(self.verifier, issuer),
            metrics=metrics,
        )
        self.lookups = Lookups(
            verifier=self.verifier, logins=self.logins, revoker=self.revoker, trail=self.trail
        )

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"ollamesh_auth_tokens_{name}_total", labels) or 0
