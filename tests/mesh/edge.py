"""The mesh as a caller sees it: one port, tokens good and bad."""

import asyncio
import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

import grpc
import grpc.aio
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from ollamesh.auth.v1.auth_service_pb2 import LoginRequest
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from ollamesh.inference.v1.fleet_pb2 import Fleet, GetFleetRequest
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from services.common.tokens import LIFETIME_MAX_S

MODEL = "smollm2:135m"
Metadata = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Edge:
    """`signing_key` is the mesh's own, by which a test can write tokens that the mesh would not."""

    url: str
    admin_password: str
    signing_key: ec.EllipticCurvePrivateKey
    signing_key_id: str
    _tokens: dict[str, str] = field(default_factory=dict)
    _renew_at_s: dict[str, float] = field(default_factory=dict)

    @property
    def target(self) -> str:
        return urlsplit(self.url).netloc

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.target)

    def token(self, *, role: str = "admin") -> str:
        """A real one, from a login; another one when half of its life is over, for the suite may take longer."""
        if time.monotonic() > self._renew_at_s.get(role, 0.0):
            request = LoginRequest(
                username="admin", password=self.admin_password, role=f"ROLE_{role.upper()}"
            )
            with grpc.insecure_channel(self.target) as channel:
                self._tokens[role] = AuthServiceStub(channel).Login(request, timeout=10).tokens.access_token
            self._renew_at_s[role] = time.monotonic() + LIFETIME_MAX_S / 2
        return self._tokens[role]

    def metadata(self, *, role: str = "admin") -> Metadata:
        return (("authorization", f"Bearer {self.token(role=role)}"),)

    def hostile_metadata(self, kind: str) -> Metadata:
        """A token that must not be let in; see test_bad_input.py."""
        if kind == "none":
            return ()
        claims = jwt.decode(self.token(), options={"verify_signature": False})
        key: ec.EllipticCurvePrivateKey | None = self.signing_key
        match kind:
            case "garbage":
                return (("authorization", "Bearer nonsense"),)
            case "forged":
                key = ec.generate_private_key(ec.SECP256R1())
            case "unsigned":
                key = None
            case "other audience":
                claims["aud"] = ["elsewhere"]
            case "expired":
                now_s = int(time.time())
                claims |= {"iat": now_s - 400, "nbf": now_s - 400, "exp": now_s - 120}
            case _:
                raise ValueError(kind)
        return (("authorization", f"Bearer {self._signed(claims, key)}"),)

    def _signed(self, claims: Mapping[str, object], key: ec.EllipticCurvePrivateKey | None) -> str:
        headers = {"typ": "at+jwt", "kid": self.signing_key_id}
        if key is not None:
            return jwt.encode(dict(claims), key, algorithm="ES256", headers=headers)
        parts = (json.dumps({**headers, "alg": "none"}), json.dumps(claims))
        return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts) + "."

    async def fleet(self) -> Fleet:
        async with self.channel() as channel:
            reply = await InferenceServiceStub(channel).GetFleet(
                GetFleetRequest(), timeout=10, metadata=self.metadata()
            )
        return reply.fleet

    async def busy_slot_count(self) -> int:
        return sum(instance.busy_slot_count for instance in (await self.fleet()).instances)

    async def get(self, path: str) -> tuple[int, str]:
        return await asyncio.to_thread(_http, Request(self.url + path))

    async def post_form(self, path: str, form: Mapping[str, str]) -> tuple[int, str]:
        return await asyncio.to_thread(_http, Request(self.url + path, data=urlencode(form).encode()))


def _http(request: Request) -> tuple[int, str]:
    try:
        with urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()
