"""What somebody tries who knows the RFCs: none of it pays. Through the real edge."""

import asyncio
from collections.abc import AsyncIterator
from unittest.mock import patch

import grpc
import httpx
import pytest
import pytest_asyncio
from ollamesh.auth.v1 import auth_service_pb2 as pb

from services.auth.adapters.postgres_codes import PostgresCodes, PostgresDevices
from services.auth.core.client_secret import SecretDigest
from tests.service.auth_people import PASSWORD, another_organization, fresh, logged_in
from tests.service.oauth_place import SECRET, Place, place_of
from tests.service.oauth_web import CLI, Browser, sent_back
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
REGISTERED = """
    INSERT INTO oauth_clients (client_id, organization_id, display_name, redirect_uris, grants, scopes, secret_digest,
                               first_party, in_browser, resource_server)
    VALUES ('tv', 'default', 'TV', '{}', '{device_code,refresh_token}', '{agent}', NULL, false, true, NULL),
           ('desktop', 'default', 'Desktop', '{http://127.0.0.1/callback}', '{authorization_code,refresh_token}',
            '{agent}', $1, true, false, NULL),
           ('spy', 'elsewhere', 'Spy', '{}', '{}', '{inference}', $1, false, false, 'inference')
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(module_database: Database) -> AsyncIterator[Place]:
    async with place_of(module_database) as found:
        await found.execute(
            "INSERT INTO organizations (organization_id, display_name) VALUES ('elsewhere', 'Elsewhere')"
        )
        await found.execute(REGISTERED, SecretDigest("s" * 32).of(SECRET))
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def browser(place: Place) -> AsyncIterator[Browser]:
    async with httpx.AsyncClient(timeout=20) as http:
        yield Browser(http, place.world.stack.url)


async def test_a_foreign_page_logs_nobody_in_by_a_device_code(browser: Browser) -> None:
    where = f"{browser.edge}/oauth/device_authorization"
    begun = (await browser.http.post(where, data={"client_id": "tv"})).json()
    page = await browser.sign_in(await browser.open("/device"), user_code=begun["user_code"])
    assert (await browser.decide(page)).status_code == 200
    poll = {"grant_type": DEVICE, "client_id": "tv", "device_code": begun["device_code"]}
    planted = await browser.token(poll, origin="https://evil.example", **{"sec-fetch-site": "cross-site"})
    assert planted.json().get("error") == "invalid_request", planted.text
    assert "set-cookie" not in planted.headers
    # Nothing was used up.
    own = {"origin": browser.edge, "sec-fetch-site": "same-origin", "x-csrf": "1"}
    assert "set-cookie" in (await browser.token(poll, **own)).headers


async def test_a_scope_that_is_not_held_costs_no_refresh_token(place: Place, browser: Browser) -> None:
    token = (await place.login()).refresh_token
    form = {"grant_type": "refresh_token", "client_id": "login", "refresh_token": token}
    for _ in range(2):
        assert (await browser.token(form | {"scope": "agent root"})).json()["error"] == "invalid_scope"
        await place.execute("UPDATE refresh_families SET rotate_time = rotate_time - interval '31 s'")
    assert "access_token" in (await browser.token(form)).json()


async def test_a_refresh_token_that_is_over_is_not_active(place: Place, browser: Browser) -> None:
    proof = {"client_id": "desktop", "client_secret": SECRET}
    redeemed = (await browser.redeemed(await browser.code(client_id="desktop"), **proof)).json()
    form = proof | {"token": redeemed["refresh_token"]}
    where = f"{browser.edge}/oauth/introspect"
    assert (await browser.http.post(where, data=form)).json()["active"] is True
    await place.execute("UPDATE refresh_families SET expire_time = now() WHERE client_id = 'desktop'")
    assert (await browser.http.post(where, data=form)).json() == {"active": False}


async def test_a_resource_server_learns_nothing_of_other_organisations(
    place: Place, browser: Browser
) -> None:
    form = {"token": (await place.login()).access_token, "client_secret": SECRET}
    where = f"{browser.edge}/oauth/introspect"
    assert (await browser.http.post(where, data=form | {"client_id": "watcher"})).json()["active"] is True
    assert (await browser.http.post(where, data=form | {"client_id": "spy"})).json() == {"active": False}


async def test_nobody_alone_fills_the_place_where_devices_wait(browser: Browser) -> None:
    where, form = f"{browser.edge}/oauth/device_authorization", {"client_id": CLI}
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
    async with httpx.AsyncClient(transport=transport, timeout=20) as flooding:
        for _ in range(11):
            answers = await asyncio.gather(*(flooding.post(where, data=form) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {429}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
    assert (await browser.http.post(where, data=form)).status_code == 200


@pytest.mark.parametrize("way", ["code", "device"])
async def test_a_new_password_in_the_middle_of_a_redemption_ends_it(
    place: Place, browser: Browser, way: str
) -> None:
    admin, name = await logged_in(place.world.auth), fresh("victim")
    victim = await admin.create_user(name)
    store, method = (PostgresCodes, "redeem") if way == "code" else (PostgresDevices, "poll")
    genuine = getattr(store, method)

    async def interrupted(self: object, *arguments: object) -> object:
        found = await genuine(self, *arguments)
        request = pb.SetPasswordRequest(user_id=victim.user_id, new_password="another long enough one")
        await admin.ask("SetPassword", request)
        return found

    if way == "code":
        page = await browser.open("/oauth/authorize", browser.authorization())
        consent = await browser.sign_in(page, username=name, password=PASSWORD)
        code = sent_back(await browser.decide(consent))["code"]
        with patch.object(store, method, interrupted):
            answer = await browser.redeemed(code)
    else:
        where = f"{browser.edge}/oauth/device_authorization"
        begun = (await browser.http.post(where, data={"client_id": CLI})).json()
        page = await browser.sign_in(
            await browser.open("/device"), username=name, password=PASSWORD, user_code=begun["user_code"]
        )
        await browser.decide(page)
        with patch.object(store, method, interrupted):
            answer = await browser.token(
                {"grant_type": DEVICE, "client_id": CLI, "device_code": begun["device_code"]}
            )
    assert answer.json().get("error") == "invalid_grant", answer.text


@pytest.mark.parametrize("name", ["login", "ollamesh-cli", ""])
async def test_a_service_account_cannot_have_the_name_of_a_client(place: Place, name: str) -> None:
    """Whoever has a client of its name could look into its tokens and end them, from another organisation."""
    founder = await logged_in(place.world.auth)
    _, rival, _ = await another_organization(founder)
    if not name:
        name = fresh("robot")
        wanted = pb.CreateOAuthClientRequest(
            client_id=name,
            display_name="Robot",
            grants=["token_exchange"],
            scopes=["inference"],
            confidential=True,
        )
        await rival.ask("CreateOAuthClient", wanted)
    request = pb.CreateServiceAccountRequest(client_id=name, role="ROLE_USER")
    assert await founder.refused("CreateServiceAccount", request) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "NAME_TAKEN",
    )
