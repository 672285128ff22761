"""Clients that admins register, and those that run in browsers, through the real edge."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc.aio
import httpx
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import BadRequest
from ollamesh.auth.v1 import auth_service_pb2 as pb

if TYPE_CHECKING:  # Known to type checkers only.
    pass

from services.common.grpc.client import bearer
from tests.service import auth_app
from tests.service.auth_app import TIMEOUT_S, failure
from tests.service.oauth_place import SECRET, Place, place_of
from tests.service.oauth_web import CALLBACK, VERIFIER, Browser
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


async def test_an_admin_registers_a_client_that_works_until_it_is_disabled(
    place: Place, browser: Browser
) -> None:
    metadata = bearer((await place.login()).access_token)
    wanted = pb.CreateOAuthClientRequest(
        client_id="console",
        display_name="Console",
        redirect_uris=[CALLBACK],
        grants=["authorization_code", "refresh_token"],
        scopes=["inference"],
        confidential=True,
        first_party=True,
    )
    made = await place.auth.CreateOAuthClient(wanted, metadata=metadata, timeout=TIMEOUT_S)
    assert made.client.role_max == 1
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await place.auth.CreateOAuthClient(wanted, metadata=metadata, timeout=TIMEOUT_S)
    assert failure(refused.value) == (grpc.StatusCode.ALREADY_EXISTS, "NAME_TAKEN")
    client = {"client_id": "console", "client_secret": made.client_secret}
    tokens = (await browser.redeemed(await browser.code(client_id="console"), **client)).json()
    assert tokens["scope"] == "inference"
    listed = await place.auth.ListOAuthClients(
        pb.ListOAuthClientsRequest(page_size=100), metadata=metadata, timeout=TIMEOUT_S
    )
    assert made.client in listed.clients
    gone = pb.DisableOAuthClientRequest(client_id="console")
    await place.auth.DisableOAuthClient(gone, metadata=metadata, timeout=TIMEOUT_S)
    refresh = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert (await browser.token(refresh | client)).json()["error"] == "invalid_client"
    form = {"token": tokens["access_token"], "client_id": "watcher", "client_secret": SECRET}
    said = await browser.http.post(f"{browser.edge}/oauth/introspect", data=form)
    assert said.json() == {"active": False}
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await place.auth.DisableOAuthClient(gone, metadata=metadata, timeout=TIMEOUT_S)
    assert failure(refused.value) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"redirect_uris": ["http://app.example/cb"]}, "redirect_uris[0]"),
        ({"redirect_uris": [CALLBACK, "javascript:alert(1)"]}, "redirect_uris[1]"),
        ({"redirect_uris": []}, "redirect_uris"),
        ({"grants": ["token_exchange"]}, "confidential"),
        ({"grants": [], "resource_server": "inference"}, "confidential"),
        ({"grants": []}, "grants"),
        ({"in_browser": True, "confidential": True}, "confidential"),
    ],
    ids=str,
)
async def test_what_cannot_be_a_client_is_said_to_be_none(
    place: Place, wrong: dict[str, object], field: str
) -> None:
    metadata = bearer((await place.login()).access_token)
    good: dict[str, object] = {
        "client_id": "wrong",
        "display_name": "Wrong",
        "redirect_uris": [CALLBACK],
        "grants": ["authorization_code"],
        "scopes": ["agent"],
    }
    wanted = pb.CreateOAuthClientRequest(**(good | wrong))  # type: ignore[arg-type]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await place.auth.CreateOAuthClient(wanted, metadata=metadata, timeout=TIMEOUT_S)
    assert failure(refused.value) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    (detail,) = [each for each in auth_app.details(refused.value).details if each.Is(BadRequest.DESCRIPTOR)]
    bad = BadRequest()
    detail.Unpack(bad)
    assert field in {violation.field for violation in bad.field_violations}


OWN = {"x-csrf": "1", "sec-fetch-site": "same-origin"}
REFRESH = {"grant_type": "refresh_token", "client_id": "web"}


async def in_browser(browser: Browser, **headers: str) -> httpx.Response:
    form = {
        "grant_type": "authorization_code",
        "client_id": "web",
        "code": await browser.code(client_id="web", redirect_uri=CALLBACK),
        "redirect_uri": CALLBACK,
        "code_verifier": VERIFIER,
    }
    return await browser.submit("/oauth/token", form, **(OWN | headers))


@pytest.mark.parametrize("headers", [{"x-csrf": ""}, {"origin": "https://evil.example"}], ids=str)
async def test_a_foreign_page_logs_nobody_in(browser: Browser, headers: dict[str, str]) -> None:
    refused = await in_browser(browser, **headers)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")
    assert "set-cookie" not in refused.headers


async def test_a_browser_keeps_its_refresh_token_where_no_script_reads_it(browser: Browser) -> None:
    answer = await in_browser(browser)
    assert set(answer.json()) == {"access_token", "token_type", "expires_in", "scope"}
    cookie = answer.headers["set-cookie"]
    # Over http there is neither `__Host-` nor `Secure`: it is kept to the one path, on a loopback address.
    assert cookie.startswith("ollamesh-refresh=omr_")
    for attribute in ("Path=/oauth", "HttpOnly", "SameSite=Strict", "Max-Age=2592000"):
        assert attribute in cookie
    assert "Secure" not in cookie
    before = browser.http.cookies["ollamesh-refresh"]
    renewed = await browser.submit("/oauth/token", REFRESH, **OWN)
    assert set(renewed.json()) == {"access_token", "token_type", "expires_in", "scope"}
    assert browser.http.cookies["ollamesh-refresh"] != before


@pytest.mark.parametrize(
    "headers",
    [
        {"x-csrf": ""},
        {"x-csrf": "0"},
        {"origin": ""},
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "same-site"},
        {"x-ollamesh-origin": "https://evil.example", "origin": "https://evil.example"},
    ],
    ids=str,
)
async def test_a_foreign_page_cannot_use_it(browser: Browser, headers: dict[str, str]) -> None:
    await in_browser(browser)
    before = browser.http.cookies["ollamesh-refresh"]
    refused = await browser.submit("/oauth/token", REFRESH, **(OWN | headers))
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert (await browser.submit("/oauth/logout", {}, **(OWN | headers))).status_code == 400
    assert browser.http.cookies["ollamesh-refresh"] == before
    stolen = REFRESH | {"refresh_token": before}
    assert (await browser.submit("/oauth/token", stolen, **OWN)).json()["error"] == "invalid_request"


async def test_logging_out_takes_the_cookie_and_ends_the_login(browser: Browser) -> None:
    await in_browser(browser)
    before = browser.http.cookies["ollamesh-refresh"]
    gone = await browser.submit("/oauth/logout", {}, **OWN)
    assert gone.status_code == 200
    assert "Max-Age=0" in gone.headers["set-cookie"]
    assert "ollamesh-refresh" not in browser.http.cookies
    browser.http.cookies.set("ollamesh-refresh", before, domain="127.0.0.1", path="/oauth")
    assert (await browser.submit("/oauth/token", REFRESH, **OWN)).json()["error"] == "invalid_grant"
    assert (await browser.submit("/oauth/logout", {}, **OWN)).status_code == 200
