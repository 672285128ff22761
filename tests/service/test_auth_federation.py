"""Signing in with an OpenID provider: who gets in, as whom, and what a hostile one cannot do."""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from services.auth.adapters.oidc import HttpOpenIdProvider
from services.auth.adapters.postgres import connected
from services.auth.adapters.postgres_federated import PostgresFederatedUsers
from services.auth.adapters.postgres_people import PostgresPeople
from services.auth.core.federation import Provider
from services.auth.core.identity import Identity, Role
from services.auth.errors import FederationRefused, ProviderUnavailable
from services.auth.federation import Federation
from services.auth.federation_config import FederationConfig
from services.common.audit import Happened, Outcome
from services.common.postgres import Database as Pool
from tests.fakes.oidc_provider import CLIENT_ID, CLIENT_SECRET, REDIRECT_URI, OidcProvider
from tests.stack import Database

BROWSER = "what the cookie holds"


@dataclass
class World:
    provider: OidcProvider
    database: Pool
    config: FederationConfig
    federation: Federation
    ended: list[str] = field(default_factory=list)
    told: list[Happened] = field(default_factory=list)

    async def end(self, organization_id: str, user_id: str) -> None:
        self.ended.append(user_id)

    def note(self, happened: Happened) -> None:
        self.told.append(happened)

    async def assure(self, happened: Happened) -> None:
        self.told.append(happened)

    async def sign_in(self, *, browser: str = BROWSER, **answered: str) -> Identity:
        attempt = self.federation.attempt()
        url = await self.federation.begin("the state", browser=BROWSER, attempt=attempt)
        answer = {**await self.provider.sign_in(url), **answered}
        assert answer["state"] == "the state"
        return await self.federation.finish(answer, browser=browser, attempt=attempt)


def config_of(provider: OidcProvider, **more: Any) -> FederationConfig:
    usual = {
        "issuer": provider.issuer,
        "client_id": CLIENT_ID,
        "organization_id": "default",
        "project_id": "default",
        "role_claim": "groups",
        "admin_values": frozenset({"admins"}),
        "user_values": frozenset[str](),
    }
    return FederationConfig(
        provider=Provider(**{**usual, **more}),
        client_secret=CLIENT_SECRET,
        scopes="openid profile",
        redirect_uri=REDIRECT_URI,
        title="Example",
    )


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    async with (
        OidcProvider.serving() as provider,
        connected(database("auth")) as pool,
        HttpOpenIdProvider.connected(config_of(provider)) as known,
    ):
        async with pool.transaction(system=True) as connection:
            for name in ("default", "other"):
                await connection.execute("INSERT INTO organizations VALUES ($1, $1)", name)
                await connection.execute("INSERT INTO projects VALUES ($1, 'default', 'Default')", name)
        made = World(provider, pool, config_of(provider), federation=None)  # type: ignore[arg-type]
        made.federation = federation(made, known)
        yield made


def federation(world: World, known: HttpOpenIdProvider, **more: Any) -> Federation:
    return Federation(
        config=config_of(world.provider, **more),
        secret_key="s" * 32,
        provider=known,
        users=PostgresFederatedUsers(world.database),
        sessions=world,
        trail=world,
    )


async def test_a_person_is_made_once_and_known_again(world: World) -> None:
    first = await world.sign_in()
    assert (first.role, first.organization_id, first.project_id) == (Role.USER, "default", "default")
    assert first.user_id.startswith("user:")
    assert await world.sign_in() == first
    found = await PostgresPeople(world.database).find("default", first.user_id)
    assert found is not None
    assert (found.display_name, found.issuer) == ("Jane Doe", world.provider.issuer)
    assert [happened.outcome for happened in world.told] == [Outcome.ALLOWED] * 2


async def test_nobody_becomes_somebody_else_by_a_name_or_an_address(world: World) -> None:
    """Who has the admin's name, address and everything but their `sub` is another person."""
    first = await world.sign_in()
    world.provider.person = {**world.provider.person, "sub": "another", "email": "admin@example.com"}
    world.provider.person["preferred_username"] = "admin"
    assert (await world.sign_in()).user_id != first.user_id


async def test_what_they_may_is_what_the_provider_says_each_time(world: World) -> None:
    world.provider.person["groups"] = ["staff", "admins"]
    first = await world.sign_in()
    assert first.role is Role.ADMIN
    assert world.ended == []
    world.provider.person["groups"] = "staff"
    assert (await world.sign_in()).role is Role.USER
    assert world.ended == [first.user_id], "tokens that say otherwise are revoked"


async def test_only_those_with_a_value_get_in_where_one_is_asked_for(world: World) -> None:
    async with HttpOpenIdProvider.connected(world.config) as known:
        world.federation = federation(world, known, user_values=frozenset({"staff"}))
        for groups in (["guests"], None, 7, {"staff": True}):
            world.provider.person["groups"] = groups
            with pytest.raises(FederationRefused):
                await world.sign_in()
        world.provider.person["groups"] = ["staff"]
        await world.sign_in()


async def test_who_is_disabled_stays_out(world: World) -> None:
    first = await world.sign_in()
    people = PostgresPeople(world.database)
    await people.set_disabled("default", first.user_id, disabled=True)
    with pytest.raises(FederationRefused):
        await world.sign_in()
    await people.set_disabled("default", first.user_id, disabled=False)
    assert await world.sign_in() == first


async def test_who_belongs_to_one_organisation_does_not_come_into_another(world: World) -> None:
    await world.sign_in()
    async with HttpOpenIdProvider.connected(world.config) as known:
        world.federation = federation(world, known, organization_id="other")
        with pytest.raises(FederationRefused):
            await world.sign_in()


@pytest.mark.parametrize(
    "lies",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"iss": "http://127.0.0.1:1"},
        {"iss": None},
        {"aud": "another"},
        {"aud": ["another"]},
        {"aud": None},
        {"aud": [CLIENT_ID, "another"]},
        {"azp": "another"},
        {"exp": 1},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": True},
        {"iat": 2**40},
        {"iat": None},
        {"nbf": 2**40},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 256},
        {"sub": "a\0b"},
    ],
    ids=str,
)
async def test_a_token_that_is_not_for_us_now_lets_nobody_in(world: World, lies: dict[str, Any]) -> None:
    world.provider.lies = lies
    with pytest.raises(FederationRefused):
        await world.sign_in()
    async with world.database.connection(system=True) as connection:
        assert await connection.fetchval("SELECT count(*) FROM users") == 0
    assert [happened.outcome for happened in world.told] == [Outcome.DENIED]


@pytest.mark.parametrize("how", ["unsigned", "signed_by_another", "signed_with_the_public_key"])
async def test_a_signature_that_is_none_lets_nobody_in(world: World, how: str) -> None:
    sign: Callable[[dict[str, Any]], str] = getattr(world.provider, how)
    world.provider.sign = sign
    with pytest.raises(FederationRefused):
        await world.sign_in()


@pytest.mark.parametrize("token", ["", "a.b.c", "....", "eyJhbGciOiJSUzI1NiJ9..", "x" * 70_000])
async def test_what_is_no_token_lets_nobody_in(world: World, token: str) -> None:
    world.provider.sign = lambda _: token
    with pytest.raises(FederationRefused):
        await world.sign_in()


async def test_another_providers_answer_is_refused(world: World) -> None:
    """A mix-up (RFC 9207)."""
    world.provider.iss_told = "http://evil.example"
    with pytest.raises(FederationRefused):
        await world.sign_in()


async def test_an_answer_must_say_who_answers_where_the_provider_says_so(world: World) -> None:
    attempt = world.federation.attempt()
    url = await world.federation.begin("s", browser=BROWSER, attempt=attempt)
    answer = await world.provider.sign_in(url)
    with pytest.raises(FederationRefused):
        await world.federation.finish({"code": answer["code"]}, browser=BROWSER, attempt=attempt)


async def test_another_browser_cannot_finish_what_one_has_begun(world: World) -> None:
    with pytest.raises(FederationRefused):
        await world.sign_in(browser="another one")


async def test_a_code_is_good_once(world: World) -> None:
    attempt = world.federation.attempt()
    answer = await world.provider.sign_in(await world.federation.begin("s", browser=BROWSER, attempt=attempt))
    await world.federation.finish(answer, browser=BROWSER, attempt=attempt)
    with pytest.raises(FederationRefused):
        await world.federation.finish(answer, browser=BROWSER, attempt=attempt)


async def test_who_says_no_there_is_not_let_in_here(world: World) -> None:
    with pytest.raises(FederationRefused):
        await world.sign_in(error="access_denied")


@pytest.mark.parametrize(
    "told",
    [
        {"issuer": "http://127.0.0.1:1"},
        {"token_endpoint": "http://example.com/token"},
        {"jwks_uri": "file:///etc/passwd"},
        {"authorization_endpoint": None},
        {"token_endpoint": ["http://127.0.0.1/token"]},
    ],
    ids=str,
)
async def test_a_description_of_another_or_of_unsafe_places_is_not_followed(
    world: World, told: dict[str, Any]
) -> None:
    world.provider.described = told
    with pytest.raises(ProviderUnavailable):
        await world.sign_in()


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/keys", "/token"])
async def test_a_provider_that_fails_is_said_to_be_away(world: World, path: str) -> None:
    world.provider.broken.add(path)
    with pytest.raises(ProviderUnavailable) as refused:
        await world.sign_in()
    assert refused.value.retry_after_s
    world.provider.broken.clear()
    await world.sign_in()


@pytest.mark.timed
async def test_a_provider_that_is_away_is_said_to_be(world: World) -> None:
    nowhere = replace(world.config, provider=replace(world.config.provider, issuer="http://127.0.0.1:1"))
    async with HttpOpenIdProvider.connected(nowhere) as known:
        began_s = time.monotonic()
        with pytest.raises(ProviderUnavailable):
            await known.endpoints()
        assert time.monotonic() - began_s < 10


async def test_keys_and_description_are_kept(world: World) -> None:
    for _ in range(3):
        await world.sign_in()
    assert world.provider.asked.count("/keys") == 1
    assert world.provider.asked.count("/.well-known/openid-configuration") == 1


async def test_a_new_key_is_found_and_a_flood_of_bad_ones_is_not_passed_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.sign_in()
    world.provider.sign = world.provider.signed_by_another
    for _ in range(5):
        with pytest.raises(FederationRefused):
            await world.sign_in()
    assert world.provider.asked.count("/keys") == 1
    monkeypatch.setattr("services.auth.adapters.oidc.REFETCH_AFTER_S", 0)
    world.provider.rotate()
    world.provider.sign = world.provider.signed
    await world.sign_in()
