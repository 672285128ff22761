"""Mandates from end to end: the agent acts for a user who has gone, and for nobody who may not any more."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from ollamesh.auth.v1 import audit_pb2
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from ollamesh.compat.envoy.v3.ext_authz_pb2 import CheckRequest, CheckResponse

from services.auth.core.mandates import COUNT_MAX, LIFETIME_MAX_S
from services.common.grpc.client import bearer, channel
from services.common.tokens import Caller, verify
from tests.fakes.authority import Authority
from tests.service.auth_app import (
    ADMIN_PASSWORD,
    CLIENT_SECRET,
    ISSUER,
    TIMEOUT_S,
    Auth,
    config,
    failure,
    serving,
)
from tests.service.auth_people import PASSWORD, Person, fresh, logged_in
from tests.service.key_owners import make_key, run_sql
from tests.service.test_auth_audit import listed
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENDED = (grpc.StatusCode.UNAUTHENTICATED, "GRANT_INVALID")
DENIED = grpc.StatusCode.PERMISSION_DENIED
SCOPES = ("inference", "sandbox")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auth(module_database: Database) -> AsyncIterator[Auth]:
    async with serving(config(module_database("auth"))) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(module_database: Database, auth: Auth) -> AsyncIterator[Auth]:
    """Another one, of the same store."""
    async with serving(config(module_database("auth"))) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(auth: Auth) -> Person:
    return await logged_in(auth)


async def tokens(auth: Auth, username: str, password: str = PASSWORD) -> pb.Tokens:
    request = pb.LoginRequest(username=username, password=password)
    return (await auth.service.Login(request, timeout=TIMEOUT_S)).tokens


async def create(
    auth: Auth, token: str, *scopes: str, lifetime_s: float = 3600.0
) -> pb.CreateMandateResponse:
    lifetime = Duration()
    lifetime.FromMilliseconds(round(lifetime_s * 1000))
    request = pb.CreateMandateRequest(subject_token=token, scopes=scopes or SCOPES, lifetime=lifetime)
    return await auth.service.CreateMandate(request, timeout=TIMEOUT_S)


async def redeem(auth: Auth, mandate: str) -> Caller:
    request = pb.RedeemMandateRequest(mandate=mandate)
    response = await auth.service.RedeemMandate(request, timeout=TIMEOUT_S)
    found = verify(
        response.access_token, await auth.keys(), issuer=ISSUER, audience="inference", now_s=time.time()
    )
    assert found.expires_at_s == response.expire_time.ToSeconds()
    return found


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return failure(error.value)


async def is_over(auth: Auth, mandate: str) -> None:
    """At once: the store is asked."""
    assert await refused(redeem(auth, mandate)) == ENDED


async def swapped(auth: Auth, secret: str) -> str:
    """The token that the edge gets for a key, to go to the agent with."""
    facts = Struct()
    facts["key"] = secret
    request = CheckRequest()
    request.attributes.metadata_context.filter_metadata["ollamesh.api_key"].CopyFrom(facts)
    request.attributes.context_extensions["service"] = "agent"
    check = auth.channel.unary_unary(
        "/envoy.service.auth.v3.Authorization/Check",
        request_serializer=CheckRequest.SerializeToString,
        response_deserializer=CheckResponse.FromString,
    )
    answer: CheckResponse = await check(request, timeout=TIMEOUT_S)
    return str(answer.dynamic_metadata["token"])


async def test_the_agent_acts_for_a_user_with_their_rights_and_no_token_of_theirs(
    auth: Auth, replica: Auth, admin: Person
) -> None:
    name = fresh("ann")
    user = await admin.create_user(name)
    theirs = await tokens(auth, name)
    subject = verify(
        theirs.access_token, await auth.keys(), issuer=ISSUER, audience="agent", now_s=time.time()
    )
    made = await create(auth, theirs.access_token, lifetime_s=LIFETIME_MAX_S)
    assert made.expire_time.ToSeconds() <= time.time() + LIFETIME_MAX_S + 1
    found = await redeem(replica, made.mandate)
    assert (found.user_id, found.role.value, found.actor) == (user.user_id, "user", "service:agent")
    assert (found.organization_id, found.project_id) == ("default", "default")
    assert found.scopes == set(SCOPES)
    assert (found.session_id, found.client_id) == (subject.session_id, subject.client_id)
    again = await redeem(auth, made.mandate)
    assert again.token_id != found.token_id


@pytest.mark.parametrize("lifetime_s", [0.0, 86_401.0])
async def test_a_mandate_lives_for_a_day_at_most(auth: Auth, admin: Person, lifetime_s: float) -> None:
    reason = await refused(create(auth, admin.token, lifetime_s=lifetime_s))
    assert reason == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_its_tokens_live_no_longer_than_itself_and_then_it_is_none(
    auth: Auth, admin: Person, module_database: Database
) -> None:
    name = fresh("ann")
    user = await admin.create_user(name)
    made = await create(auth, (await tokens(auth, name)).access_token, lifetime_s=20)
    found = await redeem(auth, made.mandate)
    assert found.expires_at_s <= made.expire_time.ToSeconds() + 1
    await run_sql(
        module_database,
        "UPDATE mandates SET expire_time = now() - interval '1 s' WHERE user_id = $1",
        user.user_id,
    )
    assert await refused(redeem(auth, made.mandate)) == ENDED
    await create(auth, admin.token)
    left = await rows(module_database, "SELECT user_id FROM auth.mandates")
    assert user.user_id not in {row["user_id"] for row in left}


async def rows(database: Database, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(database.admin_dsn)
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()


async def test_only_a_digest_is_kept_and_nothing_of_it_is_told(
    auth: Auth, admin: Person, module_database: Database
) -> None:
    made = await create(auth, admin.token)
    for table in ("mandates", "audit_events"):
        kept = "\n".join(
            str(row[0]) for row in await rows(module_database, f"SELECT t::text FROM auth.{table} t")
        )
        assert made.mandate not in kept
        assert made.mandate.removeprefix("omm_") not in kept
        assert made.mandate.encode().hex() not in kept


@pytest.mark.parametrize("mandate", ["x", "omm_" + "A" * 43, "omm_" + "é" * 43])
async def test_what_was_never_given_is_nothing(auth: Auth, mandate: str) -> None:
    assert await refused(redeem(auth, mandate)) == ENDED
    await auth.service.EndMandate(pb.EndMandateRequest(mandate=mandate), timeout=TIMEOUT_S)


async def test_who_may_not_be_acted_for_so(auth: Auth, admin: Person) -> None:
    other = await create_account(admin, "auditor", "auth")
    assert await refused(create(auth, admin.token, "auth")) == (DENIED, "SCOPE_DENIED")
    assert await refused(create(auth, other)) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
    assert await refused(create(auth, "forged")) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
    assert await refused(create(auth, await on_behalf_of(auth, admin.token))) == (DENIED, "EXCHANGE_REFUSED")


async def create_account(admin: Person, name: str, *scopes: str) -> str:
    """Its token."""
    client_id = fresh(name)
    made = await admin.ask(
        "CreateServiceAccount",
        pb.CreateServiceAccountRequest(client_id=client_id, scopes=scopes, role="ROLE_USER"),
    )
    return await account_token(admin.auth, client_id, made.client_secret)


async def account_token(auth: Auth, client_id: str, secret: str) -> str:
    grant = pb.ExchangeTokenRequest.ClientCredentials(client_id=client_id, client_secret=secret)
    request = pb.ExchangeTokenRequest(client_credentials=grant)
    return (await auth.service.ExchangeToken(request, timeout=TIMEOUT_S)).tokens.access_token


async def on_behalf_of(auth: Auth, subject: str) -> str:
    actor = pb.ExchangeTokenRequest.ClientCredentials(client_id="ollamesh", client_secret=CLIENT_SECRET)
    wanted = pb.ExchangeTokenRequest.OnBehalfOf(
        actor=actor, subject_token=subject, audience=["agent", *SCOPES]
    )
    request = pb.ExchangeTokenRequest(on_behalf_of=wanted)
    return (await auth.service.ExchangeToken(request, timeout=TIMEOUT_S)).tokens.access_token


async def test_a_service_account_is_acted_for_until_it_is_disabled(auth: Auth, admin: Person) -> None:
    client_id = fresh("robot")
    request = pb.CreateServiceAccountRequest(client_id=client_id, role="ROLE_USER")
    secret = (await admin.ask("CreateServiceAccount", request)).client_secret
    made = await create(auth, await account_token(auth, client_id, secret))
    found = await redeem(auth, made.mandate)
    assert (found.user_id, found.client_id, found.is_service) == (f"service:{client_id}", client_id, True)
    await admin.ask("DisableServiceAccount", pb.DisableServiceAccountRequest(client_id=client_id))
    await is_over(auth, made.mandate)


async def test_a_logout_ends_it_on_every_replica(auth: Auth, replica: Auth, admin: Person) -> None:
    name = fresh("ann")
    await admin.create_user(name)
    theirs = await tokens(auth, name)
    made = await create(auth, theirs.access_token)
    token = await redeem(replica, made.mandate)
    ann = Person(replica, theirs.access_token)
    await ann.ask("RevokeToken", pb.RevokeTokenRequest(token=theirs.refresh_token))
    await is_over(auth, made.mandate)
    assert await refused(create(auth, token.token)) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


@pytest.mark.parametrize("act", ["disable", "role", "password", "token"])
async def test_what_ends_the_token_that_it_came_of_ends_it(auth: Auth, admin: Person, act: str) -> None:
    name = fresh("ann")
    user = await admin.create_user(name)
    theirs = await tokens(auth, name)
    made = await create(auth, theirs.access_token)
    await redeem(auth, made.mandate)
    match act:
        case "disable":
            await admin.ask("DisableUser", pb.DisableUserRequest(user_id=user.user_id))
        case "role":
            await admin.ask("SetRole", pb.SetRoleRequest(user_id=user.user_id, role="ROLE_ADMIN"))
        case "password":
            request = pb.SetPasswordRequest(user_id=user.user_id, new_password="another long one 7")
            await admin.ask("SetPassword", request)
        case "token":
            await admin.ask("RevokeToken", pb.RevokeTokenRequest(token=theirs.access_token))
    await is_over(auth, made.mandate)


async def test_a_keys_mandate_has_the_rights_of_the_key_and_of_its_owner_now_and_ends_with_it(
    auth: Auth, admin: Person
) -> None:
    name = fresh("boss")
    boss = await admin.create_user(name, role="ROLE_ADMIN")  # type: ignore[arg-type]
    key = await make_key(auth, bearer((await tokens(auth, name)).access_token), scopes=["agent", "inference"])
    subject = await swapped(auth, key.secret)
    assert await refused(create(auth, subject)) == (DENIED, "SCOPE_DENIED")
    made = await create(auth, subject, "inference")
    found = await redeem(auth, made.mandate)
    assert (found.role.value, found.api_key_id) == ("admin", key.api_key.api_key_id)
    assert found.scopes == {"inference"}
    await admin.ask("SetRole", pb.SetRoleRequest(user_id=boss.user_id, role="ROLE_USER"))
    lesser = await redeem(auth, made.mandate)
    assert lesser.role.value == "user"
    await admin.ask("RevokeApiKey", pb.RevokeApiKeyRequest(api_key_id=key.api_key.api_key_id))
    await is_over(auth, made.mandate)


async def test_a_login_that_a_service_acts_for_makes_no_room_for_others(
    auth: Auth, admin: Person, module_database: Database
) -> None:
    name = fresh("script")
    user = await admin.create_user(name)
    made = await create(auth, (await tokens(auth, name)).access_token)
    await run_sql(
        module_database,
        "INSERT INTO refresh_families (session_id, handle_digest, current_digest, salt, generation, user_id, client_id,"
        " role_max, scopes, rotate_time, expire_time, create_time)"
        " SELECT 's-' || n, sha256(n::text::bytea), sha256('x'), '', 1, $1, 'login', 'user', '{agent}', now(),"
        " now() + interval '1 day', now() + interval '1 s' FROM generate_series(1, 600) AS n",
        user.user_id,
    )
    await tokens(auth, name)
    assert (await redeem(auth, made.mandate)).user_id == user.user_id


async def test_a_mandate_that_was_ended_is_none_and_may_be_ended_again(auth: Auth, admin: Person) -> None:
    made = await create(auth, admin.token)
    for _ in range(2):
        await auth.service.EndMandate(pb.EndMandateRequest(mandate=made.mandate), timeout=TIMEOUT_S)
    assert await refused(redeem(auth, made.mandate)) == ENDED


async def test_the_trail_has_its_beginning_its_tokens_and_its_end(auth: Auth, admin: Person) -> None:
    made = await create(auth, admin.token)
    token = await redeem(auth, made.mandate)
    await auth.service.EndMandate(pb.EndMandateRequest(mandate=made.mandate), timeout=TIMEOUT_S)
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            events = await listed(auth)
            ends = [each for each in events if each.action == audit_pb2.AUDIT_ACTION_MANDATE_ENDED]
            if ends:
                break
            await asyncio.sleep(0.02)
    (began,) = [
        each
        for each in events
        if each.action == audit_pb2.AUDIT_ACTION_MANDATE_CREATED and each.object == ends[-1].object
    ]
    assert (began.user_id, began.organization_id) == ("user:admin", "default")
    assert dict(began.details) == {"holder": "agent", "scopes": "inference sandbox"}
    (issued,) = [each for each in events if each.object == f"token/{token.token_id}"]
    assert (issued.details["grant"], issued.details["actor"]) == ("mandate", "service:agent")


@pytest.mark.parametrize("name", ["agent", "auth", "sandbox", "inference"])
async def test_no_account_can_have_the_name_of_a_service_that_acts(admin: Person, name: str) -> None:
    request = pb.CreateServiceAccountRequest(client_id=name, role="ROLE_USER")
    assert await admin.refused("CreateServiceAccount", request) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "NAME_TAKEN",
    )


async def test_a_user_has_so_many_at_a_time(auth: Auth, admin: Person, module_database: Database) -> None:
    name = fresh("ann")
    user = await admin.create_user(name)
    theirs = await tokens(auth, name)
    made = await create(auth, theirs.access_token)
    await run_sql(
        module_database,
        "INSERT INTO mandates SELECT sha256(n::text::bytea), holder, user_id, client_id, role_max, scopes, session_id,"
        " api_key_id, ended_by, create_time, expire_time FROM mandates, generate_series(2, $2::integer) AS n"
        " WHERE user_id = $1",
        user.user_id,
        COUNT_MAX,
    )
    assert await refused(create(auth, theirs.access_token)) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_MANDATES",
    )
    assert await create(auth, admin.token)
    await auth.service.EndMandate(pb.EndMandateRequest(mandate=made.mandate), timeout=TIMEOUT_S)
    assert await create(auth, theirs.access_token)


async def test_another_service_neither_gets_one_nor_redeems_nor_ends_the_agents(
    module_database: Database, tmp_path: Path
) -> None:
    authority = Authority()
    plain = config(module_database("auth"))
    inside = authority.inside("auth", tmp_path)
    async with serving(replace(plain, server=replace(plain.server, inside=inside)), wait=False) as auth:
        services = {name: authority.inside(name, tmp_path) for name in ("agent", "sandbox", "edge")}
        target = f"127.0.0.1:{auth.port}"
        async with channel(target, inside=services["agent"], to="auth") as opened:
            agent = Auth(auth.port, opened, auth.stop)
            made = await create(agent, await _patiently(agent))
            assert (await redeem(agent, made.mandate)).actor == "service:agent"
            for name in ("sandbox", "edge"):
                async with channel(target, inside=services[name], to="auth") as other:
                    stub = AuthServiceStub(other)
                    for call in (
                        stub.CreateMandate(
                            pb.CreateMandateRequest(
                                subject_token="x", scopes=SCOPES, lifetime=Duration(seconds=1)
                            ),
                            timeout=TIMEOUT_S,
                        ),
                        stub.RedeemMandate(pb.RedeemMandateRequest(mandate=made.mandate), timeout=TIMEOUT_S),
                        stub.EndMandate(pb.EndMandateRequest(mandate=made.mandate), timeout=TIMEOUT_S),
                    ):
                        assert await refused(call) == (DENIED, "ROLE_REQUIRED")
            assert (await redeem(agent, made.mandate)).actor == "service:agent"


async def _patiently(auth: Auth) -> str:
    """An admin's token, once the service has its keys."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                return (await tokens(auth, "admin", ADMIN_PASSWORD)).access_token
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
