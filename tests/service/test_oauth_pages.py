"""The authorization code and device grants as browsers and OAuth clients see them, through the real edge."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlencode

import asyncpg
import httpx
import pytest
import pytest_asyncio
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from ollamesh.client import CallError, device

from services.auth.core.client_secret import SecretDigest
from services.auth.core.oauth import server_metadata
from tests.service import auth_app
from tests.service.auth_app import CLIENT_SECRET, ISSUER
from tests.service.edge_app import World, whole
from tests.service.oauth_web import CALLBACK, CLI, VERIFIER, Browser, hidden, sent_back
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

APP = {"client_id": "app", "redirect_uri": "https://app.example/cb?x=1"}
APP_SECRET = "a" * 40
REGISTERED = """
    INSERT INTO oauth_clients (client_id, organization_id, display_name, redirect_uris, grants, scopes, secret_digest)
    VALUES ('app', 'default', '<script>alert(1)</script>', '{https://app.example/cb?x=1}',
            '{authorization_code,refresh_token}', '{inference}', $1),
           ('elsewhere', 'other', 'Elsewhere', '{https://app.example/cb?x=1}', '{authorization_code}', '{inference}', $1)
"""


@dataclass(frozen=True, slots=True)
class Place:
    world: World
    database: Database


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(module_database: Database) -> AsyncIterator[Place]:
    async with whole(auth_app.config(module_database("auth"))) as world:
        connection = await asyncpg.connect(module_database("auth"))
        await connection.execute("SET ollamesh.system = 'on'")
        await connection.execute("INSERT INTO organizations VALUES ('other', 'Other')")
        await connection.execute(REGISTERED, SecretDigest("s" * 32).of(APP_SECRET))
        await connection.close()
        yield Place(world, module_database)


@pytest_asyncio.fixture(loop_scope="module")
async def browser(place: Place) -> AsyncIterator[Browser]:
    async with httpx.AsyncClient(timeout=20) as http:
        yield Browser(http, place.world.stack.url)


async def test_an_independent_client_gets_in_by_code_and_pkce_and_stays_in(browser: Browser) -> None:
    client = AsyncOAuth2Client(CLI, redirect_uri=CALLBACK, code_challenge_method="S256", timeout=20)
    where, state = client.create_authorization_url(
        f"{browser.edge}/oauth/authorize", code_verifier=VERIFIER, scope="inference"
    )
    page = await browser.http.get(where)
    consent = await browser.sign_in(page)
    assert "Ollamesh command line" in consent.text
    answer = await browser.decide(consent)
    assert sent_back(answer)["iss"] == ISSUER
    token = await client.fetch_token(
        f"{browser.edge}/oauth/token",
        authorization_response=answer.headers["location"],
        state=state,
        code_verifier=VERIFIER,
    )
    assert (token["token_type"], token["scope"], token["expires_in"]) == ("Bearer", "inference", 600)
    renewed = await client.refresh_token(f"{browser.edge}/oauth/token", token["refresh_token"])
    assert renewed["refresh_token"] != token["refresh_token"]
    revoked = await client.revoke_token(f"{browser.edge}/oauth/revoke", renewed["refresh_token"])
    assert revoked.status_code == 200
    again = await browser.token(
        {"grant_type": "refresh_token", "client_id": CLI, "refresh_token": renewed["refresh_token"]}
    )
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    await client.aclose()


async def test_state_comes_back_to_the_letter_and_the_page_says_who_asks(browser: Browser) -> None:
    page = await browser.open("/oauth/authorize", browser.authorization())
    answer = await browser.decide(await browser.sign_in(page))
    assert sent_back(answer)["state"] == "s t&te"
    assert answer.headers["location"].startswith(f"{CALLBACK}?")
    assert answer.headers["cache-control"] == "no-store"


async def test_a_code_is_good_once_and_its_second_use_ends_everything(browser: Browser) -> None:
    code = await browser.code()
    first = (await browser.redeemed(code)).json()
    assert (await browser.redeemed(code)).json()["error"] == "invalid_grant"
    refresh = {"grant_type": "refresh_token", "client_id": CLI, "refresh_token": first["refresh_token"]}
    assert (await browser.token(refresh)).json()["error"] == "invalid_grant"
    revoked = {"token": first["access_token"], "client_id": "ollamesh", "client_secret": CLIENT_SECRET}
    said = await browser.http.post(f"{browser.edge}/oauth/introspect", data=revoked)
    assert said.json() == {"active": False}


@pytest.mark.parametrize(
    "wrong",
    [
        {"code_verifier": "w" * 43},
        {"code_verifier": "short"},
        {"redirect_uri": "http://127.0.0.1:51235/callback"},
        {"client_id": "app", "client_secret": APP_SECRET},
        {"code": "x" * 43},
    ],
    ids=str,
)
async def test_a_code_needs_its_verifier_its_address_and_its_client(
    browser: Browser, wrong: dict[str, str]
) -> None:
    code = await browser.code()
    answer = await browser.redeemed(code, **wrong)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    if "code" not in wrong:  # Whoever tried without has used it up.
        assert (await browser.redeemed(code)).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "wrong",
    [
        {"redirect_uri": "https://evil.example/cb"},
        {"redirect_uri": "http://127.0.0.1:51234/callback/x"},
        {"redirect_uri": "http://127.0.0.1:51234/callback#f"},
        {"redirect_uri": "http://127.0.0.1@evil.example/callback"},
        {"redirect_uri": "http://localhost:51234/callback"},
        {"redirect_uri": None},
        {"client_id": "nobody"},
        {"client_id": None},
        {"client_id": "app", "redirect_uri": "https://app.example/cb"},
        {"state": "x" * 2000},
    ],
    ids=str,
)
async def test_nobody_is_sent_where_it_is_not_safe(browser: Browser, wrong: dict[str, str | None]) -> None:
    answer = await browser.open("/oauth/authorize", browser.authorization(**wrong))
    assert answer.status_code == 400
    assert "location" not in answer.headers
    assert "evil" not in answer.text


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge": None, "code_challenge_method": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "code token"}, "unsupported_response_type"),
        ({"response_type": None}, "unsupported_response_type"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"scope": "root"}, "invalid_scope"),
        ({"request": "jwt"}, "request_not_supported"),
        ({"request_uri": "https://evil.example"}, "request_uri_not_supported"),
    ],
    ids=str,
)
async def test_the_client_learns_what_is_wrong_with_its_request(
    browser: Browser, wrong: dict[str, str | None], error: str
) -> None:
    answer = await browser.open("/oauth/authorize", browser.authorization(**wrong))
    assert answer.status_code == 303
    told = sent_back(answer)
    assert (told["error"], told["state"], told["iss"]) == (error, "s t&te", ISSUER)


async def test_a_parameter_that_is_given_twice_is_noticed(browser: Browser) -> None:
    query = urlencode([*browser.authorization().items(), ("scope", "auth"), ("scope", "agent")])
    answer = await browser.open(f"/oauth/authorize?{query}")
    assert sent_back(answer)["error"] == "invalid_request"


async def test_pages_are_locked_down(browser: Browser) -> None:
    page = await browser.open("/oauth/authorize", browser.authorization(**APP, code_challenge_method="S256"))
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self' https://app.example;" in policy
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["x-content-type-options"] == "nosniff"
    cookie = page.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "<script>" not in page.text
    assert "&lt;script&gt;" in page.text
    assert '<html lang="en">' in page.text
    assert page.text.count("<label") == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": ""},
        {"origin": "null"},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"cookie": "ollamesh-page=another"},
        {"origin": "https://evil.example", "x-ollamesh-origin": "https://evil.example"},
    ],
    ids=str,
)
async def test_a_form_from_elsewhere_is_refused_before_the_password_is_looked_at(
    browser: Browser, headers: dict[str, str]
) -> None:
    page = await browser.open("/oauth/authorize", browser.authorization())
    browser.told = headers
    answer = await browser.sign_in(page)
    assert answer.status_code in {400, 403}
    assert "location" not in answer.headers


async def test_a_ticket_of_another_page_or_browser_or_maker_is_none(browser: Browser) -> None:
    page = await browser.open("/oauth/authorize", browser.authorization())
    ticket = hidden(page)["ticket"]
    good = {"username": "admin", "password": auth_app.ADMIN_PASSWORD}
    for form in (
        {"ticket": ticket, "step": "consent", "decision": "allow"},
        {"ticket": ticket[:-2] + "AA", "step": "sign-in", **good},
        {"ticket": "", "step": "sign-in", **good},
    ):
        assert (await browser.submit("/oauth/authorize", form)).status_code == 400
    browser.http.cookies.clear()
    await browser.open("/oauth/authorize", browser.authorization())
    stolen = await browser.submit("/oauth/authorize", {"ticket": ticket, "step": "sign-in", **good})
    assert stolen.status_code == 400


async def test_a_wrong_password_shows_the_page_again(browser: Browser) -> None:
    page = await browser.open("/oauth/authorize", browser.authorization())
    again = await browser.sign_in(page, password="wrong")
    assert again.status_code == 401
    assert 'role="alert"' in again.text
    assert (await browser.sign_in(again)).status_code == 200


async def test_who_says_no_is_believed(browser: Browser) -> None:
    page = await browser.open("/oauth/authorize", browser.authorization())
    answer = await browser.decide(await browser.sign_in(page), "deny")
    assert (answer.status_code, sent_back(answer)["error"]) == (303, "access_denied")


async def test_a_client_of_another_organisation_gets_nobody(browser: Browser) -> None:
    asked = browser.authorization(client_id="elsewhere", redirect_uri=APP["redirect_uri"])
    answer = await browser.decide(await browser.sign_in(await browser.open("/oauth/authorize", asked)))
    assert sent_back(answer)["error"] == "access_denied"
    assert sent_back(answer)["x"] == "1"


async def test_a_confidential_client_must_prove_itself_and_never_gets_more_than_it_holds(
    browser: Browser,
) -> None:
    code = await browser.code(**APP)
    naked = await browser.redeemed(code, **APP)
    assert (naked.status_code, naked.json()["error"]) == (401, "invalid_client")
    token = (await browser.redeemed(code, **APP, client_secret=APP_SECRET)).json()
    assert token["scope"] == "inference"
    app = {"client_id": "app", "client_secret": APP_SECRET}
    said = await browser.http.post(
        f"{browser.edge}/oauth/introspect", data=app | {"token": token["access_token"]}
    )
    assert said.json()["active"]
    assert (said.json()["role"], said.json()["sub"]) == ("user", "user:admin")
    assert said.json()["iss"] == ISSUER


async def test_a_device_gets_in_when_its_user_says_so(browser: Browser) -> None:
    begun = (
        await browser.http.post(
            f"{browser.edge}/oauth/device_authorization", data={"client_id": CLI, "scope": "agent"}
        )
    ).json()
    assert begun["verification_uri"] == f"{ISSUER}/device"
    poll = {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "client_id": CLI,
        "device_code": begun["device_code"],
    }
    waits = await browser.token(poll)
    assert (waits.status_code, waits.json()["error"]) == (400, "authorization_pending")
    assert (await browser.token(poll)).json()["error"] == "slow_down"
    page = await browser.open("/device", {"user_code": begun["user_code"]})
    assert begun["user_code"] in page.text
    typed = begun["user_code"].lower().replace("-", " ")
    consent = await browser.sign_in(page, user_code=typed)
    assert "Ollamesh command line" in consent.text
    assert (await browser.decide(consent)).status_code == 200
    got = (await browser.token(poll)).json()
    assert (got["scope"], got["refresh_token"][:4]) == ("agent", "omr_")
    assert (await browser.token(poll)).json()["error"] == "invalid_grant"
    assert (await browser.decide(consent)).status_code == 404


async def test_a_program_logs_in_by_device_over_grpc(place: Place, browser: Browser) -> None:
    login = await device.begin(place.world.stack.url)
    waited_s: list[float] = []

    async def approve_at_the_second_question(seconds: float) -> None:
        waited_s.append(seconds)
        if len(waited_s) == 2:
            page = await browser.open(f"/device?user_code={login.user_code}")
            await browser.decide(await browser.sign_in(page, user_code=login.user_code))

    session = await login.wait(sleep=approve_at_the_second_question)
    assert waited_s == [5, 5]
    assert session.refresh_token.startswith("omr_")
    refused = await device.begin(place.world.stack.url)

    async def deny(seconds: float) -> None:
        page = await browser.open("/device")
        await browser.decide(await browser.sign_in(page, user_code=refused.user_code), "deny")

    with pytest.raises(CallError) as failed:
        await refused.wait(sleep=deny)
    assert failed.value.reason == "access_denied"


async def test_a_device_that_is_refused_or_unknown_gets_nothing(browser: Browser) -> None:
    where = f"{browser.edge}/oauth/device_authorization"
    begun = (await browser.http.post(where, data={"client_id": CLI})).json()
    page = await browser.open("/device")
    unknown = await browser.sign_in(page, user_code="BCDF-BCDF")
    assert unknown.status_code == 404
    consent = await browser.sign_in(await browser.open("/device"), user_code=begun["user_code"])
    await browser.decide(consent, "deny")
    poll = {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "client_id": CLI,
        "device_code": begun["device_code"],
    }
    assert (await browser.token(poll)).json()["error"] == "access_denied"
    for form, error in (
        ({"client_id": "nobody"}, "invalid_client"),
        ({"client_id": "app"}, "invalid_client"),
        ({"client_id": "app", "client_secret": APP_SECRET}, "unauthorized_client"),
        ({"client_id": CLI, "scope": "root"}, "invalid_scope"),
    ):
        assert (await browser.http.post(where, data=form)).json()["error"] == error


async def test_what_a_link_holds_is_escaped(browser: Browser) -> None:
    page = await browser.open("/device", {"user_code": '"><script>x'})
    assert "<script>" not in page.text


async def test_the_server_describes_itself_as_rfc_8414_wants(browser: Browser) -> None:
    for path in ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"):
        assert (await browser.open(path)).json()["issuer"] == ISSUER
    AuthorizationServerMetadata(server_metadata("https://mesh.example")).validate()


async def test_the_services_own_account_can_be_used_as_before(browser: Browser) -> None:
    form = {"grant_type": "client_credentials", "client_id": "ollamesh", "client_secret": CLIENT_SECRET}
    answer = (await browser.token(form)).json()
    assert "refresh_token" not in answer
