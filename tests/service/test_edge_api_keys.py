"""API keys at the edge: taken wherever a token is, and seen by nobody behind it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from ollamesh.auth.v1.identity_pb2 import ROLE_USER
from ollamesh.compat.envoy.v3.ext_authz_pb2 import CheckRequest

from services.auth.core.api_keys import KeyForm
from services.common.grpc.client import bearer
from services.common.tokens import Caller, Role, verify
from tests.service import auth_app, edge_app, edge_web
from tests.service.auth_app import ISSUER, TIMEOUT_S, failure, retry_after_s
from tests.service.edge_app import CHAT, EXECUTE, START_RUN, World, whole
from tests.service.key_owners import Metadata, add_user, login, make_key, run_sql
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATHS = {"inference": CHAT, "agent": START_RUN, "sandbox": EXECUTE}
FORM = KeyForm("live", "s" * 32)  # As the service under test writes keys.
SAID = "the access token is missing or not valid here"


@dataclass(slots=True)
class Place:
    world: World
    database: Database
    admin: Metadata
    key: str  # One of the admin's, for everything.
    key_id: str

    def seen(self, service: str = "inference") -> dict[str, str]:
        """What the last call that reached a service came with."""
        return dict(self.world.replicas[service].echo.calls[-1].metadata)

    async def caller(self, service: str = "inference") -> Caller:
        """Who the service was told is calling."""
        scheme, _, token = self.seen(service)["authorization"].partition(" ")
        assert scheme == "Bearer"
        keys = await self.world.auth.keys()
        return verify(token, keys, issuer=ISSUER, audience=service, now_s=time.time())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(module_database: Database) -> AsyncIterator[Place]:
    async with whole(auth_app.config(module_database("auth"))) as world:
        await add_user(module_database, "ann")
        admin = await login(world.auth)
        made = await make_key(world.auth, admin)
        yield Place(world, module_database, admin, made.secret, made.api_key.api_key_id)


async def call(place: Place, key: str, path: str = CHAT) -> bytes:
    answer: bytes = await place.world.stack.unary(path)(b"hi", metadata=bearer(key), timeout=TIMEOUT_S)
    return answer


async def refusal(place: Place, key: str, path: str = CHAT) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(place, key, path)
    return failure(refused.value)


@pytest.mark.parametrize("service", PATHS)
async def test_a_key_is_changed_for_a_short_token_for_that_service(place: Place, service: str) -> None:
    assert await call(place, place.key, PATHS[service]) == b"hi"
    caller = await place.caller(service)
    assert (caller.user_id, caller.role, caller.organization_id) == ("user:admin", Role.ADMIN, "default")
    assert caller.api_key_id == place.key_id
    assert caller.scopes == ({"agent", "inference", "sandbox"} if service == "agent" else {service})
    assert not caller.is_service


async def test_services_never_see_a_key(place: Place) -> None:
    await call(place, place.key)
    assert not [value for value in place.seen().values() if "omk_" in value]
    for name in ("x-api-key", "api-key"):
        await place.world.stack.unary(CHAT)(
            b"", metadata=(*bearer(place.key), (name, place.key)), timeout=TIMEOUT_S
        )
        assert not [value for value in place.seen().values() if "omk_" in value]
    assert place.key not in place.world.stack.log.read_text()


def hostile(place: Place) -> dict[str, str]:
    key = place.key
    made_up = FORM.written("0" * 12, "0" * 30)
    return {
        "cut": key[:-1],
        "typo": key[:-10] + ("A" if key[-10] != "A" else "B") + key[-9:],
        "longer": key + "0",
        "another secret, with a checksum": FORM.written(place.key_id, "0" * 30),
        "another id, with a checksum": made_up,
        "only the prefix": "omk_",
        "two keys": f"{key},Bearer {key}",
        "a key behind a token": f"a.b.c, Bearer {key}",
        "huge": "omk_" + "a" * 7000,
    }


async def test_every_hostile_key_is_refused_in_every_dialect(place: Place) -> None:
    calls = place.world.calls()
    stack = place.world.stack
    for name, key in hostile(place).items():
        assert await refusal(place, key) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"), name
        headers = {"authorization": f"Bearer {key}"}
        async with edge_web.call(stack.http, stack.url + CHAT, headers=headers) as web:
            trailers = await web.trailers()
            assert (web.answer.status, trailers["grpc-status"]) == (401, "16"), name
            assert edge_web.reason(trailers) == "TOKEN_INVALID", name
        for path in ("/api/chat", "/v1/chat/completions"):
            async with stack.http.post(stack.url + path, json={}, headers=headers) as answer:
                assert answer.status == 401
                assert answer.headers["www-authenticate"] == 'Bearer realm="ollamesh"'
                error = (await answer.json())["error"]
                assert (error if path == "/api/chat" else error["message"]) == SAID
    assert place.world.calls() == calls


@pytest.mark.parametrize("scheme", ["Basic", "bearer ", "", "Digest"])
async def test_a_key_comes_as_a_bearer_token_or_not_at_all(place: Place, scheme: str) -> None:
    value = f"{scheme} {place.key}".strip()
    call = place.world.stack.unary(CHAT)(b"", metadata=(("authorization", value),), timeout=TIMEOUT_S)
    if scheme.strip().lower() == "bearer":
        await call
        return
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert failure(refused.value) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


async def test_a_key_is_good_for_its_scopes_only(place: Place) -> None:
    made = await make_key(place.world.auth, place.admin, scopes=["inference"], role=ROLE_USER)
    assert await call(place, made.secret) == b"hi"
    assert (await place.caller()).role is Role.USER
    for path in (START_RUN, EXECUTE):
        assert await refusal(place, made.secret, path) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


async def test_a_key_is_good_at_auth_too_but_makes_no_other(place: Place) -> None:
    stub = AuthServiceStub(place.world.stack.channel)
    caller = await stub.GetCaller(pb.GetCallerRequest(), metadata=bearer(place.key), timeout=TIMEOUT_S)
    assert caller.user_id == "user:admin"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.CreateApiKey(
            pb.CreateApiKeyRequest(display_name="x"), metadata=bearer(place.key), timeout=TIMEOUT_S
        )
    assert failure(refused.value) == (grpc.StatusCode.PERMISSION_DENIED, "LOGIN_REQUIRED")


async def test_where_no_token_is_needed_a_key_changes_nothing_and_goes_nowhere(place: Place) -> None:
    stack = place.world.stack
    headers = {"authorization": f"Bearer {place.key}"}
    for path in ("/.well-known/jwks.json", "/", "/healthz"):
        async with stack.http.get(stack.url + path, headers=headers) as answer:
            assert answer.status == 200
    async with stack.http.get(f"{stack.url}/nothing", headers=headers) as answer:
        assert answer.status == 404


async def test_rest_callers_come_with_keys(place: Place) -> None:
    stack = place.world.stack
    headers = {"authorization": f"Bearer {place.key}"}
    for path in ("/api/chat", "/v1/chat/completions"):
        async with stack.http.post(stack.url + path, json={"a": 1}, headers=headers) as answer:
            assert answer.status == 200
        assert (await place.caller()).api_key_id == place.key_id


async def test_the_edge_tells_auth_the_key_and_no_more(place: Place) -> None:
    """What Envoy sends is read as it is: by a server that keeps it."""
    seen: list[bytes] = []

    async def check(request: bytes, _context: Any) -> bytes:
        seen.append(request)
        return b""

    server = grpc.aio.server()
    handlers: Any = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with edge_app.serving(edge_app.settings(port, {})) as stack:
        metadata = (*bearer(place.key), ("x-secret", "mine"), ("x-trace", "t"))
        with pytest.raises(grpc.aio.AioRpcError):
            await stack.unary(CHAT)(b"the prompt", metadata=metadata, timeout=TIMEOUT_S)
    await server.stop(0)
    (request,) = seen
    assert b"mine" not in request
    assert b"the prompt" not in request
    read = CheckRequest.FromString(request).attributes
    assert dict(read.context_extensions) == {"service": "inference"}
    assert list(read.metadata_context.filter_metadata) == ["ollamesh.api_key"]
    assert request.count(place.key.encode()) == 1


async def test_auth_that_does_not_answer_is_no_fault_of_the_caller(place: Place) -> None:
    async with edge_app.serving(edge_app.settings(1, {})) as stack:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stack.unary(CHAT)(b"", metadata=bearer(place.key), timeout=TIMEOUT_S)
        assert failure(refused.value) == (grpc.StatusCode.UNAVAILABLE, "AUTH_UNAVAILABLE")
        assert retry_after_s(refused.value) == 1.0
        headers = {"authorization": f"Bearer {place.key}"}
        async with stack.http.post(f"{stack.url}/v1/chat/completions", json={}, headers=headers) as answer:
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert json.loads(await answer.text())["error"]["code"] == "auth_unavailable"
        async with stack.http.post(f"{stack.url}/api/chat", json={}, headers=headers) as answer:
            assert answer.status == 503
            assert (await answer.json())["error"] == "the access token cannot be verified just now"


async def test_what_was_used_is_told(place: Place) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        await call(place, place.key)
        while True:
            answer = await place.world.auth.service.ListApiKeys(
                pb.ListApiKeysRequest(page_size=100), metadata=place.admin, timeout=TIMEOUT_S
            )
            (key,) = [key for key in answer.api_keys if key.api_key_id == place.key_id]
            if key.HasField("last_used_time"):
                return
            await asyncio.sleep(0.1)


async def test_expired_keys_are_told_so(place: Place) -> None:
    made = await make_key(place.world.auth, place.admin)
    await run_sql(
        place.database,
        "UPDATE api_keys SET create_time = now() - interval '2 days', expire_time = now() - interval '1 day' "
        "WHERE api_key_id = $1",
        made.api_key.api_key_id,
    )
    assert await refusal(place, made.secret) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")
