"""Signing in with an OpenID provider as a browser does it, through the real edge and the sign-in page."""

import html
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.identity_pb2 import ROLE_ADMIN

from services.auth.federation_config import read_federation
from services.common.config import ConfigError, Environment
from services.common.grpc.client import bearer
from tests.fakes.oidc_provider import OidcProvider
from tests.service import auth_app
from tests.service.auth_app import TIMEOUT_S
from tests.service.edge_app import World, whole
from tests.service.oauth_web import Browser, hidden, sent_back
from tests.service.test_auth_federation import config_of
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True, slots=True)
class Place:
    world: World
    provider: OidcProvider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(module_database: Database) -> AsyncIterator[Place]:
    async with OidcProvider.serving() as provider:
        config = replace(auth_app.config(module_database("auth")), federation=config_of(provider))
        async with whole(config) as world:
            yield Place(world, provider)


@pytest_asyncio.fixture(loop_scope="module")
async def browser(place: Place) -> AsyncIterator[Browser]:
    place.provider.lies.clear()
    place.provider.broken.clear()
    async with httpx.AsyncClient(timeout=20) as http:
        yield Browser(http, place.world.stack.url)


def link(page: httpx.Response) -> str:
    found = re.search(r'<a href="(/oauth/federated[^"]*)">sign in with Example</a>', page.text)
    assert found, page.text
    return html.unescape(found[1])


async def sent_to_provider(browser: Browser) -> httpx.Response:
    page = await browser.open("/oauth/authorize", browser.authorization())
    return await browser.open(link(page))


async def came_back(browser: Browser, place: Place) -> httpx.Response:
    sent = await sent_to_provider(browser)
    assert sent.status_code == 303, sent.text
    return await browser.open("/oauth/callback", await place.provider.sign_in(sent.headers["location"]))


async def test_who_the_provider_knows_gets_a_token_of_ours(browser: Browser, place: Place) -> None:
    place.provider.person = {"sub": "7", "name": "Jane Doe", "groups": ["admins"]}
    consent = await came_back(browser, place)
    assert "Ollamesh command line" in consent.text
    answer = await browser.submit("/oauth/authorize", hidden(consent) | {"decision": "allow"})
    token = (await browser.redeemed(sent_back(answer)["code"])).json()["access_token"]
    who = await place.world.auth.service.GetCaller(
        pb.GetCallerRequest(), metadata=bearer(token), timeout=TIMEOUT_S
    )
    assert (who.role, who.organization_id) == (ROLE_ADMIN, "default")
    listed = await place.world.auth.service.ListUsers(
        pb.ListUsersRequest(page_size=100), metadata=bearer(token), timeout=TIMEOUT_S
    )
    (found,) = [user for user in listed.users if user.user_id == who.user_id]
    assert (found.display_name, found.issuer) == ("Jane Doe", place.provider.issuer)


async def test_the_provider_is_asked_as_openid_connect_wants_it(browser: Browser, place: Place) -> None:
    sent = await sent_to_provider(browser)
    where = urlsplit(sent.headers["location"])
    assert f"{where.scheme}://{where.netloc}{where.path}" == f"{place.provider.issuer}/authorize"
    assert {"state", "nonce", "code_challenge"} <= {part.partition("=")[0] for part in where.query.split("&")}
    assert sent.headers["cache-control"] == "no-store"


async def test_another_browser_cannot_finish(browser: Browser, place: Place) -> None:
    """Login CSRF: an attacker's own answer, put into somebody's browser."""
    sent = await sent_to_provider(browser)
    answer = await place.provider.sign_in(sent.headers["location"])
    async with httpx.AsyncClient(timeout=20) as http:
        other = Browser(http, browser.edge)
        assert (await other.open("/oauth/callback", answer)).status_code == 403
        await other.open("/oauth/authorize", other.authorization())  # Now it has a cookie, of its own.
        assert (await other.open("/oauth/callback", answer)).status_code == 400


@pytest.mark.parametrize("state", ["", "x", "x.y"])
async def test_an_answer_to_no_question_is_refused(browser: Browser, state: str) -> None:
    await browser.open("/oauth/authorize", browser.authorization())
    answer = await browser.open("/oauth/callback", {"code": "c", "state": state})
    assert answer.status_code == 400


async def test_a_form_of_another_step_is_no_state(browser: Browser) -> None:
    page = await browser.open("/oauth/authorize", browser.authorization())
    answer = await browser.open("/oauth/callback", {"code": "c", "state": hidden(page)["ticket"]})
    assert answer.status_code == 400


async def test_who_is_refused_there_may_use_a_password_here(browser: Browser, place: Place) -> None:
    place.provider.lies["aud"] = "another"
    page = await came_back(browser, place)
    assert page.status_code == 401
    assert "Example did not confirm" in page.text
    answer = await browser.submit(
        "/oauth/authorize",
        hidden(page) | {"username": "admin", "password": auth_app.ADMIN_PASSWORD},
    )
    assert answer.status_code == 200, "it goes on to the consent page"


async def test_while_the_provider_is_away_passwords_still_work(browser: Browser, place: Place) -> None:
    place.provider.broken |= {"/token"}
    page = await came_back(browser, place)
    assert page.status_code == 503
    assert int(page.headers["retry-after"]) > 0
    assert await browser.code()


async def test_a_setting_that_is_wrong_is_named() -> None:
    env = Environment({"OLLAMESH_OIDC_ISSUER": "http://example.com", "OLLAMESH_OIDC_CLIENT_SECRET": "short"})
    read_federation(env, issuer="http://ollamesh")
    with pytest.raises(ConfigError) as wrong:
        env.check()
    assert {mistake.split()[0] for mistake in wrong.value.mistakes} == {
        "OLLAMESH_OIDC_ISSUER",
        "OLLAMESH_OIDC_CLIENT_ID",
        "OLLAMESH_OIDC_CLIENT_SECRET",
    }
