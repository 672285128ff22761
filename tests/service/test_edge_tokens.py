"""Who gets past the edge: nobody without a token of ours for that service, whatever they speak."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import grpc.aio
import jwt
import pytest
import pytest_asyncio
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric import ec
from google.api.httpbody_pb2 import HttpBody
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from ollamesh.auth.v1.oauth_service_pb2_grpc import OAuthServiceStub

from services.auth.adapters.es256 import Es256Locksmith
from services.auth.ports import SigningKey
from services.common.grpc.client import bearer
from tests.service import auth_app, edge_web
from tests.service.auth_app import ADMIN_PASSWORD, CLIENT_SECRET, ISSUER, TIMEOUT_S, failure
from tests.service.edge_app import CHAT, EXECUTE, START_RUN, World, whole
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATHS = {"inference": CHAT, "agent": START_RUN, "sandbox": EXECUTE}
ENCRYPTION_KEY = Fernet.generate_key().decode()


@dataclass(slots=True)
class Place:
    world: World
    key: SigningKey  # The auth service's own, to sign what it never would.

    def token(self, **claims: Any) -> str:
        now_s = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": ["inference"],
            "sub": "user:ann",
            "user_id": "user:ann",
            "client_id": "login",
            "role": "user",
            "org": "default",
            "project": "default",
            "iat": now_s,
            "nbf": now_s,
            "exp": now_s + 60,
            "jti": str(time.monotonic_ns()),
            **claims,
        }
        return self.key.sign(claims)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(module_database: Database) -> AsyncIterator[Place]:
    async with whole(auth_app.config(module_database("auth"), encryption_key=ENCRYPTION_KEY)) as world:
        connection = await asyncpg.connect(module_database.system("auth"))
        row = await connection.fetchrow("SELECT key_id, sealed_key FROM signing_keys")
        await connection.close()
        assert row is not None
        key = Es256Locksmith((ENCRYPTION_KEY,)).open(row["key_id"], row["sealed_key"])
        assert key is not None
        yield Place(world, key)


def hostile(place: Place) -> dict[str, tuple[str | None, str]]:
    """Tokens that must not pass, each with the reason that is told."""
    now_s = int(time.time())
    stranger = ec.generate_private_key(ec.SECP256R1())
    good = place.token()
    head, body, signature = good.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt"}').rstrip(b"=").decode()
    forged = {"typ": "at+jwt", "kid": place.key.key_id}
    claims = {"iss": ISSUER, "aud": ["inference"], "sub": "s", "exp": now_s + 60}
    return {
        "missing": (None, "TOKEN_INVALID"),
        "not a token": ("abc", "TOKEN_INVALID"),
        "empty": ("", "TOKEN_INVALID"),
        "unsigned": (f"{none}.{body}.", "TOKEN_INVALID"),
        "signature of another": (f"{head}.{body}.{place.token().split('.')[2]}", "TOKEN_INVALID"),
        "signed by a stranger": (jwt.encode(claims, stranger, "ES256", headers=forged), "TOKEN_INVALID"),
        "key nobody knows": (jwt.encode(claims, stranger, "ES256", headers={"kid": "x"}), "TOKEN_INVALID"),
        "shared secret": (jwt.encode(claims, "x" * 32, "HS256", headers=forged), "TOKEN_INVALID"),
        "expired": (place.token(iat=now_s - 300, exp=now_s - 200), "TOKEN_EXPIRED"),
        "another issuer": (place.token(iss="http://evil"), "TOKEN_INVALID"),
        "another service": (place.token(aud=["sandbox"]), "TOKEN_INVALID"),
        "not yet": (place.token(nbf=now_s + 300), "TOKEN_INVALID"),
        "lives a day": (place.token(exp=now_s + 86_400), "TOKEN_INVALID"),
        "lives for ever": (place.token(exp=None), "TOKEN_INVALID"),
        "changed": (f"{head}.{body[:-4]}AAAA.{signature}", "TOKEN_INVALID"),
    }


async def test_every_hostile_token_is_refused_in_grpc(place: Place) -> None:
    calls = place.world.calls()
    for name, (token, reason) in hostile(place).items():
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await place.world.stack.unary(CHAT)(
                b"", metadata=() if token is None else bearer(token), timeout=TIMEOUT_S
            )
        assert failure(refused.value) == (grpc.StatusCode.UNAUTHENTICATED, reason), name
        assert "Jwt" not in (refused.value.details() or "")
    assert place.world.calls() == calls


async def test_every_hostile_token_is_refused_in_grpc_web(place: Place) -> None:
    calls = place.world.calls()
    url = place.world.stack.url + CHAT
    for name, (token, reason) in hostile(place).items():
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        async with edge_web.call(place.world.stack.http, url, headers=headers) as call:
            trailers = await call.trailers()
            assert (call.answer.status, trailers["grpc-status"]) == (401, "16"), name
            assert edge_web.reason(trailers) == reason, name
    assert place.world.calls() == calls


async def test_every_hostile_token_is_refused_in_plain_http(place: Place) -> None:
    calls = place.world.calls()
    for token, _ in hostile(place).values():
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        async with place.world.stack.http.post(
            place.world.stack.url + CHAT, json={}, headers=headers
        ) as answer:
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == 'Bearer realm="ollamesh"'
            assert "grpc-status" not in answer.headers
    assert place.world.calls() == calls


@pytest.mark.parametrize("service", PATHS)
async def test_a_token_is_good_for_the_services_it_names(place: Place, service: str) -> None:
    """Also after the edge has seen it: what it remembers of a token is not to whom it may be shown."""
    token = place.token(aud=[service])
    assert (
        await place.world.stack.unary(PATHS[service])(b"hi", metadata=bearer(token), timeout=TIMEOUT_S)
        == b"hi"
    )
    assert place.world.replicas[service].echo.calls[-1].metadata["authorization"] == f"Bearer {token}"
    for other in PATHS.keys() - {service}:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await place.world.stack.unary(PATHS[other])(b"", metadata=bearer(token), timeout=TIMEOUT_S)
        assert failure(refused.value) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


async def test_the_edge_refuses_in_the_name_of_the_service(place: Place) -> None:
    for service, path in PATHS.items():
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await place.world.stack.unary(path)(b"", timeout=TIMEOUT_S)
        assert auth_app.info(refused.value).domain == f"{service}.ollamesh"


async def test_the_scheme_may_be_spelled_in_small_letters(place: Place) -> None:
    metadata = (("authorization", f"bearer {place.token()}"),)
    assert await place.world.stack.unary(CHAT)(b"hi", metadata=metadata, timeout=TIMEOUT_S) == b"hi"


@pytest.mark.parametrize("where", ["?access_token={}", "?token={}"])
async def test_a_token_in_the_address_is_none(place: Place, where: str) -> None:
    url = place.world.stack.url + CHAT + where.format(place.token())
    async with place.world.stack.http.post(url, json={}) as answer:
        assert answer.status == 401


async def test_a_token_in_a_cookie_is_none(place: Place) -> None:
    headers = {"cookie": f"access_token={place.token()}; authorization={place.token()}"}
    async with place.world.stack.http.post(place.world.stack.url + CHAT, json={}, headers=headers) as answer:
        assert answer.status == 401


@pytest.mark.parametrize(
    "header",
    ["x-user", "x-user-id", "X-User-Id", "x-role", "x-org-id", "x-tenant-id", "x-ollamesh-user", "x-auth-user",
     "x-envoy-max-retries", "x-envoy-retry-on", "x-envoy-upstream-rq-timeout-ms", "x-remote-user", "x-scopes",
     "x-forwarded-client-cert"],
)  # fmt: skip
async def test_nobody_brings_an_identity_or_orders_along(place: Place, header: str) -> None:
    headers = {"authorization": f"Bearer {place.token()}", header: "admin"}
    async with edge_web.call(place.world.stack.http, place.world.stack.url + CHAT, headers=headers) as call:
        assert (await call.trailers())["grpc-status"] == "0"
    assert "admin" not in place.world.echo.calls[-1].metadata.values()


async def test_a_header_with_an_underscore_is_not_taken_for_one_with_a_hyphen(place: Place) -> None:
    headers = {"authorization": f"Bearer {place.token()}", "x_user_id": "admin"}
    async with place.world.stack.http.post(place.world.stack.url + CHAT, json={}, headers=headers) as answer:
        assert answer.status == 400


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Check",
        "/ollamesh.inference.v2.InferenceService/Chat",
        "/ollamesh.secret.v1.SecretService/Get",
        "/envoy.service.auth.v3.Authorization/Check",
        "/x",
    ],
)
async def test_what_is_not_ours_goes_nowhere(place: Place, path: str) -> None:
    calls = place.world.calls()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await place.world.stack.unary(path)(b"", metadata=bearer(place.token()), timeout=TIMEOUT_S)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    async with place.world.stack.http.get(place.world.stack.url + path) as answer:
        assert answer.status == 404
    assert place.world.calls() == calls


async def test_the_root_answers_who_looks_for_ollama_and_is_no_method(place: Place) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await place.world.stack.unary("/")(b"", metadata=bearer(place.token()), timeout=TIMEOUT_S)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    async with place.world.stack.http.get(f"{place.world.stack.url}/") as answer:
        assert (answer.status, await answer.text()) == (200, "Ollama is running")


@pytest.mark.parametrize(
    "path",
    [
        "/ollamesh.auth.v1.OAuthService/../../ollamesh.inference.v1.InferenceService/Chat",
        "/ollamesh.auth.v1.OAuthService/Token/../../ollamesh.inference.v1.InferenceService/Chat",
        "//ollamesh.inference.v1.InferenceService/Chat",
        "/./ollamesh.inference.v1.InferenceService/Chat",
        "/ollamesh.auth.v1.OAuthService%2F..%2F..%2Follamesh.inference.v1.InferenceService/Chat",
        "/ollamesh.inference.v1.InferenceService/Chat?x=/ollamesh.auth.v1.OAuthService/GetJwks",
        "/ollamesh.inference.v1.InferenceService/Chat#/ollamesh.auth.v1.OAuthService/GetJwks",
        "/%6fllamesh.inference.v1.InferenceService/Chat",
        "/ollamesh.inference.v1.InferenceService/Chat;/healthz",
        "/OLLAMESH.inference.v1.InferenceService/Chat",
    ],
)
async def test_no_spelling_of_a_path_leads_past_the_check(place: Place, path: str) -> None:
    calls = place.world.calls()
    reader, writer = await asyncio.open_connection("127.0.0.1", place.world.stack.port)
    writer.write(
        f"POST {path} HTTP/1.1\r\nhost: edge\r\ncontent-type: {edge_web.PROTO}\r\ncontent-length: 5\r\n"
        "\r\n".encode()
        + edge_web.frame(b"")
    )
    status = (await reader.readline()).split(b" ", 2)[1]
    writer.close()
    assert status in {b"400", b"401", b"404"}
    assert place.world.calls() == calls


async def test_what_proves_itself_needs_no_token(place: Place) -> None:
    stub = AuthServiceStub(place.world.stack.channel)
    login = pb.LoginRequest(username="admin", password=ADMIN_PASSWORD)
    token = (await stub.Login(login, timeout=TIMEOUT_S)).tokens.access_token
    grant = pb.ExchangeTokenRequest.ClientCredentials(client_id="ollamesh", client_secret=CLIENT_SECRET)
    await stub.ExchangeToken(pb.ExchangeTokenRequest(client_credentials=grant), timeout=TIMEOUT_S)
    known = await stub.GetCaller(pb.GetCallerRequest(), metadata=bearer(token), timeout=TIMEOUT_S)
    assert known.user_id == "user:admin"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.GetCaller(pb.GetCallerRequest(), timeout=TIMEOUT_S)
    assert failure(refused.value) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Login(pb.LoginRequest(username="admin", password="wrong"), timeout=TIMEOUT_S)
    assert failure(refused.value) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/jwks.json",
        "/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server",
    ],
)
async def test_what_is_published_is_there_for_all(place: Place, path: str) -> None:
    async with place.world.stack.http.get(place.world.stack.url + path) as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert {"keys", "issuer"} & (await answer.json()).keys()


CLIENT = {"client_id": "ollamesh", "client_secret": CLIENT_SECRET}
GRANT = {"grant_type": "client_credentials"}


def basic(secret: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"ollamesh:{secret}".encode()).decode()}


@pytest.mark.parametrize(
    ("form", "login", "status", "error"),
    [
        (GRANT | CLIENT, None, 200, None),
        (GRANT, basic(CLIENT_SECRET), 200, None),
        (GRANT, basic("wrong"), 401, "invalid_client"),
        (GRANT | CLIENT | {"client_secret": "wrong"}, None, 401, "invalid_client"),
        (CLIENT | {"grant_type": "password"}, None, 400, "unsupported_grant_type"),
        (CLIENT, None, 400, "invalid_request"),
    ],
)
async def test_the_token_endpoint_speaks_http(
    place: Place, form: dict[str, str], login: dict[str, str] | None, status: int, error: str | None
) -> None:
    url = f"{place.world.stack.url}/oauth/token"
    async with place.world.stack.http.post(url, data=form, headers=login) as answer:
        assert (answer.status, (await answer.json()).get("error")) == (status, error)
        assert answer.headers["cache-control"] == "no-store"
        assert ("www-authenticate" in answer.headers) == (status == 401)
        assert not {"x-http-status", "grpc-status", "x-envoy-upstream-service-time"} & set(answer.headers)


async def test_a_grpc_caller_of_the_token_endpoint_gets_grpc(place: Place) -> None:
    stub = OAuthServiceStub(place.world.stack.channel)
    body = HttpBody(content_type="application/x-www-form-urlencoded", data=b"grant_type=password")
    call = stub.Token(body, timeout=TIMEOUT_S)
    assert json.loads((await call).data)["error"] == "unsupported_grant_type"
    assert "x-http-status" not in dict(await call.initial_metadata())


async def test_a_form_that_is_too_long_is_refused(place: Place) -> None:
    url = f"{place.world.stack.url}/oauth/token"
    async with place.world.stack.http.post(url, data={"grant_type": "x" * 70_000}) as answer:
        assert answer.status == 413
