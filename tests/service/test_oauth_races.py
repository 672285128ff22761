"""What somebody began with an old password: nothing comes of it once the password is another."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio
from ollamesh.auth.v1 import auth_service_pb2 as pb

from tests.service import auth_app
from tests.service.auth_people import PASSWORD, Person, fresh, logged_in
from tests.service.edge_app import World, whole
from tests.service.oauth_web import CLI, Browser, sent_back
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_database: Database) -> AsyncIterator[World]:
    async with whole(auth_app.config(module_database("auth"))) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def browser(world: World) -> AsyncIterator[Browser]:
    async with httpx.AsyncClient(timeout=20) as http:
        yield Browser(http, world.stack.url)


@dataclass(frozen=True, slots=True)
class Victim:
    name: str
    user_id: str
    admin: Person

    async def gets_another_password(self) -> None:
        request = pb.SetPasswordRequest(user_id=self.user_id, new_password="another long enough one")
        await self.admin.ask("SetPassword", request)


@pytest_asyncio.fixture(loop_scope="module")
async def victim(world: World) -> Victim:
    admin, name = await logged_in(world.auth), fresh("victim")
    return Victim(name, (await admin.create_user(name)).user_id, admin)


async def test_a_device_that_was_let_in_before_gets_nothing_after(browser: Browser, victim: Victim) -> None:
    where = f"{browser.edge}/oauth/device_authorization"
    begun = (await browser.http.post(where, data={"client_id": CLI})).json()
    page = await browser.sign_in(
        await browser.open("/device"), username=victim.name, password=PASSWORD, user_code=begun["user_code"]
    )
    assert (await browser.decide(page)).status_code == 200
    await victim.gets_another_password()
    poll = {"grant_type": DEVICE, "client_id": CLI, "device_code": begun["device_code"]}
    assert (await browser.token(poll)).json().get("error") == "access_denied"


async def test_a_code_that_was_given_before_is_good_for_nothing_after(
    browser: Browser, victim: Victim
) -> None:
    page = await browser.open("/oauth/authorize", browser.authorization())
    consent = await browser.sign_in(page, username=victim.name, password=PASSWORD)
    code = sent_back(await browser.decide(consent))["code"]
    await victim.gets_another_password()
    assert (await browser.redeemed(code)).json().get("error") == "invalid_grant"


async def test_a_page_that_was_reached_before_leads_nowhere_after(browser: Browser, victim: Victim) -> None:
    page = await browser.open("/oauth/authorize", browser.authorization())
    consent = await browser.sign_in(page, username=victim.name, password=PASSWORD)
    await victim.gets_another_password()
    assert (await browser.decide(consent)).status_code == 403
