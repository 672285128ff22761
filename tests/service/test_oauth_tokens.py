"""Refreshing, exchanging, revoking, introspecting; and what a browser keeps. Through the real edge."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc.aio
import httpx
import pytest
import pytest_asyncio
from ollamesh.auth.v1 import auth_service_pb2 as pb

if TYPE_CHECKING:  # Known to type checkers only.
    pass

from services.common.grpc.client import bearer
from tests.service.auth_app import CLIENT_SECRET, ISSUER, TIMEOUT_S, failure
from tests.service.oauth_place import ACCESS_TOKEN, DENIED, EXCHANGE, SECRET, UNAUTHENTICATED, Place, place_of
from tests.service.oauth_web import Browser
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(module_database: Database) -> AsyncIterator[Place]:
    async with place_of(module_database) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def browser(place: Place) -> AsyncIterator[Browser]:
    async with httpx.AsyncClient(timeout=20) as http:
        yield Browser(http, place.world.stack.url)


async def test_a_login_lasts_by_refreshing_and_keeps_its_session_and_its_lesser_role(place: Place) -> None:
    first = await place.login(role="ROLE_USER")
    second = await place.refresh(first.refresh_token)
    before, after = (
        await place.read(first.access_token, "agent"),
        await place.read(second.access_token, "agent"),
    )
    assert (before.role.value, after.role.value) == ("user", "user")
    assert before.session_id == after.session_id is not None
    assert before.token_id != after.token_id
    assert second.refresh_token not in {"", first.refresh_token}


async def test_an_answer_that_was_lost_may_be_asked_for_again_and_gives_the_same(place: Place) -> None:
    first = await place.login()
    answers = await asyncio.gather(*(place.refresh(first.refresh_token) for _ in range(4)))
    assert len({answer.refresh_token for answer in answers}) == 1


async def test_reuse_ends_the_whole_login(place: Place) -> None:
    first = await place.login()
    second = await place.refresh(first.refresh_token)
    third = await place.refresh(second.refresh_token)
    for token in (
        first,
        third,
    ):  # The first is dead since the third exists; having been tried, it kills the third.
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await place.refresh(token.refresh_token)
        assert failure(refused.value) == (UNAUTHENTICATED, "GRANT_INVALID")
    assert await place.is_dead(third.access_token), "an access token outlived its login"


async def test_after_the_grace_the_predecessor_is_reuse_too(place: Place) -> None:
    first = await place.login()
    session = (await place.read(first.access_token, "auth")).session_id
    second = await place.refresh(first.refresh_token)
    await place.execute(
        "UPDATE refresh_families SET rotate_time = rotate_time - interval '31 s' WHERE session_id = $1",
        session,
    )
    for token in (first, second):
        with pytest.raises(grpc.aio.AioRpcError):
            await place.refresh(token.refresh_token)


@pytest.mark.parametrize(
    "token", ["x", "omr_" + "A" * 64, "omr_" + "A" * 63, "omr_" + "é" * 64, "A" * 1000], ids=str
)
async def test_what_is_no_refresh_token_is_refused_and_nothing_more(place: Place, token: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await place.refresh(token)
    assert failure(refused.value) == (UNAUTHENTICATED, "GRANT_INVALID")


async def test_a_confidential_clients_token_is_no_good_without_its_secret(
    place: Place, browser: Browser
) -> None:
    tokens = await place.login()
    form = {"grant_type": "refresh_token", "refresh_token": tokens.refresh_token}
    assert (await browser.token(form | {"client_id": "ollamesh-cli"})).json()["error"] == "invalid_grant"
    assert (await browser.token(form | {"client_id": "login", "client_secret": "s"})).status_code == 401
    narrowed = (await browser.token(form | {"client_id": "login", "scope": "agent"})).json()
    assert narrowed["scope"] == "agent"
    wider = form | {"client_id": "login", "scope": "agent root", "refresh_token": narrowed["refresh_token"]}
    assert (await browser.token(wider)).json()["error"] == "invalid_scope"


async def test_a_service_acts_for_a_user_with_their_rights_and_no_longer_than_they_could(
    place: Place,
) -> None:
    user = await place.login(role="ROLE_USER", lifetime={"seconds": 60})
    acting = await place.on_behalf_of(user.access_token, "inference", "sandbox")
    found, theirs = (
        await place.read(acting.access_token, "inference"),
        await place.read(user.access_token, "agent"),
    )
    assert (found.user_id, found.role.value, found.actor) == ("user:admin", "user", "service:ollamesh")
    assert (found.client_id, found.is_service) == ("ollamesh", False)
    assert found.scopes == {"inference", "sandbox"}
    assert found.session_id == theirs.session_id
    assert found.expires_at_s <= theirs.expires_at_s
    assert acting.refresh_token == ""
    narrower = await place.on_behalf_of(acting.access_token, "inference")
    assert (await place.read(narrower.access_token, "inference")).actor == "service:ollamesh"


async def test_a_chain_never_widens(place: Place) -> None:
    user = await place.login()
    acting = await place.on_behalf_of(user.access_token, "inference")
    refusals = [
        (acting.access_token, ("sandbox",), {}, "SCOPE_DENIED"),
        (acting.access_token, ("inference",), {"client": "broker", "secret": SECRET}, "EXCHANGE_REFUSED"),
        (user.access_token, ("auth",), {"client": "broker", "secret": SECRET}, "SCOPE_DENIED"),
        (user.access_token, ("agent",), {"client": "watcher", "secret": SECRET}, "CLIENT_NOT_ALLOWED"),
        ("forged", ("agent",), {}, "EXCHANGE_REFUSED"),
        (user.refresh_token, ("agent",), {}, "EXCHANGE_REFUSED"),
    ]
    for subject, audience, actor, reason in refusals:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await place.on_behalf_of(subject, *audience, **actor)
        assert failure(refused.value) == (DENIED, reason)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await place.on_behalf_of(user.access_token, "agent", secret="wrong")
    assert failure(refused.value) == (UNAUTHENTICATED, "CREDENTIALS_INVALID")


async def test_a_service_accounts_own_token_is_nobodys_to_act_with(place: Place) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await place.on_behalf_of(await place.world.stack.token(), "agent")
    assert failure(refused.value) == (DENIED, "EXCHANGE_REFUSED")


async def test_token_exchange_over_rest(place: Place, browser: Browser) -> None:
    user = await place.login()
    form = {
        "grant_type": EXCHANGE,
        "client_id": "broker",
        "client_secret": SECRET,
        "subject_token": user.access_token,
        "subject_token_type": ACCESS_TOKEN,
    }
    got = (await browser.token(form | {"audience": "inference"})).json()
    assert (got["issued_token_type"], got["scope"]) == (ACCESS_TOKEN, "inference")
    assert (await place.read(got["access_token"], "inference")).actor == "client:broker"
    for more, error in (
        ({"audience": "https://elsewhere"}, "invalid_target"),
        ({"resource": "https://elsewhere"}, "invalid_target"),
        ({"audience": "sandbox"}, "invalid_target"),
        ({"subject_token": "x"}, "invalid_request"),
        ({"subject_token_type": "urn:x"}, "invalid_request"),
        ({"actor_token": user.access_token}, "invalid_request"),
        ({"client_id": "ollamesh-cli", "client_secret": ""}, "unauthorized_client"),
        ({"client_secret": "wrong"}, "invalid_client"),
    ):
        assert (await browser.token(form | more)).json()["error"] == error, more


async def test_introspection_tells_those_it_concerns_and_nobody_else(place: Place, browser: Browser) -> None:
    async def ask(token: str, client: str, secret: str = SECRET) -> httpx.Response:
        form = {"token": token, "client_id": client, "client_secret": secret}
        return await browser.http.post(f"{browser.edge}/oauth/introspect", data=form)

    user = await place.login()
    acting = await place.on_behalf_of(user.access_token, "inference")
    agents = await place.on_behalf_of(user.access_token, "agent")
    known = (await ask(acting.access_token, "watcher")).json()
    assert known["active"] is True
    assert (known["iss"], known["aud"], known["act"]) == (ISSUER, ["inference"], {"sub": "service:ollamesh"})
    assert (await ask(agents.access_token, "ollamesh", CLIENT_SECRET)).json()["active"] is True
    unknown = [
        await ask("garbage", "watcher"),
        await ask(agents.access_token, "watcher"),
        await ask(user.access_token, "broker"),
        await ask(user.refresh_token, "watcher"),
        await ask(acting.access_token[:-4] + "AAAA", "watcher"),
    ]
    assert [answer.content for answer in unknown] == [b'{"active":false}'] * len(unknown)
    assert (await ask(acting.access_token, "watcher", "wrong")).status_code == 401
    assert (await ask(acting.access_token, "login", "")).status_code == 401


async def test_revocation_by_its_client_ends_a_login_and_a_strangers_does_not(
    place: Place, browser: Browser
) -> None:
    async def revoke(token: str, **client: str) -> int:
        answer = await browser.http.post(f"{browser.edge}/oauth/revoke", data={"token": token} | client)
        return answer.status_code

    tokens = await place.login()
    assert await revoke(tokens.refresh_token) == 401
    assert await revoke(tokens.refresh_token, client_id="broker", client_secret=SECRET) == 200
    assert await revoke("garbage", client_id="login") == 200
    tokens = await place.refresh(tokens.refresh_token)
    assert await revoke(tokens.access_token, client_id="login") == 200
    assert await revoke(tokens.refresh_token, client_id="login") == 200
    with pytest.raises(grpc.aio.AioRpcError):
        await place.refresh(tokens.refresh_token)


async def test_a_refresh_token_is_revoked_over_grpc_with_all_that_came_of_it_as_often_as_one_likes(
    place: Place,
) -> None:
    tokens, other = await place.login(), await place.login()
    metadata = bearer(other.access_token)
    for token in (tokens.refresh_token, tokens.refresh_token, "garbage"):
        await place.auth.RevokeToken(pb.RevokeTokenRequest(token=token), metadata=metadata, timeout=TIMEOUT_S)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await place.refresh(tokens.refresh_token)
    assert failure(refused.value) == (UNAUTHENTICATED, "GRANT_INVALID")
    assert await place.is_dead(tokens.access_token)
    assert not await place.is_dead(other.access_token)


async def test_a_strangers_refresh_token_is_not_ones_to_revoke(place: Place) -> None:
    admin = await place.login()
    made = pb.CreateUserRequest(username="stranger", password="not a common one 7", role="ROLE_USER")
    await place.auth.CreateUser(made, metadata=bearer(admin.access_token), timeout=TIMEOUT_S)
    login = pb.LoginRequest(username="stranger", password=made.password)
    theirs = (await place.auth.Login(login, timeout=TIMEOUT_S)).tokens
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await place.auth.RevokeToken(
            pb.RevokeTokenRequest(token=admin.refresh_token),
            metadata=bearer(theirs.access_token),
            timeout=TIMEOUT_S,
        )
    assert failure(refused.value) == (DENIED, "ROLE_REQUIRED")
    await place.refresh(admin.refresh_token)


async def test_a_user_who_is_disabled_refreshes_no_more(place: Place) -> None:
    admin = await place.login()
    metadata = bearer(admin.access_token)
    made = pb.CreateUserRequest(username="leaver", password="not a common one 7", role="ROLE_USER")
    user = (await place.auth.CreateUser(made, metadata=metadata, timeout=TIMEOUT_S)).user
    login = pb.LoginRequest(username="leaver", password=made.password)
    tokens = (await place.auth.Login(login, timeout=TIMEOUT_S)).tokens
    tokens = await place.refresh(tokens.refresh_token)
    await place.auth.DisableUser(
        pb.DisableUserRequest(user_id=user.user_id), metadata=metadata, timeout=TIMEOUT_S
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await place.refresh(tokens.refresh_token)
    assert failure(refused.value) == (UNAUTHENTICATED, "GRANT_INVALID")
