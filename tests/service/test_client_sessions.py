"""How the client makes a login last, against the real auth service."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import asyncpg
import jwt
import pytest
import pytest_asyncio
from ollamesh.client import CallError, Password, SavedSession, Session
from ollamesh.client.channel import open_channel
from ollamesh.client.tokens import Tokens

from tests.service.auth_app import ADMIN_PASSWORD, Auth, config, serving
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADMIN = Password("admin", ADMIN_PASSWORD)


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(slots=True)
class Kept:
    """Where a session is kept, and how often it was saved."""

    session: Session
    saved: list[Session] = field(default_factory=list)

    def load(self) -> Session:
        return self.session

    def save(self, session: Session) -> None:
        self.session = session
        self.saved.append(session)

    def age(self) -> None:
        """As long ago that its access token has expired."""
        self.session = replace(self.session, expire_time=datetime(2000, 1, 1, tzinfo=UTC))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auth(module_database: Database) -> AsyncIterator[Auth]:
    async with serving(config(module_database("auth"))) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def kept(auth: Auth) -> Kept:
    tokens = Tokens(ADMIN, auth.channel)
    session = await tokens.session()
    assert session is not None
    return Kept(session)


def session_of(token: str) -> str:
    return str(jwt.decode(token, options={"verify_signature": False})["sid"])


async def test_a_password_is_sent_once_and_the_login_goes_on(auth: Auth) -> None:
    clock = Clock()
    async with open_channel(f"http://127.0.0.1:{auth.port}") as channel:
        tokens = Tokens(ADMIN, channel, now_s=clock)
        first = await tokens.token()
        for _ in range(3):
            clock.now_s += 600
            later = await tokens.token()
            assert later != first
            assert session_of(later.value) == session_of(first.value)
        await tokens.close()


async def test_who_has_a_password_logs_in_anew_when_the_login_was_ended(
    auth: Auth, module_database: Database
) -> None:
    clock = Clock()
    tokens = Tokens(ADMIN, auth.channel, now_s=clock)
    first = await tokens.token()
    connection = await asyncpg.connect(module_database("auth"))
    await connection.execute(
        "UPDATE refresh_families SET revoke_time = now() WHERE session_id = $1", session_of(first.value)
    )
    await connection.close()
    clock.now_s += 600
    assert session_of((await tokens.token()).value) != session_of(first.value)
    await tokens.close()


async def test_a_saved_login_is_used_as_it_is_while_it_is_good(auth: Auth, kept: Kept) -> None:
    tokens = Tokens(SavedSession(kept), auth.channel)
    assert (await tokens.token()).value == kept.session.access_token
    assert kept.saved == []


async def test_a_saved_login_is_renewed_and_saved(auth: Auth, kept: Kept) -> None:
    before = kept.session
    kept.age()
    token = await Tokens(SavedSession(kept), auth.channel).token()
    (saved,) = kept.saved
    assert token.value == saved.access_token != before.access_token
    assert saved.refresh_token != before.refresh_token
    kept.age()
    assert (await Tokens(SavedSession(kept), auth.channel).token()).value != token.value


async def test_a_token_that_was_refused_is_not_taken_from_the_file_again(auth: Auth, kept: Kept) -> None:
    tokens = Tokens(SavedSession(kept), auth.channel)
    token = await tokens.token()
    tokens.forget(token)
    assert await tokens.token() != token
    assert len(kept.saved) == 1


async def test_programs_that_renew_at_once_end_up_with_one_login(auth: Auth, kept: Kept) -> None:
    kept.age()
    programs = [Tokens(SavedSession(kept), auth.channel) for _ in range(4)]
    await asyncio.gather(*(program.token() for program in programs))
    assert len({saved.refresh_token for saved in kept.saved}) == 1
    kept.age()
    await programs[0].token()


async def test_a_login_that_is_over_is_told_to_be(auth: Auth, kept: Kept) -> None:
    kept.session = replace(kept.session, refresh_token="omr_" + "A" * 64)
    kept.age()
    with pytest.raises(CallError) as failed:
        await Tokens(SavedSession(kept), auth.channel).token()
    assert failed.value.reason == "GRANT_INVALID"


async def test_a_saved_login_can_give_a_shorter_token(auth: Auth, kept: Kept) -> None:
    token = await Tokens(SavedSession(kept, lifetime_s=5), auth.channel).token()
    assert token.expire_time is not None
    assert (token.expire_time - datetime.now(UTC)).total_seconds() <= 5
