"""Tokens that are bound to a key (A18), through a real edge: good for who holds the key, and for nobody else."""

import hashlib
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub

from services.common.dpop import thumbprint_of
from services.common.grpc.client import bearer
from tests.service import auth_app
from tests.service.auth_app import ADMIN_PASSWORD, CLIENT_SECRET, TIMEOUT_S, failure
from tests.service.edge_app import World, whole
from tests.stack import Database
from tests.unit.test_tokens import encoded, signed

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVICE = "/ollamesh.auth.v1.AuthService"
LOGIN = pb.LoginRequest(username="admin", password=ADMIN_PASSWORD)


class Holder:
    """A caller with a key."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.jwk: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)

    def proof(self, path: str, *, token: str | None = None, **claims: Any) -> tuple[tuple[str, str], ...]:
        """Metadata that proves it for one call."""
        said = {"jti": uuid.uuid4().hex, "htm": "POST", "htu": f"https://mesh{path}", "iat": int(time.time())}
        if token is not None:
            said["ath"] = encoded(hashlib.sha256(token.encode()).digest())
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk}
        return (("dpop", signed(header, said | claims, self.key)),)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_database: Database) -> AsyncIterator[World]:
    async with whole(auth_app.config(module_database("auth"))) as found:
        yield found


async def bound(world: World, holder: Holder) -> str:
    metadata = holder.proof(f"{SERVICE}/Login")
    stub = AuthServiceStub(world.stack.channel)
    return (await stub.Login(LOGIN, metadata=metadata, timeout=TIMEOUT_S)).tokens.access_token


async def calls(world: World, token: str, *metadata: tuple[str, str]) -> None:
    stub = AuthServiceStub(world.stack.channel)
    await stub.GetCaller(pb.GetCallerRequest(), metadata=(*bearer(token), *metadata), timeout=TIMEOUT_S)


async def test_a_bound_token_is_good_with_a_proof_each_time_and_never_without(world: World) -> None:
    holder, thief, path = Holder(), Holder(), f"{SERVICE}/GetCaller"
    token = await bound(world, holder)
    said = jwt.decode(token, options={"verify_signature": False})
    assert said["cnf"] == {"jkt": thumbprint_of(holder.jwk)}
    for _ in range(2):
        await calls(world, token, *holder.proof(path, token=token))
    used = holder.proof(path, token=token)
    await calls(world, token, *used)
    other = await bound(world, holder)
    for name, metadata in {
        "none": (),
        "one that was used": used,
        "a thief's own": thief.proof(path, token=token),
        "for another call": holder.proof(f"{SERVICE}/ListApiKeys", token=token),
        "for another token": holder.proof(path, token=other),
        "for no token": holder.proof(path),
        "an old one": holder.proof(path, token=token, iat=int(time.time()) - 200),
        "two": (*holder.proof(path, token=token), *holder.proof(path, token=token)),
        "nonsense": (("dpop", "x"),),
    }.items():
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await calls(world, token, *metadata)
        assert failure(refused.value) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"), name


async def test_a_token_that_is_not_bound_needs_no_proof(world: World) -> None:
    stub = AuthServiceStub(world.stack.channel)
    token = (await stub.Login(LOGIN, timeout=TIMEOUT_S)).tokens.access_token
    await calls(world, token)
    await calls(world, token, *Holder().proof(f"{SERVICE}/GetCaller", token=token))


async def test_a_bad_proof_gets_no_token(world: World) -> None:
    stub = AuthServiceStub(world.stack.channel)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Login(LOGIN, metadata=Holder().proof(f"{SERVICE}/GetCaller"), timeout=TIMEOUT_S)
    assert failure(refused.value) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


async def test_a_client_binds_its_token_over_http_too(world: World) -> None:
    holder = Holder()
    form = {"grant_type": "client_credentials", "client_id": "ollamesh", "client_secret": CLIENT_SECRET}
    headers = dict(holder.proof("/oauth/token"))
    async with world.stack.http.post(f"{world.stack.url}/oauth/token", data=form, headers=headers) as answer:
        token = (await answer.json())["access_token"]
    with pytest.raises(grpc.aio.AioRpcError):
        await calls(world, token)
    await calls(world, token, *holder.proof(f"{SERVICE}/GetCaller", token=token))
    async with world.stack.http.post(f"{world.stack.url}/oauth/token", data=form) as answer:
        await calls(world, (await answer.json())["access_token"])
