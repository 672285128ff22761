"""Logins and token exchange: who gets which token, and what everybody else is told."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.identity_pb2 import ROLE_ADMIN, ROLE_UNSPECIFIED, ROLE_USER, Role

from services.common.grpc.client import bearer
from services.common.tokens import Caller, verify
from tests.service.auth_app import (
    ADMIN_PASSWORD,
    CLIENT_SECRET,
    ISSUER,
    TIMEOUT_S,
    Auth,
    config,
    failure,
    info,
    retry_after_s,
    serving,
)
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auth(module_database: Database) -> AsyncIterator[Auth]:
    async with serving(config(module_database("auth"))) as running:
        await _add_users(module_database)
        yield running


async def _add_users(database: Database) -> None:
    """A user `ann` and a disabled one, `bob`, both with the admin's password."""
    connection = await asyncpg.connect(database.system("auth"))
    try:
        for name, disabled in (("ann", None), ("bob", "now()")):
            await connection.execute(
                "INSERT INTO users (user_id, organization_id, project_id, username, password_hash, role, "
                f"disable_time) SELECT $1, 'default', 'default', $2, password_hash, 'user', {disabled or 'NULL'} "
                "FROM users WHERE username = 'admin'",
                f"user:{name}",
                name,
            )
    finally:
        await connection.close()


async def login(
    auth: Auth, username: str = "admin", password: str = ADMIN_PASSWORD, **more: Any
) -> pb.Tokens:
    request = pb.LoginRequest(username=username, password=password, **more)
    return (await auth.service.Login(request, timeout=TIMEOUT_S)).tokens


async def exchange(auth: Auth, client_id: str, secret: str, **more: Any) -> pb.Tokens:
    grant = pb.ExchangeTokenRequest.ClientCredentials(client_id=client_id, client_secret=secret)
    request = pb.ExchangeTokenRequest(client_credentials=grant, **more)
    return (await auth.service.ExchangeToken(request, timeout=TIMEOUT_S)).tokens


async def read(auth: Auth, tokens: pb.Tokens, *, audience: str = "inference") -> Caller:
    now_s = tokens.expire_time.ToSeconds() - 1
    return verify(tokens.access_token, await auth.keys(), issuer=ISSUER, audience=audience, now_s=now_s)


def part(token: str, index: int) -> dict[str, Any]:
    encoded = token.split(".")[index]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    return found


@pytest.mark.parametrize("audience", ["auth", "agent", "inference", "sandbox"])
async def test_a_login_gives_a_token_that_every_service_accepts(auth: Auth, audience: str) -> None:
    tokens = await login(auth)
    found = await read(auth, tokens, audience=audience)
    assert (found.user_id, found.role.value) == ("user:admin", "admin")
    assert (found.organization_id, found.project_id) == ("default", "default")
    assert found.expires_at_s == tokens.expire_time.ToSeconds()
    assert not found.is_service
    assert tokens.refresh_token.startswith("omr_")


async def test_a_token_says_what_rfc_9068_wants_and_nothing_more(auth: Auth) -> None:
    token = (await login(auth)).access_token
    (key_id,) = await auth.keys()
    assert part(token, 0) == {"alg": "ES256", "typ": "at+jwt", "kid": key_id}
    claims = part(token, 1)
    assert set(claims) == {
        *("iss", "aud", "sub", "iat", "nbf", "exp", "jti"),
        *("client_id", "user_id", "role", "org", "project", "scope", "sid"),
    }
    assert claims["aud"] == ["agent", "auth", "inference", "sandbox"] == claims["scope"].split()
    assert claims["exp"] - claims["iat"] == 600


async def test_no_two_tokens_are_the_same(auth: Auth) -> None:
    tokens = [await exchange(auth, "ollamesh", CLIENT_SECRET) for _ in range(3)]
    assert len({part(token.access_token, 1)["jti"] for token in tokens}) == 3


async def test_a_login_may_ask_for_less(auth: Auth) -> None:
    tokens = await login(auth, role=ROLE_USER, lifetime=Duration(seconds=30))
    assert (await read(auth, tokens)).role.value == "user"
    claims = part(tokens.access_token, 1)
    assert claims["exp"] - claims["iat"] == 30


async def test_a_login_may_not_ask_for_more(auth: Auth) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await login(auth, "ann", role=ROLE_ADMIN)
    assert failure(refused.value) == (DENIED, "ROLE_REQUIRED")
    assert info(refused.value).metadata == {"role": "admin"}


@pytest.mark.parametrize(
    ("name", "asked", "got"), [("ann", ROLE_UNSPECIFIED, "user"), ("ann", ROLE_USER, "user")]
)
async def test_the_role_is_the_users_own(auth: Auth, name: str, asked: Role, got: str) -> None:
    assert (await read(auth, await login(auth, name, role=asked))).role.value == got


async def test_who_may_not_in_cannot_tell_why(auth: Auth) -> None:
    """Wrong password, no such user, disabled, or a name that no user can have."""
    told = set()
    for username, password in (
        ("ann", "wrong"),
        ("nobody", ADMIN_PASSWORD),
        ("bob", ADMIN_PASSWORD),
        ("ann\0", ADMIN_PASSWORD),
        ("ANN", ADMIN_PASSWORD),
        ("ann' OR 'a'='a", ADMIN_PASSWORD),
        ("ann", ADMIN_PASSWORD + "\0"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await login(auth, username, password)
        told.add((refused.value.details(), str(refused.value.trailing_metadata())))
        assert failure(refused.value) == (UNAUTHENTICATED, "CREDENTIALS_INVALID")
    assert len(told) == 1


async def test_guessing_is_slowed_down_for_that_name_only(auth: Auth) -> None:
    answers: list[grpc.aio.AioRpcError] = []
    while not answers or answers[-1].code() is UNAUTHENTICATED:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await login(auth, "guessed", "wrong")
        answers.append(refused.value)
        assert len(answers) < 20, "nothing slows it down"
    assert len(answers) > 10, "the first ten are free"
    assert failure(answers[-1]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert (retry_after_s(answers[-1]) or 0) > 0
    await login(auth, "ann")


async def test_a_service_account_gets_a_users_rights_and_is_known_as_a_service(auth: Auth) -> None:
    tokens = await exchange(auth, "ollamesh", CLIENT_SECRET, lifetime=Duration(seconds=60))
    found = await read(auth, tokens)
    assert (found.user_id, found.client_id, found.role.value) == ("service:ollamesh", "ollamesh", "user")
    assert found.is_service
    assert part(tokens.access_token, 1)["exp"] - part(tokens.access_token, 1)["iat"] == 60


@pytest.mark.parametrize(
    ("client_id", "secret"),
    [
        ("ollamesh", "wrong"),
        ("nobody", CLIENT_SECRET),
        ("ollamesh\0", CLIENT_SECRET),
        ("admin", ADMIN_PASSWORD),
    ],
)
async def test_a_wrong_client_gets_nothing(auth: Auth, client_id: str, secret: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await exchange(auth, client_id, secret)
    assert failure(refused.value) == (UNAUTHENTICATED, "CREDENTIALS_INVALID")


@pytest.mark.parametrize(
    "request_",
    [
        pb.LoginRequest(username="", password="p"),
        pb.LoginRequest(username="u", password="x" * 1025),
        pb.LoginRequest(username="u", password="p", lifetime=Duration(seconds=601)),
        pb.LoginRequest(username="u", password="p", role=7),  # type: ignore[arg-type]
    ],
)
async def test_a_malformed_login_is_told_what_is_wrong(auth: Auth, request_: pb.LoginRequest) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await auth.service.Login(request_, timeout=TIMEOUT_S)
    assert failure(refused.value) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_a_caller_learns_who_they_are(auth: Auth) -> None:
    tokens = await login(auth, "ann")
    metadata = bearer(tokens.access_token)
    answer = await auth.service.GetCaller(pb.GetCallerRequest(), metadata=metadata, timeout=TIMEOUT_S)
    assert (answer.user_id, answer.role) == ("user:ann", ROLE_USER)
    assert (answer.organization_id, answer.project_id) == ("default", "default")
    assert answer.scopes == ["agent", "auth", "inference", "sandbox"]
    assert answer.expire_time == tokens.expire_time


@pytest.mark.parametrize("header", [None, "Bearer forged", "Basic abc"])
async def test_nobody_else_does(auth: Auth, header: str | None) -> None:
    metadata = (("authorization", header),) if header else ()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await auth.service.GetCaller(pb.GetCallerRequest(), metadata=metadata, timeout=TIMEOUT_S)
    assert failure(refused.value) == (UNAUTHENTICATED, "TOKEN_INVALID")
