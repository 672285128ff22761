"""What every store of sessions, codes, devices and clients promises; PostgreSQL under races at the end."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import asyncpg
import pytest

from services.auth.adapters.postgres import PostgresStore, connected
from services.auth.adapters.postgres_codes import PostgresCodes, PostgresDevices
from services.auth.adapters.postgres_families import FAMILIES_MAX
from services.auth.adapters.postgres_oauth import PostgresClients, PostgresSessions
from services.auth.core.clients import ActsFor, Client, Grant
from services.auth.core.codes import AuthorizationCode
from services.auth.core.device import Device, Reply, State, decided, polled
from services.auth.core.identity import Identity, Role
from services.auth.core.refresh import (
    Family,
    RefreshDigest,
    RefreshToken,
    Verdict,
    ended,
    judged,
    rotated,
)
from services.auth.people_ports import Page, PageRequest
from services.auth.ports_oauth import (
    ClientStore,
    CodeStore,
    DeviceStore,
    Redeemed,
    SessionStore,
    UsedBefore,
)
from tests.contract.test_auth_store import founders
from tests.fakes.oauth_store import FakeOAuthStore
from tests.stack import Database

DIGEST = RefreshDigest("k" * 32)
FIRST = RefreshToken(b"h" * 16, b"0" * 32)
ADMIN = Identity(
    user_id="user:admin",
    role=Role.ADMIN,
    organization_id="default",
    project_id="default",
    client_id="login",
)


@dataclass(frozen=True, slots=True)
class Stores:
    clients: ClientStore
    sessions: SessionStore
    codes: CodeStore
    devices: DeviceStore


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Stores]:
    async with connected(dsn) as database:
        yield Stores(
            PostgresClients(database),
            PostgresSessions(database),
            PostgresCodes(database),
            PostgresDevices(database),
        )


@pytest.fixture(params=["fake", "postgres"])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    if request.param == "fake":
        fake = FakeOAuthStore(people={"user:admin": ADMIN})
        yield Stores(fake, fake, fake, fake)
        return
    database: Database = request.getfixturevalue("database")
    async with connected(database("auth")) as connections:
        await PostgresStore(connections).found(founders())
    async with opened(database("auth")) as found:
        yield found


def family(token: RefreshToken = FIRST, *, user_id: str = "user:admin") -> Callable[[float], Family]:
    return lambda now_s: Family(
        session_id=f"s{DIGEST.of(token.handle).hex()[:16]}",
        handle=DIGEST.of(token.handle),
        current=DIGEST.of(token.secret),
        user_id=user_id,
        client_id="login",
        role_max=Role.USER,
        scopes=frozenset({"auth", "agent"}),
        rotated_at_s=now_s,
        expires_at_s=now_s + 3600,
    )


def refreshing(
    token: RefreshToken,
) -> Callable[[Family, float], tuple[tuple[Verdict, RefreshToken | None], Family]]:
    def decide(known: Family, now_s: float) -> tuple[tuple[Verdict, RefreshToken | None], Family]:
        verdict = judged(known, DIGEST.of(token.secret), now_s)
        if verdict is Verdict.ROTATE:
            salt = os.urandom(16)
            successor = DIGEST.successor(token, salt)
            return (verdict, successor), rotated(known, DIGEST.of(successor.secret), salt, now_s)
        if verdict is Verdict.REPEAT:
            return (verdict, DIGEST.successor(token, known.salt)), known
        return (verdict, None), ended(known) if verdict is Verdict.REUSED else known

    return decide


async def present(stores: Stores, token: RefreshToken) -> tuple[Verdict, RefreshToken | None]:
    answer = await stores.sessions.rotate(DIGEST.of(token.handle), refreshing(token))
    assert answer is not None
    return answer


async def test_a_family_is_found_as_it_was_begun(stores: Stores) -> None:
    begun = await stores.sessions.begin(family())
    found = await stores.sessions.find_family(begun.handle)
    assert found is not None
    assert replace(found, rotated_at_s=0, expires_at_s=0) == replace(begun, rotated_at_s=0, expires_at_s=0)
    assert abs(found.expires_at_s - begun.expires_at_s) < 1e-3
    assert await stores.sessions.find_family(b"x" * 32) is None
    assert await stores.sessions.rotate(b"x" * 32, refreshing(FIRST)) is None


async def test_rotation_is_kept_and_an_old_token_ends_the_family(stores: Stores) -> None:
    await stores.sessions.begin(family())
    verdict, second = await present(stores, FIRST)
    assert verdict is Verdict.ROTATE
    assert second is not None
    assert await present(stores, FIRST) == (Verdict.REPEAT, second)
    verdict, third = await present(stores, second)
    assert (verdict, third is not None) == (Verdict.ROTATE, True)
    assert await present(stores, FIRST) == (Verdict.REUSED, None)
    assert third is not None
    assert await present(stores, third) == (Verdict.OVER, None)


async def test_a_decision_that_fails_changes_nothing(stores: Stores) -> None:
    begun = await stores.sessions.begin(family())

    def fail(known: Family, now_s: float) -> tuple[None, Family]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await stores.sessions.rotate(begun.handle, fail)
    assert (await present(stores, FIRST))[0] is Verdict.ROTATE


async def test_ended_is_ended(stores: Stores) -> None:
    begun = await stores.sessions.begin(family())
    await stores.sessions.end(begun.session_id)
    await stores.sessions.end(begun.session_id)
    await stores.sessions.end("nobody")
    assert await present(stores, FIRST) == (Verdict.OVER, None)


async def test_all_of_a_user_are_ended_and_nobody_elses(stores: Stores) -> None:
    other = RefreshToken(b"o" * 16, b"0" * 32)
    begun = await stores.sessions.begin(family())
    await stores.sessions.begin(family(other, user_id="user:bob"))
    assert await stores.sessions.end_all("user:admin") == [begun.session_id]
    assert await stores.sessions.end_all("user:admin") == []
    assert (await present(stores, other))[0] is Verdict.ROTATE


async def test_a_user_has_so_many_logins_and_the_unused_make_room(stores: Stores) -> None:
    await stores.sessions.begin(family())
    _, used = await present(stores, FIRST)
    assert used is not None
    tokens = [RefreshToken(n.to_bytes(16, "big"), b"0" * 32) for n in range(1, FAMILIES_MAX + 2)]
    for token in tokens:
        await stores.sessions.begin(family(token))
    assert (await present(stores, used))[0] is Verdict.ROTATE, "a login that was used had to go first"
    assert await stores.sessions.find_family(DIGEST.of(tokens[0].handle)) is None
    assert await stores.sessions.find_family(DIGEST.of(tokens[-1].handle)) is not None


CODE = AuthorizationCode(
    digest=b"c" * 32,
    client_id="app",
    redirect_uri="https://app.example/cb",
    code_challenge="x" * 43,
    user_id="user:admin",
    scopes=frozenset({"inference"}),
)


async def test_a_code_is_good_once_and_its_second_use_ends_what_came_of_it(stores: Stores) -> None:
    await stores.codes.add_code(CODE, lifetime_s=60)
    assert await stores.codes.redeem(CODE.digest, lambda code, now_s: family()(now_s)) == Redeemed(CODE)
    begun = await stores.sessions.find_family(DIGEST.of(FIRST.handle))
    assert begun is not None
    again = await stores.codes.redeem(CODE.digest, lambda code, now_s: family()(now_s))
    assert again == UsedBefore(begun.session_id)
    assert await present(stores, FIRST) == (Verdict.OVER, None)


async def test_a_code_that_was_presented_wrongly_is_used_up(stores: Stores) -> None:
    await stores.codes.add_code(CODE, lifetime_s=60)
    assert await stores.codes.redeem(CODE.digest, lambda code, now_s: None) is None
    assert await stores.codes.redeem(CODE.digest, lambda code, now_s: family()(now_s)) == UsedBefore(None)


async def test_a_late_code_and_an_unknown_one_are_nothing(stores: Stores) -> None:
    await stores.codes.add_code(CODE, lifetime_s=-1)
    assert await stores.codes.redeem(CODE.digest, lambda code, now_s: family()(now_s)) is None
    assert await stores.codes.redeem(b"d" * 32, lambda code, now_s: family()(now_s)) is None
    assert await stores.sessions.find_family(DIGEST.of(FIRST.handle)) is None


def device(name: bytes = b"d", *, lives_s: float = 600) -> Callable[[float], Device]:
    return lambda now_s: Device(
        digest=name * 32,
        user_code_digest=(name + b"u") * 16,
        client_id="cli",
        scopes=frozenset({"agent"}),
        expires_at_s=now_s + lives_s,
    )


def polling(known: Device, now_s: float) -> tuple[Reply, Device, Family | None]:
    reply, after = polled(known, "cli", now_s)
    return reply, after, family()(now_s) if reply is Reply.GRANTED else None


async def answer(stores: Stores, *, approved: bool) -> Device | None:
    return await stores.devices.decide_device(
        b"du" * 16, lambda known, now_s: decided(known, "user:admin", now_s, approved=approved)
    )


async def test_a_device_waits_until_its_user_answers_and_then_gets_one_session(stores: Stores) -> None:
    assert await stores.devices.add_device(device(), waiting_max=2)
    assert (await stores.devices.poll(b"d" * 32, polling) or [None])[0] is Reply.PENDING
    assert (await stores.devices.poll(b"d" * 32, polling) or [None])[0] is Reply.SLOW_DOWN
    found = await stores.devices.find_device(b"du" * 16)
    assert found is not None
    assert (found.client_id, found.scopes, found.interval_s) == ("cli", frozenset({"agent"}), 10.0)
    approved = await answer(stores, approved=True)
    assert approved is not None
    assert (approved.state, approved.user_id) == (State.APPROVED, "user:admin")
    assert await stores.devices.find_device(b"du" * 16) is None
    assert await answer(stores, approved=False) is None
    assert (await stores.devices.poll(b"d" * 32, polling) or [None])[0] is Reply.GRANTED
    assert (await stores.devices.poll(b"d" * 32, polling) or [None])[0] is Reply.INVALID
    assert await stores.sessions.find_family(DIGEST.of(FIRST.handle)) is not None
    assert await stores.devices.poll(b"e" * 32, polling) is None


async def test_a_refused_device_is_told_so(stores: Stores) -> None:
    await stores.devices.add_device(device(), waiting_max=2)
    await answer(stores, approved=False)
    assert (await stores.devices.poll(b"d" * 32, polling) or [None])[0] is Reply.DENIED


async def test_only_so_many_devices_wait_and_no_two_under_one_code(stores: Stores) -> None:
    assert await stores.devices.add_device(device(lives_s=-1), waiting_max=2), "who is late takes no place"
    assert await stores.devices.add_device(device(b"1"), waiting_max=2)
    twin = device(b"1")
    assert not await stores.devices.add_device(
        lambda now_s: replace(twin(now_s), digest=b"t" * 32), waiting_max=9
    )
    assert await stores.devices.add_device(device(b"2"), waiting_max=2)
    assert not await stores.devices.add_device(device(b"3"), waiting_max=2)
    assert await stores.devices.find_device(b"du" * 16) is None


APP = Client(
    client_id="app",
    display_name="An app",
    organization_id="default",
    redirect_uris=("https://app.example/cb",),
    grants=frozenset({Grant.AUTHORIZATION_CODE, Grant.REFRESH_TOKEN}),
    scopes=frozenset({"inference"}),
)


async def test_clients_are_registered_once_found_and_disabled(stores: Stores) -> None:
    await stores.sessions.begin(lambda now_s: replace(family()(now_s), client_id="app"))
    assert await stores.clients.find_client("app") is None
    assert await stores.clients.add_client(APP)
    assert not await stores.clients.add_client(replace(APP, display_name="Another"))
    assert await stores.clients.find_client("app") == APP
    assert await stores.clients.add_client(replace(APP, client_id="bpp"))
    first = await stores.clients.clients("default", PageRequest("", 1))
    assert first == Page([APP], "app")
    assert await stores.clients.clients("default", PageRequest("app", 1)) == Page(
        [replace(APP, client_id="bpp")], ""
    )
    assert await stores.clients.clients("elsewhere", PageRequest("", 9)) == Page([], "")
    assert not await stores.clients.disable_client("app", "elsewhere")
    assert await stores.clients.disable_client("app", "default")
    assert not await stores.clients.disable_client("app", "default")
    assert await stores.clients.find_client("app") is None
    assert await present(stores, FIRST) == (Verdict.OVER, None)


async def test_a_person_is_found_as_they_are(stores: Stores) -> None:
    assert await stores.clients.find_identity("user:admin") == ADMIN
    assert await stores.clients.find_identity("user:nobody") is None


async def test_what_the_mesh_uses_acts_for_everybody_and_other_accounts_at_home(database: Database) -> None:
    async with connected(database("auth")) as connections:
        await PostgresStore(connections).found(founders())
    admin = await asyncpg.connect(database("auth"))
    await admin.execute("SET ollamesh.system = 'on'")
    await admin.execute(
        "INSERT INTO service_accounts (client_id, organization_id, project_id, secret_digest, role) "
        "SELECT 'other', organization_id, project_id, secret_digest, role FROM service_accounts"
    )
    await admin.close()
    async with opened(database("auth")) as stores:
        founder, other = (
            await stores.clients.find_client("ollamesh"),
            await stores.clients.find_client("other"),
        )
        assert not await stores.clients.add_client(replace(APP, client_id="other")), "a name is somebody's"
    assert founder is not None
    assert other is not None
    assert (founder.acts_for, other.acts_for) == (ActsFor.EVERYBODY, ActsFor.ORGANIZATION)
    assert (founder.acts_as, founder.is_public) == ("service:ollamesh", False)


@pytest.mark.parametrize("racers", [8])
async def test_replicas_that_race_with_one_token_get_one_successor(database: Database, racers: int) -> None:
    async with opened(database("auth")) as one, opened(database("auth")) as two:
        await one.sessions.begin(family())
        replicas = (one, two)
        answers = await asyncio.gather(*(present(replicas[n % 2], FIRST) for n in range(racers)))
        assert Counter(verdict for verdict, _ in answers) == {Verdict.ROTATE: 1, Verdict.REPEAT: racers - 1}
        (successor,) = {token for _, token in answers}
        assert successor is not None
        assert (await present(two, successor))[0] is Verdict.ROTATE


async def test_replicas_that_race_with_one_code_begin_one_session_and_it_ends(database: Database) -> None:
    async with opened(database("auth")) as one, opened(database("auth")) as two:
        await one.codes.add_code(CODE, lifetime_s=60)
        replicas = (one, two)
        answers = await asyncio.gather(
            *(
                replicas[n % 2].codes.redeem(CODE.digest, lambda code, now_s: family()(now_s))
                for n in range(6)
            )
        )
        assert sum(isinstance(answer, Redeemed) for answer in answers) == 1
        begun = await two.sessions.find_family(DIGEST.of(FIRST.handle))
        assert begun is not None
        assert begun.revoked
        assert {answer.session_id for answer in answers if isinstance(answer, UsedBefore)} == {
            begun.session_id
        }


async def test_no_token_and_no_code_is_in_the_store(database: Database) -> None:
    async with opened(database("auth")) as stores:
        await stores.sessions.begin(family())
        await stores.codes.add_code(replace(CODE, digest=DIGEST.of(b"code")), lifetime_s=60)
    admin = await asyncpg.connect(database("auth"))
    rows = [
        repr(row)
        for table in ("refresh_families", "authorization_codes")
        for row in await admin.fetch(f"SELECT * FROM {table}")
    ]
    await admin.close()
    assert rows
    assert not any(repr(FIRST.secret)[2:-1] in row or "b'code'" in row for row in rows)
