"""Signing keys at a real edge: followed under load, taken away, and kept while nobody publishes them (A6, R13, R16)."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
import grpc.aio
import pytest
from cryptography.fernet import Fernet
from ollamesh.auth.v1 import auth_service_pb2 as pb

from services.auth.adapters.es256 import Es256Locksmith
from services.auth.ports import SigningKey
from services.common.errors import TokenExpired, TokenInvalid
from services.common.grpc.caller import Verifier
from services.common.grpc.client import bearer
from services.common.grpc.keys import TrustConfig, trust
from services.common.inside import Inside
from services.common.tokens import key_id_of
from tests.fakes.severable import Severable
from tests.service import auth_app
from tests.service.auth_app import ADMIN_PASSWORD, CLIENT_SECRET, ISSUER, TIMEOUT_S, Auth, config, failure
from tests.service.edge_app import (
    GET_FLEET,
    Stack,
    replica,
    serving,
    settings,
    stat,
    until_keys_are_known,
)
from tests.stack import Database

# As short as it may be: what Envoy does not look for, and a little for looking.
KEYS_EVERY_S = 5.0  # deploy/envoy/tokens.py
LEAD_S = KEYS_EVERY_S + 1.5
CALLS_PER_S = 100
FETCHED = "http.public.jwt_authn.jwks_fetch_success"
LOGIN = pb.LoginRequest(username="admin", password=ADMIN_PASSWORD)
CLIENT = pb.ExchangeTokenRequest(
    client_credentials=pb.ExchangeTokenRequest.ClientCredentials(
        client_id="ollamesh", client_secret=CLIENT_SECRET
    )
)
ENCRYPTION_KEY = Fernet.generate_key().decode()


@dataclass(slots=True)
class Place:
    """Auth behind a cable, Envoy, a service that only echoes, and the verifier that each service has."""

    auth: Auth
    cable: Severable
    stack: Stack
    verifier: Verifier

    async def token(self) -> str:
        return (await self.auth.service.ExchangeToken(CLIENT, timeout=TIMEOUT_S)).tokens.access_token

    async def admin(self) -> Any:
        return bearer((await self.auth.service.Login(LOGIN, timeout=TIMEOUT_S)).tokens.access_token)

    async def passes(self, token: str) -> None:
        """Through the edge and, as it does in a service, through the verifier. Raises when either refuses."""
        await self.stack.unary(GET_FLEET)(b"x", metadata=bearer(token), timeout=TIMEOUT_S)
        await self.verifier.verify(token)

    async def rotate(self, **wanted: Any) -> pb.RotateSigningKeyResponse:
        request = pb.RotateSigningKeyRequest(**wanted)
        return await self.auth.service.RotateSigningKey(
            request, metadata=await self.admin(), timeout=TIMEOUT_S
        )


@asynccontextmanager
async def placed(database: Database) -> AsyncIterator[Place]:
    own = replace(config(database("auth"), encryption_key=ENCRYPTION_KEY), key_lead_s=LEAD_S)
    async with auth_app.serving(own) as auth, Severable.to(auth.port) as cable, replica() as service:
        trusted = TrustConfig(issuer=ISSUER, auth_target=f"127.0.0.1:{cable.port}")
        ports = {"inference": (service.port,)}
        async with (
            serving(settings(cable.port, ports)) as stack,
            trust(trusted, inside=Inside.plain("inference"), audience="inference") as verifier,
        ):
            place = Place(auth, cable, stack, verifier)
            await until_keys_are_known(stack, GET_FLEET, await place.token())
            yield place


async def test_keys_follow_each_other_under_load_and_nobody_is_refused(database: Database) -> None:
    """Each call has a token that was signed just now: so each rotation is met by tokens of both keys."""
    async with placed(database) as place:
        signers: Counter[str] = Counter()
        refused: list[str] = []
        stop = asyncio.Event()

        async def caller() -> None:
            while not stop.is_set():
                token = await place.token()
                signers[key_id_of(token)] += 1
                for _ in range(5):
                    try:
                        await place.passes(token)
                    except (grpc.aio.AioRpcError, TokenInvalid) as error:
                        refused.append(f"{key_id_of(token)}: {error}")
                    await asyncio.sleep(4 / CALLS_PER_S)

        old = await place.token()
        async with asyncio.TaskGroup() as tasks:
            callers = [tasks.create_task(caller()) for _ in range(4)]
            for _ in range(2):
                made = await place.rotate()
                again = await place.rotate()  # While one is pending, it is the one.
                assert again.key_id == made.key_id
                async with asyncio.timeout(LEAD_S + TIMEOUT_S):
                    while not signers[made.key_id]:
                        await asyncio.sleep(0.05)
                await asyncio.sleep(0)
            stop.set()
            await asyncio.gather(*callers)
        assert refused == []
        assert len(signers) == 3
        assert sum(signers.values()) * 5 >= 2 * LEAD_S * CALLS_PER_S / 4
        await place.passes(old)  # What the first key signed is good for as long as it said.


@pytest.mark.timed
async def test_a_key_that_is_taken_away_opens_nothing_any_more(database: Database) -> None:
    """Envoy lets a token pass that it remembers, whatever becomes of its key: so it is the services who must know."""
    async with placed(database) as place:
        stolen, unseen, admin = await place.token(), await place.token(), await place.admin()
        await place.passes(stolen)
        made = await place.auth.service.RotateSigningKey(
            pb.RotateSigningKeyRequest(emergency=True), metadata=admin, timeout=TIMEOUT_S
        )
        began_s = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError):  # Auth itself, at once; also for whoever asked for it.
            await place.auth.service.GetCaller(pb.GetCallerRequest(), metadata=admin, timeout=TIMEOUT_S)
        assert set(await place.auth.keys()) == {made.key_id}
        async with asyncio.timeout(TIMEOUT_S):
            while await _verifies(place.verifier, stolen):
                await asyncio.sleep(0.01)
        assert time.monotonic() - began_s <= 1.0
        assert not await _verifies(place.verifier, unseen)
        fresh = await place.token()
        assert key_id_of(fresh) == made.key_id
        async with asyncio.timeout(TIMEOUT_S):
            while not await _verifies(place.verifier, fresh):
                await asyncio.sleep(0.01)
            while await _refused_at_the_edge(place, fresh):
                await asyncio.sleep(0.05)
        assert time.monotonic() - began_s <= KEYS_EVERY_S + 1.0
        assert await _refused_at_the_edge(place, unseen)
        await place.passes(fresh)


async def test_nobody_else_can_put_a_key_back(database: Database) -> None:
    """A token that the removed key signs later is as dead as one from before."""
    async with placed(database) as place:
        key = await _key(database)
        await place.rotate(emergency=True)
        await asyncio.sleep(1)
        now_s = int(time.time())
        forged = key.sign(_claims(iat=now_s + 5, nbf=now_s, exp=now_s + 300))
        with pytest.raises(TokenInvalid):
            await place.verifier.verify(forged)


async def test_valid_tokens_work_while_nobody_publishes_the_keys(database: Database) -> None:
    """For far longer than Envoy's own cache lasts, also for a token that nobody has seen before (R16)."""
    async with placed(database) as place:
        seen, unseen = await place.token(), await place.token()
        await place.passes(seen)
        # What a request had Envoy fetch, it drops after that time; what it fetches by itself, it keeps.
        fetched = await stat(place.stack, FETCHED)
        async with asyncio.timeout(KEYS_EVERY_S + TIMEOUT_S):
            while await stat(place.stack, FETCHED) < fetched + 2:
                await asyncio.sleep(0.1)
        await place.cable.cut()
        began_s = time.monotonic()
        refused = []
        while time.monotonic() - began_s < 3 * KEYS_EVERY_S:
            try:
                await place.passes(seen)
            except (grpc.aio.AioRpcError, TokenInvalid) as error:
                refused.append(error)
            await asyncio.sleep(0.1)
        await place.passes(unseen)
        assert refused == []
        await place.cable.mend()
        await place.passes(await place.token())


async def test_clocks_may_differ_a_little_and_no_more(database: Database) -> None:
    """R13, at the edge and in a service."""
    async with placed(database) as place:
        for off_s in (-25, 0, 25):
            await place.passes(await _signed_by_a_clock_that_is_off(database, off_s))
        for off_s, reason in ((90, "TOKEN_INVALID"), (-90, "TOKEN_EXPIRED")):
            token = await _signed_by_a_clock_that_is_off(database, off_s)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await place.stack.unary(GET_FLEET)(b"x", metadata=bearer(token), timeout=TIMEOUT_S)
            assert failure(refused.value) == (grpc.StatusCode.UNAUTHENTICATED, reason)
            with pytest.raises((TokenInvalid, TokenExpired)):
                await place.verifier.verify(token)


async def test_only_an_admin_of_the_founders_rotates_and_once_for_each_request(database: Database) -> None:
    async with placed(database) as place:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await place.auth.service.RotateSigningKey(
                pb.RotateSigningKeyRequest(), metadata=bearer(await place.token()), timeout=TIMEOUT_S
            )
        assert failure(refused.value) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")
        first = await place.rotate(request_id="r1")
        assert await place.rotate(request_id="r1") == first
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await place.rotate(request_id="r1", emergency=True)
        assert failure(refused.value) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        urgent = await place.rotate(request_id="r2", emergency=True)
        assert urgent.key_id != first.key_id
        assert await place.rotate(request_id="r2", emergency=True) == urgent
        assert set(await place.auth.keys()) == {urgent.key_id}


@pytest.mark.timed
async def test_replicas_learn_at_once_what_another_did_to_the_keys(database: Database) -> None:
    own = config(database("auth"), encryption_key=ENCRYPTION_KEY)
    async with auth_app.serving(own) as one, auth_app.serving(own) as other:
        admin = bearer((await one.service.Login(LOGIN, timeout=TIMEOUT_S)).tokens.access_token)
        request = pb.RotateSigningKeyRequest(emergency=True)
        made = await one.service.RotateSigningKey(request, metadata=admin, timeout=TIMEOUT_S)
        async with asyncio.timeout(2.0):
            while set(await other.keys()) != {made.key_id}:
                await asyncio.sleep(0.01)
        token = (await other.service.ExchangeToken(CLIENT, timeout=TIMEOUT_S)).tokens.access_token
        assert key_id_of(token) == made.key_id
        admin = bearer((await one.service.Login(LOGIN, timeout=TIMEOUT_S)).tokens.access_token)
        planned = pb.RotateSigningKeyRequest()
        calls = [
            auth.service.RotateSigningKey(planned, metadata=admin, timeout=TIMEOUT_S) for auth in (one, other)
        ]
        first, second = [await call for call in calls]
        assert first.key_id == second.key_id


async def _verifies(verifier: Verifier, token: str) -> bool:
    try:
        await verifier.verify(token)
    except TokenInvalid:
        return False
    return True


async def _refused_at_the_edge(place: Place, token: str) -> bool:
    call = place.stack.unary(GET_FLEET)(b"x", metadata=bearer(token), timeout=TIMEOUT_S)
    code = await call.code()
    assert code in {grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED}
    return code is not grpc.StatusCode.OK


async def _signed_by_a_clock_that_is_off(database: Database, off_s: int) -> str:
    """A token whose whole life is `off_s` away, but for the end of one that has expired."""
    key, now_s = await _key(database), int(time.time())
    if off_s < 0:  # Behind: what expires now by that clock did so before.
        return key.sign(_claims(iat=now_s + off_s - 60, nbf=now_s + off_s - 60, exp=now_s + off_s + 1))
    return key.sign(_claims(iat=now_s + off_s, nbf=now_s + off_s, exp=now_s + off_s + 60))


async def _key(database: Database) -> SigningKey:
    """The auth service's own, to sign what it never would."""
    connection = await asyncpg.connect(database("auth"))
    row = await connection.fetchrow("SELECT key_id, sealed_key FROM signing_keys")
    await connection.close()
    assert row is not None
    key = Es256Locksmith((ENCRYPTION_KEY,)).open(row["key_id"], row["sealed_key"])
    assert key is not None
    return key


def _claims(*, iat: int, nbf: int, exp: int) -> dict[str, Any]:
    who = {"sub": "user:ann", "user_id": "user:ann", "client_id": "login", "role": "user"}
    where = {"org": "default", "project": "default", "aud": ["inference"], "scope": "inference"}
    return {
        "iss": ISSUER,
        **who,
        **where,
        "iat": iat,
        "nbf": nbf,
        "exp": exp,
        "jti": f"j{time.monotonic_ns()}",
    }
