"""What the agent may rely on where it acts for users: of the auth service, and of the fake in its place."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc.aio
import jwt
import pytest
from ollamesh.auth.v1 import auth_service_pb2 as pb

from services.agent.adapters.auth_mandates import IDEMPOTENT, SERVICE, AuthMandates
from services.agent.errors import AccessEnded
from services.common.errors import AuthUnavailable, TokenInvalid
from services.common.grpc.client import channel
from services.common.inside import Inside
from tests.fakes.identity import Identity
from tests.service.auth_app import ADMIN_PASSWORD, TIMEOUT_S, Auth, config, serving
from tests.stack import Database


@dataclass(frozen=True, slots=True)
class Subject:
    mandates: AuthMandates
    identity: Identity | None  # None: the real service.
    auth: Auth | None

    async def token(self) -> str:
        if self.identity:
            return self.identity.token(user_id="user:admin", role="admin")
        assert self.auth
        request = pb.LoginRequest(username="admin", password=ADMIN_PASSWORD)
        return (await self.auth.service.Login(request, timeout=TIMEOUT_S)).tokens.access_token


def opened(target: str) -> grpc.aio.Channel:
    return channel(target, inside=Inside.plain("agent"), to="auth", service=SERVICE, idempotent=IDEMPOTENT)


@pytest.fixture(params=["fake", "auth"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "fake":
        identity = Identity()
        async with identity.served() as target, opened(target) as to_fake:
            yield Subject(AuthMandates(to_fake), identity, None)
        return
    database: Database = request.getfixturevalue("database")
    async with serving(config(database("auth"))) as auth, opened(f"127.0.0.1:{auth.port}") as to_auth:
        yield Subject(AuthMandates(to_auth), None, auth)


async def test_a_mandate_gives_tokens_until_it_is_ended(subject: Subject) -> None:
    mandate = await subject.mandates.create(await subject.token(), lifetime_s=3600)
    access = await subject.mandates.redeem(mandate)
    claims = jwt.decode(access.token, options={"verify_signature": False})
    assert (claims["user_id"], claims["aud"]) == ("user:admin", ["inference", "sandbox"])
    assert claims["act"] == {"sub": "service:agent"}
    assert time.time() < access.expire_time_s <= time.time() + 601
    assert (await subject.mandates.redeem(mandate)).token != access.token
    for _ in range(2):
        await subject.mandates.end(mandate)
    with pytest.raises(AccessEnded):
        await subject.mandates.redeem(mandate)


async def test_neither_token_nor_mandate_is_in_what_is_shown(subject: Subject) -> None:
    mandate = await subject.mandates.create(await subject.token(), lifetime_s=3600)
    access = await subject.mandates.redeem(mandate)
    assert access.token not in repr(access)


async def test_what_was_never_given_is_over(subject: Subject) -> None:
    with pytest.raises(AccessEnded):
        await subject.mandates.redeem("omm_unknown")


async def test_a_token_that_is_none_gives_none(subject: Subject) -> None:
    with pytest.raises(TokenInvalid):
        await subject.mandates.create("none", lifetime_s=60)


async def test_a_token_for_the_agent_alone_gives_no_right_to_act() -> None:
    identity = Identity()
    async with identity.served() as target, opened(target) as to_fake:
        mandates = AuthMandates(to_fake)
        with pytest.raises(AccessEnded):
            await mandates.create(identity.token(aud=["agent"]), lifetime_s=60)
        mandate = await mandates.create(identity.token(aud=["agent", "inference"]), lifetime_s=60)
        claims = jwt.decode((await mandates.redeem(mandate)).token, options={"verify_signature": False})
        assert claims["aud"] == ["inference"]


async def test_while_auth_is_away_it_is_said_so() -> None:
    identity = Identity()
    async with identity.served() as target, opened(target) as to_fake:
        mandates, token = AuthMandates(to_fake), identity.token()
        mandate = await mandates.create(token, lifetime_s=60)
        identity.answers = False
        for call in (
            mandates.create(token, lifetime_s=60),
            mandates.redeem(mandate),
            mandates.end(mandate),
        ):
            with pytest.raises(AuthUnavailable):
                await call
        identity.answers = True
        assert await mandates.redeem(mandate)
