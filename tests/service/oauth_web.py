"""A browser, as far as the auth service's pages need one: cookies, the origin that it tells, forms."""

import html
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import httpx
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from tests.service.auth_app import ADMIN_PASSWORD

VERIFIER = "v" * 43
CALLBACK = "http://127.0.0.1:51234/callback"
CLI = "ollamesh-cli"


@dataclass(slots=True)
class Browser:
    http: httpx.AsyncClient
    edge: str
    told: dict[str, str] = field(default_factory=dict)  # Headers that it adds to every form.

    def authorization(self, **more: str | None) -> dict[str, str]:
        """The parameters of an authorization request. None leaves one out."""
        usual: dict[str, str | None] = {
            "response_type": "code",
            "client_id": CLI,
            "redirect_uri": CALLBACK,
            "state": "s t&te",
            "code_challenge": create_s256_code_challenge(VERIFIER),
            "code_challenge_method": "S256",
        }
        return {name: value for name, value in (usual | more).items() if value is not None}

    async def open(self, path: str, parameters: object = None) -> httpx.Response:
        return await self.http.get(f"{self.edge}{path}", params=parameters)  # type: ignore[arg-type]

    async def submit(self, path: str, form: dict[str, str], **headers: str) -> httpx.Response:
        own = {"origin": self.edge, "sec-fetch-site": "same-origin"} | self.told | headers
        return await self.http.post(
            f"{self.edge}{path}", data=form, headers={name: value for name, value in own.items() if value}
        )

    async def sign_in(
        self, page: httpx.Response, *, username: str = "admin", password: str = ADMIN_PASSWORD, **more: str
    ) -> httpx.Response:
        return await self.submit(
            page.url.path, hidden(page) | {"username": username, "password": password} | more
        )

    async def decide(self, page: httpx.Response, decision: str = "allow") -> httpx.Response:
        return await self.submit(page.url.path, hidden(page) | {"decision": decision})

    async def code(self, **more: str | None) -> str:
        """Through all pages to a code."""
        page = await self.open("/oauth/authorize", self.authorization(**more))
        assert page.status_code == 200, page.text
        answer = await self.sign_in(page)
        if answer.status_code == 200:
            answer = await self.decide(answer)
        assert answer.status_code == 303, answer.text
        return sent_back(answer)["code"]

    async def token(self, form: dict[str, str], **headers: str) -> httpx.Response:
        return await self.http.post(f"{self.edge}/oauth/token", data=form, headers=headers)

    async def redeemed(self, fetched: str, **more: str) -> httpx.Response:
        form = {
            "grant_type": "authorization_code",
            "client_id": CLI,
            "code": fetched,
            "redirect_uri": CALLBACK,
            "code_verifier": VERIFIER,
        }
        return await self.token(form | more)


def hidden(page: httpx.Response) -> dict[str, str]:
    """A form's hidden fields."""
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text)
    assert found, page.text
    return {name: html.unescape(value) for name, value in found}


def sent_back(answer: httpx.Response) -> dict[str, str]:
    """What a client is told in the address that a browser is sent to."""
    query = parse_qs(urlsplit(answer.headers["location"]).query, strict_parsing=True)
    assert all(len(values) == 1 for values in query.values())
    return {name: values[0] for name, values in query.items()}
