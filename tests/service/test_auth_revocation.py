"""Revocation: two replicas of auth and two of a service, on a real PostgreSQL, and how long it takes everywhere."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import asyncpg
import grpc.aio
import pytest
import pytest_asyncio
from ollamesh.auth.v1 import auth_service_pb2 as pb

from services.auth.adapters.postgres import connected
from services.auth.adapters.postgres_revocations import PostgresRevocations, write
from services.auth.revocations import Revocations
from services.common.errors import AuthUnavailable, TokenInvalid
from services.common.grpc.caller import Verifier
from services.common.grpc.client import bearer
from services.common.grpc.keys import TrustConfig, trust
from services.common.inside import Inside
from services.common.postgres import Database as Pool
from services.common.revoked import Kind
from tests.fakes.identity import Identity
from tests.fakes.severable import Severable
from tests.service.auth_app import (
    ADMIN_PASSWORD,
    CLIENT_SECRET,
    ISSUER,
    TIMEOUT_S,
    Auth,
    config,
    failure,
    port_of,
    serving,
)
from tests.stack import Database

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timed]

EFFECTIVE_WITHIN_S = 1.0
LOGIN = pb.LoginRequest(username="admin", password=ADMIN_PASSWORD)
CLIENT = pb.ExchangeTokenRequest(
    client_credentials=pb.ExchangeTokenRequest.ClientCredentials(
        client_id="ollamesh", client_secret=CLIENT_SECRET
    )
)


@dataclass(slots=True)
class Mesh:
    auths: list[Auth]
    verifiers: list[Verifier]  # Of two replicas of a service; each follows another replica of auth.
    pool: Pool

    async def person(self) -> str:
        return (await self.auths[0].service.Login(LOGIN, timeout=TIMEOUT_S)).tokens.access_token

    async def service(self) -> str:
        return (await self.auths[0].service.ExchangeToken(CLIENT, timeout=TIMEOUT_S)).tokens.access_token

    async def good_everywhere(self, token: str) -> bool:
        return all([await self.is_good(number, token) for number in range(4)])

    async def is_good(self, number: int, token: str) -> bool:
        """Whether that replica lets it in: two of auth, then two of the service. Each remembers it from then on."""
        try:
            if number < 2:
                stub = self.auths[number].service
                await stub.GetCaller(pb.GetCallerRequest(), metadata=bearer(token), timeout=TIMEOUT_S)
            else:
                await self.verifiers[number - 2].verify(token)
        except (TokenInvalid, grpc.aio.AioRpcError):
            return False
        return True

    async def until_dead(self, token: str) -> float:
        """How long until no replica lets it in."""
        began_s = time.monotonic()
        async with asyncio.timeout(TIMEOUT_S):
            for number in range(4):
                while await self.is_good(number, token):
                    await asyncio.sleep(0.005)
        return time.monotonic() - began_s


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(module_database: Database) -> AsyncIterator[Mesh]:
    settings = config(module_database("auth"))
    async with AsyncExitStack() as opened:
        auths = [await opened.enter_async_context(serving(settings)) for _ in range(2)]
        trusts = [TrustConfig(issuer=ISSUER, auth_target=f"127.0.0.1:{auth.port}") for auth in auths]
        verifiers = [
            await opened.enter_async_context(
                trust(known, inside=Inside.plain("inference"), audience="inference")
            )
            for known in trusts
        ]
        pool = await opened.enter_async_context(connected(module_database("auth")))
        yield Mesh(auths, verifiers, pool)


async def test_a_token_that_is_given_back_is_dead_everywhere_within_a_second(mesh: Mesh) -> None:
    gone, kept = await mesh.person(), await mesh.person()
    assert await mesh.good_everywhere(gone)
    assert await mesh.good_everywhere(kept)
    request = pb.RevokeTokenRequest(token=gone)
    await mesh.auths[0].service.RevokeToken(request, metadata=bearer(kept), timeout=TIMEOUT_S)
    assert await mesh.until_dead(gone) <= EFFECTIVE_WITHIN_S
    assert await mesh.good_everywhere(kept)
    for _ in range(2):  # Again, and by itself: nothing is said of what it was.
        await mesh.auths[1].service.RevokeToken(request, metadata=bearer(kept), timeout=TIMEOUT_S)


@pytest.mark.parametrize("token", ["a.b.c", "x" * 8000 + "..", "..", "eyJhbGciOiJub25lIn0.e30."])
async def test_what_was_never_good_can_be_given_back(mesh: Mesh, token: str) -> None:
    by, request = bearer(await mesh.person()), pb.RevokeTokenRequest(token=token)
    await mesh.auths[0].service.RevokeToken(request, metadata=by, timeout=TIMEOUT_S)


async def test_another_ones_token_is_not_ones_own_to_give_back(mesh: Mesh) -> None:
    theirs, own = await mesh.person(), await mesh.service()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await mesh.auths[0].service.RevokeToken(
            pb.RevokeTokenRequest(token=theirs), metadata=bearer(own), timeout=TIMEOUT_S
        )
    assert failure(refused.value) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")
    assert await mesh.good_everywhere(theirs)
    await mesh.auths[0].service.RevokeToken(  # But an admin of the organisation may.
        pb.RevokeTokenRequest(token=own), metadata=bearer(theirs), timeout=TIMEOUT_S
    )
    assert await mesh.until_dead(own) <= EFFECTIVE_WITHIN_S


@pytest.mark.parametrize(("kind", "name"), [(Kind.USER, "user:admin"), (Kind.CLIENT, "login")])
async def test_whoever_lost_all_tokens_may_come_back_at_once(mesh: Mesh, kind: Kind, name: str) -> None:
    old, other = await mesh.person(), await mesh.service()
    assert await mesh.good_everywhere(old)
    revocations = Revocations(PostgresRevocations(mesh.pool))
    await revocations.revoke(kind, name)
    assert await mesh.until_dead(old) <= EFFECTIVE_WITHIN_S
    assert await mesh.good_everywhere(await mesh.person())
    assert await mesh.good_everywhere(other)


async def test_a_clock_that_was_set_back_leaves_no_token_out(mesh: Mesh) -> None:
    """The replica that revokes is 90 s behind: the store's own clock makes up for it (R13)."""
    token = await mesh.person()
    behind = Revocations(PostgresRevocations(mesh.pool), clock=lambda: time.time() - 90)
    await behind.revoke(Kind.USER, "user:admin")
    assert await mesh.until_dead(token) <= EFFECTIVE_WITHIN_S


async def test_a_revocation_is_a_part_of_the_transaction_that_makes_it(mesh: Mesh) -> None:
    token = await mesh.person()
    entry = Revocations(PostgresRevocations(mesh.pool)).entry(Kind.USER, "user:admin")
    async with mesh.pool.connection() as connection:
        undone = connection.transaction()
        await undone.start()
        await write(connection, entry)
        await undone.rollback()
    assert await mesh.good_everywhere(token)
    async with mesh.pool.transaction() as connection:
        await write(connection, entry)
    assert await mesh.until_dead(token) <= EFFECTIVE_WITHIN_S


async def test_transactions_that_end_in_another_order_are_all_read(mesh: Mesh) -> None:
    """The one that began first is written last: whoever read on by a sequence or a clock would miss it."""
    revocations = Revocations(PostgresRevocations(mesh.pool))
    slow, fast = await mesh.person(), await mesh.service()
    async with mesh.pool.transaction() as connection:
        await write(connection, revocations.entry(Kind.USER, "user:admin"))
        await revocations.revoke(Kind.USER, "service:ollamesh")
        assert await mesh.until_dead(fast) <= EFFECTIVE_WITHIN_S
        assert await mesh.good_everywhere(slow)
    assert await mesh.until_dead(slow) <= EFFECTIVE_WITHIN_S


async def test_a_new_replica_knows_what_was_revoked_before(mesh: Mesh, module_database: Database) -> None:
    token = await mesh.person()
    await Revocations(PostgresRevocations(mesh.pool)).revoke(Kind.USER, "user:admin")
    async with serving(config(module_database("auth"))) as late:
        trusted = TrustConfig(issuer=ISSUER, auth_target=f"127.0.0.1:{late.port}")
        async with trust(trusted, inside=Inside.plain("inference"), audience="inference") as verifier:
            with pytest.raises(TokenInvalid):
                await verifier.verify(token)


async def test_without_its_bell_a_replica_looks_by_itself(mesh: Mesh, module_database: Database) -> None:
    token = await mesh.person()
    admin = await asyncpg.connect(module_database.admin_dsn)
    try:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND query LIKE 'LISTEN%'",
            module_database.name,
        )
    finally:
        await admin.close()
    await Revocations(PostgresRevocations(mesh.pool)).revoke(Kind.USER, "user:admin")
    assert await mesh.until_dead(token) <= EFFECTIVE_WITHIN_S


async def test_a_service_keeps_what_it_was_told_while_auth_is_away(mesh: Mesh) -> None:
    async with Severable.to(mesh.auths[0].port) as cable:
        trusted = TrustConfig(issuer=ISSUER, auth_target=f"127.0.0.1:{cable.port}")
        async with trust(trusted, inside=Inside.plain("inference"), audience="inference") as verifier:
            dead, kept = await mesh.person(), await mesh.service()
            await verifier.verify(kept)
            await verifier.verify(dead)
            await Revocations(PostgresRevocations(mesh.pool)).revoke(Kind.USER, "user:admin")
            async with asyncio.timeout(TIMEOUT_S):
                while await _verifies(verifier, dead):
                    await asyncio.sleep(0.005)
            await cable.cut()
            assert not await _verifies(verifier, dead)
            assert await _verifies(verifier, kept)
            await Revocations(PostgresRevocations(mesh.pool)).revoke(Kind.CLIENT, "ollamesh")
            assert await _verifies(verifier, kept)  # Nobody could tell.
            await cable.mend()
            async with asyncio.timeout(TIMEOUT_S):
                while await _verifies(verifier, kept):
                    await asyncio.sleep(0.005)
            assert not await _verifies(verifier, dead)


async def test_a_service_that_has_heard_nothing_lets_nobody_in() -> None:
    trusted = TrustConfig(issuer=ISSUER, auth_target="127.0.0.1:1")
    async with trust(trusted, inside=Inside.plain("inference"), audience="inference") as verifier:
        with pytest.raises(AuthUnavailable):
            await verifier.verify(Identity().token())


async def test_nothing_is_revoked_while_the_store_is_away(database: Database) -> None:
    async with Severable.to(port_of(database("auth"))) as cable:
        dsn = database("auth").replace(f":{port_of(database('auth'))}/", f":{cable.port}/")
        async with serving(config(dsn)) as auth:
            token = (await auth.service.Login(LOGIN, timeout=TIMEOUT_S)).tokens.access_token
            await cable.cut()
            request = pb.RevokeTokenRequest(token=token)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await auth.service.RevokeToken(request, metadata=bearer(token), timeout=TIMEOUT_S)
            # Nobody revokes unrecorded, and without its store the trail cannot promise to record.
            assert failure(refused.value) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE")
            await auth.service.GetCaller(pb.GetCallerRequest(), metadata=bearer(token), timeout=TIMEOUT_S)
            await cable.mend()
            await _revoked_once_recordable(auth, request, token)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await auth.service.GetCaller(pb.GetCallerRequest(), metadata=bearer(token), timeout=TIMEOUT_S)
            assert failure(refused.value) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


async def _revoked_once_recordable(auth: Auth, request: pb.RevokeTokenRequest, token: str) -> None:
    """The trail tries its store again by and by."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                await auth.service.RevokeToken(request, metadata=bearer(token), timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                assert failure(error)[1] == "AUDIT_UNAVAILABLE"  # noqa: PT017 - Any other is a bug.
                await asyncio.sleep(0.1)
            else:
                return


async def _verifies(verifier: Verifier, token: str) -> bool:
    try:
        await verifier.verify(token)
    except TokenInvalid:
        return False
    return True
