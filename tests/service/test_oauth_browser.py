"""Signing in with a real browser: its pages, what it sends back, and the cookie in which it keeps a login."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import pytest_asyncio

from deploy.local import certificate
from deploy.local.certificate import CertificateFiles
from tests import browser as browsers
from tests.browser import Browser
from tests.service.auth_app import ADMIN_PASSWORD, ISSUER
from tests.service.edge_app import LOOPBACK
from tests.service.oauth_place import Place, place_of
from tests.service.web_page import page_server
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
# What a page of this origin does at the token endpoint; foreign pages try the same.
POST = """(async ([url, form, headers]) => {
  try {
    const answer = await fetch(url, {
      method: "POST", headers, body: new URLSearchParams(form), credentials: "include", redirect: "error",
    });
    return { status: answer.status, body: await answer.json(), readable: document.cookie };
  } catch (error) {
    return { failed: error.name };
  }
})(%s)"""
REFRESH = {"grant_type": "refresh_token", "client_id": "web"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(module_database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    files = CertificateFiles(tmp_path_factory.mktemp("tls"))
    certificate.make(files, ("localhost", LOOPBACK))
    own = {"OLLAMESH_EDGE_CERT_FILE": str(files.certificate), "OLLAMESH_EDGE_KEY_FILE": str(files.key)}
    async with place_of(module_database, **own) as found:
        # Without a port it is any port of this machine (RFC 8252).
        anywhere = "UPDATE oauth_clients SET redirect_uris = $1 WHERE client_id = 'web'"
        await found.execute(anywhere, [f"http://{LOOPBACK}/callback"])
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with browsers.opened() as opened:
        yield opened


async def signed_in(place: Place, browser: Browser, edge: str, callback: str) -> dict[str, list[str]]:
    """Sign in as the admin, for the client `web`; return what the browser brings back."""
    asked = {
        "response_type": "code",
        "client_id": "web",
        "redirect_uri": callback,
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        "state": "as it was",
    }
    assert await browser.goto(f"{edge}/oauth/authorize?{urlencode(asked)}") == 200
    await browser.fill("input[name=username]", "admin")
    await browser.fill("input[name=password]", ADMIN_PASSWORD)
    await browser.click("button[type=submit]")
    await browser.until_url(callback)
    return parse_qs(urlsplit(await browser.url()).query)


async def post(browser: Browser, url: str, form: dict[str, str], **headers: str) -> dict[str, object]:
    found = await browser.evaluate(POST % json.dumps([url, form, headers]))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
async def test_a_browser_signs_in_and_keeps_its_login_from_scripts_and_strangers(
    place: Place, browser: Browser, *, secure: bool
) -> None:
    edge = place.world.stack.tls_url if secure else place.world.stack.url
    async with page_server() as port:
        callback = f"http://{LOOPBACK}:{port}/callback"
        brought = await signed_in(place, browser, edge, callback)
        assert (brought["state"], brought["iss"]) == (["as it was"], [ISSUER])
        code = {
            "grant_type": "authorization_code",
            "client_id": "web",
            "code": brought["code"][0],
            "redirect_uri": callback,
            "code_verifier": VERIFIER,
        }
        await browser.goto(f"{edge}/")  # A page of the edge's own origin; the ones to sign in on call nobody.
        answer = await post(browser, f"{edge}/oauth/token", code, **{"x-csrf": "1"})
        assert answer["status"] == 200, answer
        assert "omr_" not in json.dumps(answer), "a script has read the refresh token"

        (kept,) = [one for one in await browser.cookies() if "refresh" in str(one["name"])]
        assert kept["name"] == ("__Host-ollamesh-refresh" if secure else "ollamesh-refresh")
        assert (kept["httpOnly"], kept["sameSite"], kept["secure"]) == (True, "Strict", secure)
        renewed = await post(browser, f"{edge}/oauth/token", REFRESH, **{"x-csrf": "1"})
        assert renewed["status"] == 200, renewed
        assert (await post(browser, f"{edge}/oauth/token", REFRESH))["status"] == 400  # Without the header.

        await browser.goto(callback)  # A page of another origin.
        assert await post(browser, f"{edge}/oauth/token", REFRESH, **{"x-csrf": "1"}) == {
            "failed": "TypeError"
        }

        await browser.goto(f"{edge}/")
        assert (await post(browser, f"{edge}/oauth/logout", {}, **{"x-csrf": "1"})).get("failed") is None
        assert not [one for one in await browser.cookies() if "refresh" in str(one["name"])]
        assert (await post(browser, f"{edge}/oauth/token", REFRESH, **{"x-csrf": "1"}))["status"] == 400


async def test_pages_can_be_read_and_used_by_everybody(
    place: Place, browser: Browser, tmp_path: Path
) -> None:
    """Every field has a label, the language is said, and the page works without scripts, frames and other sites."""
    await browser.goto(f"{place.world.stack.url}/device")
    unlabelled = (
        "[...document.querySelectorAll('input:not([type=hidden])')].filter(i => !i.labels.length).length"
    )
    assert await browser.evaluate(unlabelled) == 0
    assert await browser.evaluate("document.documentElement.lang") == "en"
    assert await browser.evaluate("document.scripts.length") == 0
    await browser.screenshot(tmp_path / "device.png")
    assert (tmp_path / "device.png").stat().st_size > 0
