"""Logging in on another device (RFC 8628): for programs where nobody can, or should, type a password.

login = await device.begin("https://mesh.example")
print(f"Open {login.verification_uri} and enter {login.user_code}")
session = await login.wait()
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import grpc
import grpc.aio
from google.api.httpbody_pb2 import HttpBody
from ollamesh.auth.v1.oauth_service_pb2_grpc import OAuthServiceStub
from ollamesh.client.channel import open_channel
from ollamesh.client.credentials import Session
from ollamesh.client.errors import CallError, error_of

CLIENT_ID = "ollamesh-cli"
GRANT = "urn:ietf:params:oauth:grant-type:device_code"
FORM = "application/x-www-form-urlencoded"
DEADLINE_S = 10.0
SLOWER_BY_S = 5.0
WAITS = {"authorization_pending", "slow_down"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLogin:
    """What a person is shown, and what the program waits with."""

    target: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    lifetime_s: float
    interval_s: float
    device_code: str = field(repr=False)

    async def wait(self, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> Session:
        """Return once the person has agreed. Raises CallError: `access_denied` or `expired_token` is its reason."""
        interval_s = self.interval_s
        form = {"grant_type": GRANT, "client_id": CLIENT_ID, "device_code": self.device_code}
        async with open_channel(self.target) as channel:
            while True:
                await sleep(interval_s)
                asked_at_s = time.time()
                answer = await _posted(OAuthServiceStub(channel).Token, form)
                error = answer.get("error")
                if error is None:
                    expires_at = datetime.fromtimestamp(asked_at_s + answer["expires_in"], UTC)
                    return Session(answer["access_token"], expires_at, answer["refresh_token"])
                if error not in WAITS:
                    raise _error(answer)
                if error == "slow_down":
                    interval_s += SLOWER_BY_S


async def begin(target: str) -> DeviceLogin:
    """Ask the mesh at `target` for a code. Raises CallError."""
    async with open_channel(target) as channel:
        answer = await _posted(OAuthServiceStub(channel).AuthorizeDevice, {"client_id": CLIENT_ID})
    if "error" in answer:
        raise _error(answer)
    return DeviceLogin(
        target=target,
        user_code=answer["user_code"],
        verification_uri=answer["verification_uri"],
        verification_uri_complete=answer["verification_uri_complete"],
        lifetime_s=answer["expires_in"],
        interval_s=answer["interval"],
        device_code=answer["device_code"],
    )


async def _posted(
    method: grpc.aio.UnaryUnaryMultiCallable[HttpBody, HttpBody], form: dict[str, str]
) -> dict[str, Any]:
    """A form's answer. gRPC carries the same bytes as HTTP, but no status: the document says what failed."""
    try:
        body = await method(HttpBody(content_type=FORM, data=urlencode(form).encode()), timeout=DEADLINE_S)
    except grpc.aio.AioRpcError as failure:
        raise error_of(failure) from None
    answer: dict[str, Any] = json.loads(body.data)
    return answer


def _error(answer: dict[str, Any]) -> CallError:
    return CallError(
        code=grpc.StatusCode.PERMISSION_DENIED,
        message=answer.get("error_description", "the login was refused"),
        reason=answer["error"],
        domain="auth.ollamesh",
    )
