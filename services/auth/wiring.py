"""OAuth's parts, put together: a piece of the composition root in app.py."""

import time
from dataclasses import dataclass

from services.auth.adapters.postgres_codes import PostgresCodes, PostgresDevices
from services.auth.adapters.postgres_federated import PostgresFederatedUsers
from services.auth.adapters.postgres_mandates import PostgresMandates
from services.auth.adapters.postgres_oauth import PostgresClients, PostgresSessions
from services.auth.api_keys import ApiKeys
from services.auth.by_address import ByAddress
from services.auth.clients import Clients
from services.auth.codes import Codes
from services.auth.core.device import BEGUN_BURST, BEGUN_PER_S
from services.auth.core.identity import GOES_ON_TO
from services.auth.core.mandates import MandateDigest
from services.auth.core.refresh import RefreshDigest
from services.auth.core.tickets import Tickets
from services.auth.devices import Devices
from services.auth.ending import RevokedSessions
from services.auth.exchanging import Exchanges
from services.auth.federation import Federation
from services.auth.grants import Grants
from services.auth.issuer import TokenIssuer
from services.auth.logins import Logins
from services.auth.lookups import Lookups
from services.auth.mandates import Mandates
from services.auth.registering import Registering
from services.auth.rpc.clients import ClientMethods
from services.auth.rpc.login import LoginMethods
from services.auth.rpc.mandates import MandateMethods
from services.auth.rpc.oauth import OAuthServicer
from services.auth.rpc.pages import Pages
from services.auth.shared import Shared
from services.auth.telemetry import AuthMetrics, MandateMetrics
from services.auth.token_endpoint import TokenEndpoint
from services.common.grpc.address import client_network
from services.common.grpc.caller import Verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth:
    people: PostgresClients
    clients: ClientMethods
    logins: Logins
    login: LoginMethods
    mandates: MandateMethods
    servicer: OAuthServicer


def wired(shared: Shared, verifier: Verifier, api_keys: ApiKeys) -> OAuth:
    """`verifier` is the service's own: it also reads tokens that are for other services."""
    people, digest = PostgresClients(shared.database), RefreshDigest(shared.config.secret_key)
    metrics, clients = AuthMetrics(shared.registry), Clients(people, shared.digest)
    issuer = TokenIssuer(shared.keyring, shared.revocations, shared.trail, issuer=shared.config.issuer)
    logins = Logins(
        store=PostgresSessions(shared.database),
        people=people,
        issuer=issuer,
        digest=digest,
        revoker=shared.revocations,
        trail=shared.trail,
    )
    grants = Grants(
        store=shared.store,
        hasher=shared.hasher,
        digest=shared.digest,
        issuer=issuer,
        logins=logins,
        trail=shared.trail,
        metrics=metrics,
        attempts=shared.attempts,
    )
    codes = Codes(store=PostgresCodes(shared.database), people=people, logins=logins, digest=digest)
    devices = _devices(shared, people, logins, digest)
    tokens = TokenEndpoint(
        clients=clients,
        grants=grants,
        logins=logins,
        codes=codes,
        devices=devices,
        exchanges=Exchanges(verifier, issuer),
        metrics=metrics,
    )
    pages = Pages(
        issuer=shared.config.issuer,
        sign_in=grants,
        clients=clients,
        people=people,
        codes=codes,
        devices=devices,
        tickets=Tickets(shared.config.secret_key),
        federation=_federation(shared),
        has_lost=lambda user_id, since_s: issuer.has_lost(user_id, "", since_s=since_s),
    )
    servicer = OAuthServicer(
        issuer=shared.config.issuer,
        keyring=shared.keyring,
        clients=clients,
        tokens=tokens,
        devices=devices,
        lookups=Lookups(verifier=verifier, logins=logins, revoker=shared.revocations, trail=shared.trail),
        pages=pages,
        api_keys=api_keys,
    )
    login = LoginMethods(grants=grants, logins=logins, tokens=tokens)
    registering = Registering(people, shared.digest, shared.revocations, shared.trail)
    return OAuth(
        people=people,
        clients=ClientMethods(registering),
        logins=logins,
        login=login,
        mandates=_mandates(shared, issuer, metrics),
        servicer=servicer,
    )


def _devices(shared: Shared, people: PostgresClients, logins: Logins, digest: RefreshDigest) -> Devices:
    by_address = ByAddress(per_s=BEGUN_PER_S, burst=BEGUN_BURST, clock=time.monotonic, where=client_network)
    store = PostgresDevices(shared.database)
    return Devices(store=store, people=people, logins=logins, digest=digest, by_address=by_address)


def _mandates(shared: Shared, issuer: TokenIssuer, metrics: AuthMetrics) -> MandateMethods:
    mandates = Mandates(
        store=PostgresMandates(shared.database),
        digest=MandateDigest(shared.config.secret_key),
        issuer=issuer,
        trail=shared.trail,
        grants=metrics,
        metrics=MandateMetrics(shared.registry),
    )
    return MandateMethods(mandates, {holder: shared.verifier(holder) for holder in GOES_ON_TO})


def _federation(shared: Shared) -> Federation | None:
    if shared.config.federation is None or shared.provider is None:
        return None
    return Federation(
        config=shared.config.federation,
        secret_key=shared.config.secret_key,
        provider=shared.provider,
        users=PostgresFederatedUsers(shared.database),
        sessions=RevokedSessions(shared.revocations, PostgresSessions(shared.database)),
        trail=shared.trail,
    )
