"""The OAuth endpoints as OAuth clients see them, without the edge: bytes in, bytes and a status out."""

import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import asyncpg
import pytest
import pytest_asyncio
from google.api.httpbody_pb2 import HttpBody
from ollamesh.auth.v1.oauth_service_pb2 import GetJwksRequest, GetServerMetadataRequest

from services.common.errors import TokenInvalid
from services.common.tokens import Caller, verify
from tests.service.auth_app import ADMIN_PASSWORD, CLIENT_SECRET, ISSUER, TIMEOUT_S, Auth, config, serving
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORM = "application/x-www-form-urlencoded"
GRANT = {"grant_type": "client_credentials"}
CLIENT = {"client_id": "ollamesh", "client_secret": CLIENT_SECRET}
Answer = tuple[int, dict[str, Any], dict[str, str]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auth(module_database: Database) -> AsyncIterator[Auth]:
    async with serving(config(module_database("auth"))) as running:
        yield running


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


async def post(
    auth: Auth, form: dict[str, str] | str | bytes, *authorization: str, content_type: str = FORM
) -> Answer:
    """Status, document and headers, as the edge would make them of the answer."""
    data = urlencode(form) if isinstance(form, dict) else form
    body = HttpBody(content_type=content_type, data=data.encode() if isinstance(data, str) else data)
    metadata = tuple(("authorization", value) for value in authorization)
    call = auth.oauth.Token(body, metadata=metadata, timeout=TIMEOUT_S)
    answer = await call
    headers = {key: str(value) for key, value in await call.initial_metadata()}
    assert answer.content_type == "application/json"
    assert headers["cache-control"] == "no-store"
    return int(headers.get("x-http-status", "200")), json.loads(answer.data), headers


async def read(auth: Auth, token: str, *, audience: str) -> Caller:
    """The token as the named service reads it."""
    return verify(token, await auth.keys(), issuer=ISSUER, audience=audience, now_s=time.time())


@pytest.mark.parametrize("way", ["header", "form", "header and name in form"])
async def test_client_credentials(auth: Auth, way: str) -> None:
    match way:
        case "header":
            status, document, _ = await post(auth, GRANT, basic("ollamesh", CLIENT_SECRET))
        case "form":
            status, document, _ = await post(auth, GRANT | CLIENT)
        case _:
            named = GRANT | {"client_id": "ollamesh"}
            status, document, _ = await post(auth, named, basic("ollamesh", CLIENT_SECRET))
    assert status == 200
    token = document.pop("access_token")
    assert document == {"token_type": "Bearer", "expires_in": 600, "scope": "agent auth inference sandbox"}
    assert (await read(auth, token, audience="agent")).user_id == "service:ollamesh"


async def test_charset_and_empty_fields_do_no_harm(auth: Auth) -> None:
    status, _, _ = await post(
        auth, GRANT | CLIENT | {"scope": "", "resource": ""}, content_type=f"{FORM}; charset=UTF-8"
    )
    assert status == 200


async def test_a_client_may_ask_for_less_scope_never_for_more(auth: Auth, module_database: Database) -> None:
    admin = await asyncpg.connect(module_database.system("auth"))
    await admin.execute(
        "INSERT INTO service_accounts (client_id, organization_id, project_id, secret_digest, role, scopes) "
        "SELECT 'scoped', organization_id, project_id, secret_digest, role, '{agent,inference}' "
        "FROM service_accounts WHERE client_id = 'ollamesh'"
    )
    await admin.close()
    scoped = GRANT | {"client_id": "scoped", "client_secret": CLIENT_SECRET}
    assert (await post(auth, scoped))[1]["scope"] == "agent inference"
    _, document, _ = await post(auth, scoped | {"scope": "inference"})
    assert document["scope"] == "inference"
    await read(auth, document["access_token"], audience="inference")
    with pytest.raises(TokenInvalid):
        await read(auth, document["access_token"], audience="agent")
    status, document, _ = await post(auth, scoped | {"scope": "inference sandbox"})
    assert (status, document["error"]) == (400, "invalid_scope")


REFUSALS = [
    ("no grant", CLIENT, (), "invalid_request", 400),
    ("empty grant", CLIENT | {"grant_type": ""}, (), "invalid_request", 400),
    (
        "password grant",
        {"grant_type": "password", "username": "admin", "password": ADMIN_PASSWORD},
        (),
        "unsupported_grant_type",
        400,
    ),
    ("implicit", CLIENT | {"grant_type": "implicit"}, (), "unsupported_grant_type", 400),
    (
        "refresh",
        CLIENT | {"grant_type": "refresh_token", "refresh_token": "r"},
        (),
        "unauthorized_client",
        400,
    ),
    ("no client", GRANT, (), "invalid_client", 401),
    ("no secret", GRANT | {"client_id": "ollamesh"}, (), "invalid_client", 401),
    ("wrong secret", GRANT | CLIENT | {"client_secret": "wrong"}, (), "invalid_client", 401),
    ("unknown client", GRANT | CLIENT | {"client_id": "nobody"}, (), "invalid_client", 401),
    ("NUL in name", GRANT | CLIENT | {"client_id": "ollamesh\0"}, (), "invalid_client", 401),
    ("long name", GRANT | CLIENT | {"client_id": "a" * 5000}, (), "invalid_client", 401),
    ("wrong secret in header", GRANT, (basic("ollamesh", "wrong"),), "invalid_client", 401),
    ("no colon in header", GRANT, ("Basic b2xsYW1lc2g=",), "invalid_client", 401),
    ("no base64 in header", GRANT, ("Basic ***",), "invalid_client", 401),
    ("bearer", GRANT | {"client_id": "ollamesh"}, ("Bearer abc",), "invalid_client", 401),
    ("header and form", GRANT | CLIENT, (basic("ollamesh", CLIENT_SECRET),), "invalid_request", 400),
    ("two headers", GRANT, (basic("ollamesh", CLIENT_SECRET), basic("a", "b")), "invalid_request", 400),
    (
        "two names",
        GRANT | {"client_id": "other"},
        (basic("ollamesh", CLIENT_SECRET),),
        "invalid_request",
        400,
    ),
    ("scope", GRANT | CLIENT | {"scope": "admin"}, (), "invalid_scope", 400),
    ("field twice", urlencode(GRANT | CLIENT) + "&grant_type=client_credentials", (), "invalid_request", 400),
    ("not UTF-8", b"grant_type=\xff", (), "invalid_request", 400),
    ("not UTF-8 inside", "grant_type=%ff", (), "invalid_request", 400),
    ("many fields", "&".join(f"f{n}=1" for n in range(100)), (), "invalid_request", 400),
    ("long form", "a=" + "b" * 20_000, (), "invalid_request", 400),
]


@pytest.mark.parametrize(
    ("form", "authorization", "error", "status"),
    [row[1:] for row in REFUSALS],
    ids=[row[0] for row in REFUSALS],
)
async def test_refusals_speak_rfc_6749(
    auth: Auth, form: dict[str, str] | str | bytes, authorization: tuple[str, ...], error: str, status: int
) -> None:
    got, document, headers = await post(auth, form, *authorization)
    assert (got, document["error"]) == (status, error)
    assert set(document) == {"error", "error_description"}
    assert ("www-authenticate" in headers) == (status == 401)


async def test_a_json_body_is_no_form(auth: Auth) -> None:
    status, document, _ = await post(auth, json.dumps(GRANT | CLIENT), content_type="application/json")
    assert (status, document["error"]) == (400, "invalid_request")


async def test_the_keys_hold_no_private_part(auth: Auth) -> None:
    answer = await auth.oauth.GetJwks(GetJwksRequest(), timeout=TIMEOUT_S)
    (key,) = json.loads(answer.data)["keys"]
    assert set(key) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    assert (key["kty"], key["crv"], key["alg"], key["use"]) == ("EC", "P-256", "ES256", "sig")


async def test_the_server_describes_itself(auth: Auth) -> None:
    answer = await auth.oauth.GetServerMetadata(GetServerMetadataRequest(), timeout=TIMEOUT_S)
    document = json.loads(answer.data)
    assert document["issuer"] == ISSUER
    assert document["token_endpoint"] == f"{ISSUER}/oauth/token"
    assert document["jwks_uri"] == f"{ISSUER}/.well-known/jwks.json"
    assert document["code_challenge_methods_supported"] == ["S256"]
    assert "implicit" not in document["grant_types_supported"]
    assert "password" not in document["grant_types_supported"]
