"""How the client keeps its token fresh, against a real server that counts logins."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from ollamesh.client import AccessToken, CallError, Client, ClientCredentials, Password, StaticToken
from ollamesh.client.channel import open_channel
from ollamesh.client.tokens import Tokens
from ollamesh.inference.v1.fleet_pb2 import GetFleetRequest, GetFleetResponse

from tests.fakes.scripted_mesh import (
    CLIENT_ID,
    CLIENT_SECRET,
    PASSWORD,
    USERNAME,
    CredentialsInvalid,
    ScriptedMesh,
    Unavailable,
)

GOOD = Password(USERNAME, PASSWORD)


@pytest.fixture
async def mesh() -> AsyncIterator[ScriptedMesh]:
    async def fleet(request: GetFleetRequest, context: object) -> GetFleetResponse:
        return GetFleetResponse()

    mesh = ScriptedMesh()
    mesh.unary["GetFleet"] = fleet
    async with mesh.serving():
        yield mesh


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def tokens(mesh: ScriptedMesh, clock: Clock) -> AsyncIterator[Tokens]:
    """Of a user whose tokens live for 600 s, by a clock that only the test moves."""
    async with open_channel(mesh.url) as channel:
        tokens = Tokens(GOOD, channel, now_s=clock)
        yield tokens
        await tokens.close()


async def test_many_calls_share_one_login(mesh: ScriptedMesh) -> None:
    mesh.login_delay_s = 0.1
    async with Client(mesh.url, GOOD) as client:
        await asyncio.gather(*(client.fleet() for _ in range(50)))
    assert len(mesh.logins) == 1
    assert mesh.calls.count("GetFleet") == 50


async def test_a_wrong_password_is_tried_once_for_all_that_wait(mesh: ScriptedMesh) -> None:
    mesh.login_delay_s = 0.1
    async with Client(mesh.url, Password(USERNAME, "wrong")) as client:
        failures = await asyncio.gather(*(client.fleet() for _ in range(50)), return_exceptions=True)
    assert {failure.reason for failure in failures if isinstance(failure, CallError)} == {
        "CREDENTIALS_INVALID"
    }
    assert len(failures) == 50
    assert len(mesh.logins) == 1


async def test_a_young_token_is_kept(mesh: ScriptedMesh, tokens: Tokens, clock: Clock) -> None:
    first = await tokens.token()
    clock.now_s += 440
    assert await tokens.token() == first
    assert len(mesh.logins) == 1


async def test_an_old_token_is_replaced_while_calls_go_on(
    mesh: ScriptedMesh, tokens: Tokens, clock: Clock
) -> None:
    first = await tokens.token()
    mesh.login_delay_s = 0.05
    clock.now_s += 500
    assert await tokens.token() == first  # Nobody waits for the new one.
    assert await tokens.token() == first
    await _until(lambda: tokens._login is None)
    assert await tokens.token() != first
    assert len(mesh.logins) == 2


async def test_calls_wait_when_the_token_is_all_but_expired(
    mesh: ScriptedMesh, tokens: Tokens, clock: Clock
) -> None:
    first = await tokens.token()
    clock.now_s += 590
    assert len({first, *await asyncio.gather(tokens.token(), tokens.token())}) == 2
    assert len(mesh.logins) == 2


async def test_a_failed_renewal_harms_nobody_until_the_token_expires(
    mesh: ScriptedMesh, tokens: Tokens, clock: Clock
) -> None:
    first = await tokens.token()
    clock.now_s += 500
    mesh.login_failures = [CredentialsInvalid()]
    assert await tokens.token() == first
    await _until(lambda: tokens._login is None)
    mesh.login_failures = [CredentialsInvalid()]
    assert await tokens.token() == first
    await _until(lambda: tokens._login is None)
    clock.now_s += 99
    mesh.login_failures = [CredentialsInvalid()]
    with pytest.raises(CallError):
        await tokens.token()
    assert await tokens.token() != first


async def test_a_caller_that_gives_up_does_not_take_the_login_along(
    mesh: ScriptedMesh, tokens: Tokens
) -> None:
    mesh.login_delay_s = 0.1
    hasty, patient = asyncio.create_task(tokens.token()), asyncio.create_task(tokens.token())
    await _until(lambda: len(mesh.logins) == 1)
    hasty.cancel()
    assert (await patient).value
    assert hasty.cancelled()
    assert len(mesh.logins) == 1


async def test_a_token_that_is_refused_as_expired_is_replaced_for_the_next_call(mesh: ScriptedMesh) -> None:
    async with Client(mesh.url, GOOD) as client:
        await client.fleet()
        mesh.expire_all()
        with pytest.raises(CallError, match="TOKEN_EXPIRED"):
            await client.fleet()
        await client.fleet()
    assert len(mesh.logins) == 2


async def test_a_late_refusal_of_an_old_token_leaves_the_new_one_alone(
    mesh: ScriptedMesh, tokens: Tokens
) -> None:
    first = await tokens.token()
    tokens.forget(first)
    second = await tokens.token()
    tokens.forget(first)
    assert await tokens.token() == second


async def test_a_login_asks_for_the_role_and_the_life_it_wants(mesh: ScriptedMesh) -> None:
    async with Client(mesh.url, Password(USERNAME, PASSWORD, role="user", lifetime_s=90)) as client:
        await client.fleet()
    (login,) = mesh.logins
    assert (login.role, login.lifetime.seconds) == (1, 90)  # type: ignore[union-attr]


async def test_a_service_account_gets_its_token_too(mesh: ScriptedMesh) -> None:
    async with Client(mesh.url, ClientCredentials(CLIENT_ID, CLIENT_SECRET)) as client:
        await client.fleet()
    assert mesh.calls == ["ExchangeToken", "GetFleet"]


async def test_a_token_from_elsewhere_is_used_as_it_is(mesh: ScriptedMesh) -> None:
    token = mesh.issue().access_token
    async with Client(mesh.url, StaticToken(token)) as client:
        await client.fleet()
        assert await client.access_token() == AccessToken(token, None)
    async with Client(mesh.url, StaticToken("forged")) as client:
        with pytest.raises(CallError, match="TOKEN_INVALID"):
            await client.fleet()
    assert mesh.logins == []


async def test_a_login_is_repeated_while_the_service_is_unavailable(mesh: ScriptedMesh) -> None:
    mesh.login_failures = [Unavailable(), Unavailable()]
    async with Client(mesh.url, GOOD) as client:
        await client.fleet()
    assert len(mesh.logins) == 3


async def test_closing_ends_a_login_on_its_way(mesh: ScriptedMesh) -> None:
    mesh.login_delay_s = 60
    async with Client(mesh.url, GOOD) as client:
        waiting = asyncio.create_task(client.access_token())
        await _until(lambda: len(mesh.logins) == 1)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 30)


async def _until(holds: object) -> None:
    assert callable(holds)
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)
