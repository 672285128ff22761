"""An OpenID provider over real HTTP: discovery, keys, the authorization endpoint and the token endpoint with PKCE.

    async with OidcProvider.serving() as provider:
        provider.person = {"sub": "1", "groups": ["admins"]}
        answer = await provider.sign_in(url)         # As a browser would be sent back.

It holds clients to the protocol as strictly as real ones do, and lies where a test has it lie.
"""

import base64
import functools
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT_ID, CLIENT_SECRET = "ollamesh-client", "a secret+with/odd characters: %&"
REDIRECT_URI = "http://127.0.0.1:8080/oauth/callback"


@functools.cache
def _key(number: int) -> rsa.RSAPrivateKey:
    """They take long to make, and any number of providers may share them."""
    del number
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


# What a client of this server need not understand, and must not stumble over (RFC 7517, section 5).
STRANGE_KEYS = (
    {"kty": "OKP", "crv": "X25519", "use": "enc", "x": "AA"},
    {"kty": "EC", "crv": "BP-256", "x": "AA", "y": "AA", "kid": "strange"},
    {"kty": "RSA", "kid": "broken"},
    "none at all",
)


class OidcProvider:
    def __init__(self) -> None:
        self.port = 0
        self.person: dict[str, Any] = {"sub": "248289761001", "name": "Jane Doe"}
        self.lies: dict[str, Any] = {}  # Claims to be told instead; None leaves one out.
        self.described: dict[str, Any] = {}  # Likewise, of the description.
        self.sign: Callable[[dict[str, Any]], str] = self.signed
        self.says_who_answers = True
        self.iss_told: str | None = None  # Another `iss` in the answer.
        self.broken: set[str] = set()  # Paths that answer 500.
        self.asked: list[str] = []  # Paths, in their order.
        self._codes: dict[str, dict[str, str]] = {}
        self.key_number = -1
        self.rotate()

    @classmethod
    @asynccontextmanager
    async def serving(cls) -> AsyncIterator[Self]:
        provider = cls()
        app = web.Application(middlewares=[provider._remembered])
        app.router.add_get("/.well-known/openid-configuration", provider._describe)
        app.router.add_get("/keys", provider._keys)
        app.router.add_get("/authorize", provider._authorize)
        app.router.add_post("/token", provider._token)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        provider.port = runner.addresses[0][1]
        try:
            yield provider
        finally:
            await runner.cleanup()

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def rotate(self) -> None:
        """Sign with a new key from now on, and publish that one only."""
        self.key_number += 1
        self.key, self.key_id = _key(self.key_number), secrets.token_hex(4)

    def signed(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self.key, algorithm="RS256", headers={"kid": self.key_id})

    def unsigned(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, "", algorithm="none", headers={"kid": self.key_id})

    def signed_by_another(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, _key(self.key_number + 1), algorithm="RS256", headers={"kid": self.key_id})

    def signed_with_the_public_key(self, claims: dict[str, Any]) -> str:
        """By HMAC, as if what everybody knows were a shared secret."""
        header = {"alg": "HS256", "typ": "JWT", "kid": self.key_id}
        body = ".".join(_text(json.dumps(part).encode()) for part in (header, claims))
        published = json.dumps(self.jwk()).encode()
        return f"{body}.{_text(hmac.digest(published, body.encode(), 'sha256'))}"

    def jwk(self) -> dict[str, Any]:
        public: dict[str, Any] = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        return {**public, "kid": self.key_id, "use": "sig", "alg": "RS256"}

    async def sign_in(self, url: str) -> dict[str, str]:
        """Go where a browser was sent, and give the query with which it is sent back."""
        async with aiohttp.ClientSession() as browser, browser.get(url, allow_redirects=False) as answer:
            assert answer.status == 302, await answer.text()
            return dict(parse_qsl(urlsplit(answer.headers["location"]).query))

    @web.middleware
    async def _remembered(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(request.path)
        if request.path in self.broken:
            return web.Response(status=500)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _describe(self, request: web.Request) -> web.Response:
        usual = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "authorization_response_iss_parameter_supported": self.says_who_answers,
        }
        return web.json_response({**usual, **self.described})

    async def _keys(self, request: web.Request) -> web.Response:
        return web.json_response({"keys": [*STRANGE_KEYS, self.jwk()]})

    async def _authorize(self, request: web.Request) -> web.Response:
        asked = dict(request.query)
        if asked.get("client_id") != CLIENT_ID or asked.get("redirect_uri") != REDIRECT_URI:
            return web.Response(status=400, text="no such client, or not its address")
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe()
        self._codes[code] = asked
        answer = {"code": code, "state": asked["state"]}
        if self.says_who_answers:
            answer["iss"] = self.iss_told or self.issuer
        return web.Response(status=302, headers={"location": f"{REDIRECT_URI}?{urlencode(answer)}"})

    async def _token(self, request: web.Request) -> web.Response:
        form = dict(await request.post())
        expected = _basic()
        if request.headers.get("authorization") != expected:
            return web.json_response({"error": "invalid_client"}, status=401)
        asked = self._codes.pop(str(form.get("code")), None)
        verifier = hashlib.sha256(str(form.get("code_verifier")).encode()).digest()
        if (
            asked is None
            or form.get("redirect_uri") != REDIRECT_URI
            or _text(verifier) != asked["code_challenge"]
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        now_s = int(time.time())
        usual = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "iat": now_s,
            "exp": now_s + 300,
            "nonce": asked["nonce"],
        }
        told = {**usual, **self.person, **self.lies}
        claims = {name: value for name, value in told.items() if value is not None}
        return web.json_response(
            {"access_token": "opaque", "token_type": "Bearer", "id_token": self.sign(claims)}
        )


def _basic() -> str:
    """RFC 6749 section 2.3.1: both are form-encoded first."""
    pair = urlencode({CLIENT_ID: CLIENT_SECRET}).replace("=", ":", 1)
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
