"""API keys over gRPC: made once, seen by those whom they concern, ended for good."""

from collections.abc import AsyncIterator

import asyncpg
import grpc.aio
import pytest
import pytest_asyncio
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.duration_pb2 import Duration
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.identity_pb2 import ROLE_ADMIN, ROLE_USER, ApiKey

from services.auth.api_keys import REPORTS_BURST
from services.auth.core.api_keys import KEYS_MAX, LIFETIME_S, KeyForm
from tests.service.auth_app import TIMEOUT_S, Auth, config, failure, info, serving
from tests.service.key_owners import Metadata, add_user, login, make_key, run_sql
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")
DENIED, MISSING = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auth(module_database: Database) -> AsyncIterator[Auth]:
    async with serving(config(module_database("auth"))) as running:
        for name in ("ann", "bob", "cid", "dan"):
            await add_user(module_database, name)
        await add_user(module_database, "eve", organization="evil", role="admin")
        yield running


async def listed(auth: Auth, who: Metadata, *, page_size: int = 100) -> list[ApiKey]:
    found: list[ApiKey] = []
    request = pb.ListApiKeysRequest(page_size=page_size)
    while True:
        answer = await auth.service.ListApiKeys(request, metadata=who, timeout=TIMEOUT_S)
        found += answer.api_keys
        assert len(answer.api_keys) <= page_size
        if not answer.next_page_token:
            return found
        request = pb.ListApiKeysRequest(page_size=page_size, page_token=answer.next_page_token)


async def revoke(auth: Auth, who: Metadata, key_id: str) -> ApiKey:
    request = pb.RevokeApiKeyRequest(api_key_id=key_id)
    return (await auth.service.RevokeApiKey(request, metadata=who, timeout=TIMEOUT_S)).api_key


async def report(auth: Auth, text: str) -> bytes:
    answer: HttpBody = await auth.oauth.ReportLeakedKey(HttpBody(data=text.encode()), timeout=TIMEOUT_S)
    return bytes(answer.data)


async def test_a_key_is_shown_once_and_kept_as_a_digest(auth: Auth, module_database: Database) -> None:
    ann = await login(auth, "ann")
    made = await make_key(auth, ann, display_name="laptop")
    key = made.api_key
    presented = KeyForm("live", "s" * 32).read(made.secret)
    assert presented
    assert presented.key_id == key.api_key_id
    assert made.secret.startswith(key.prefix)
    assert (key.display_name, key.user_id, key.project_id, key.role) == (
        "laptop",
        "user:ann",
        "default",
        ROLE_USER,
    )
    assert list(key.scopes) == ["agent", "auth", "inference", "sandbox"]
    assert key.expire_time.ToSeconds() - key.create_time.ToSeconds() == LIFETIME_S
    assert not key.HasField("last_used_time")
    assert not key.HasField("revoke_time")
    assert key in await listed(auth, ann)
    assert made.secret.encode() not in await dump(module_database)


async def dump(database: Database) -> bytes:
    """The whole table, as text."""
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        rows = await connection.fetch("SELECT k::text FROM auth.api_keys k")
    finally:
        await connection.close()
    return "\n".join(str(row[0]) for row in rows).encode()


async def test_a_key_may_be_less_than_its_owner_and_never_more(auth: Auth) -> None:
    admin, ann = await login(auth), await login(auth, "ann")
    lesser = (
        await make_key(auth, admin, role=ROLE_USER, scopes=["inference"], lifetime=Duration(seconds=60))
    ).api_key
    assert (lesser.role, list(lesser.scopes)) == (ROLE_USER, ["inference"])
    assert lesser.expire_time.ToSeconds() - lesser.create_time.ToSeconds() == 60
    for who, wish, told in (
        (ann, {"role": ROLE_ADMIN}, (DENIED, "ROLE_REQUIRED")),
        (ann, {"scopes": ["inference", "everything"]}, (DENIED, "SCOPE_NOT_HELD")),
        (ann, {"project_id": "other"}, (DENIED, "ROLE_REQUIRED")),
        (admin, {"project_id": "other"}, (MISSING, "NOT_FOUND")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await make_key(auth, who, **wish)
        assert failure(refused.value) == told
    # A login that asked for less cannot make more.
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await make_key(auth, await login(auth, role=ROLE_USER), role=ROLE_ADMIN)
    assert failure(refused.value) == (DENIED, "ROLE_REQUIRED")


async def test_the_same_request_makes_one_key(auth: Auth, module_database: Database) -> None:
    ann = await login(auth, "ann")
    first = await make_key(auth, ann, request_id="once", display_name="a")
    again = await make_key(auth, ann, request_id="once", display_name="a")
    assert first.secret
    assert (again.api_key, again.secret) == (first.api_key, "")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await make_key(auth, ann, request_id="once", display_name="b")
    assert failure(refused.value) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    other = await make_key(auth, await login(auth, "bob"), request_id="once", display_name="a")
    assert other.api_key.api_key_id != first.api_key.api_key_id
    await run_sql(
        module_database,
        "UPDATE api_keys SET create_time = create_time - interval '25 hours' WHERE api_key_id = $1",
        first.api_key.api_key_id,
    )
    later = await make_key(auth, ann, request_id="once", display_name="a")
    assert later.secret


async def test_who_sees_and_ends_a_key(auth: Auth) -> None:
    ann, bob, admin, eve = [await login(auth, name) for name in ("ann", "bob", "admin", "eve")]
    key_id = (await make_key(auth, ann)).api_key.api_key_id
    for who, sees in ((ann, True), (bob, False), (admin, True), (eve, False)):
        assert (key_id in {key.api_key_id for key in await listed(auth, who)}) is sees
    for who, asked in ((bob, key_id), (eve, key_id), (ann, "none"), (ann, "x" * 64)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await revoke(auth, who, asked)
        assert failure(refused.value) == (MISSING, "NOT_FOUND")
        assert info(refused.value).metadata == {"kind": "api_key"}
    ended = await revoke(auth, admin, key_id)
    assert ended.HasField("revoke_time")
    assert await revoke(auth, ann, key_id) == ended


async def test_keys_come_in_pages_newest_first(auth: Auth) -> None:
    cid = await login(auth, "cid")
    made = [(await make_key(auth, cid)).api_key.api_key_id for _ in range(5)]
    assert [key.api_key_id for key in await listed(auth, cid, page_size=2)] == made[::-1]
    for token in ("x", "eA==", "MSAyIDM="):
        request = pb.ListApiKeysRequest(page_token=token)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await auth.service.ListApiKeys(request, metadata=cid, timeout=TIMEOUT_S)
        assert failure(refused.value) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_a_user_has_so_many_keys_and_no_more(auth: Auth, module_database: Database) -> None:
    dan = await login(auth, "dan")
    made = [(await make_key(auth, dan)).api_key.api_key_id for _ in range(KEYS_MAX)]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await make_key(auth, dan)
    assert failure(refused.value) == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_API_KEYS")
    await revoke(auth, dan, made[0])
    await run_sql(
        module_database,
        "UPDATE api_keys SET create_time = now() - interval '2 days', expire_time = now() - interval '1 day' "
        "WHERE api_key_id = $1",
        made[1],
    )
    for _ in range(2):
        await make_key(auth, dan)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await make_key(auth, dan)
    assert failure(refused.value) == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_API_KEYS")


async def test_who_holds_a_key_whole_may_end_it(auth: Auth) -> None:
    ann = await login(auth, "ann")
    made = await make_key(auth, ann)
    for text in (
        made.secret[:-1],
        made.secret[:-7] + "A" + made.secret[-6:],
        made.api_key.prefix,
        "",
        "x" * 1000,
    ):
        assert await report(auth, text) == b"{}"
    (key,) = [key for key in await listed(auth, ann) if key.api_key_id == made.api_key.api_key_id]
    assert not key.HasField("revoke_time")
    assert await report(auth, f"OPENAI_API_KEY={made.secret}\n") == b"{}"
    (key,) = [key for key in await listed(auth, ann) if key.api_key_id == made.api_key.api_key_id]
    assert key.HasField("revoke_time")
    assert await report(auth, made.secret) == b"{}"


async def test_reports_are_taken_so_often_and_no_oftener(database: Database) -> None:
    async with serving(config(database("auth"))) as own:
        answers = [await report(own, "nothing") for _ in range(REPORTS_BURST * 3)]
    assert b"{}" in answers
    assert b'{"error":"temporarily_unavailable"}' in answers
