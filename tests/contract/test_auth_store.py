"""What every store of the auth service promises; PostgreSQL's own promises at the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest

from services.auth.adapters.postgres import FOUNDING_LOCK, PostgresStore, connected
from services.auth.core.identity import Identity, Role, service_user_id
from services.auth.core.keys import Term, first_term
from services.auth.ports import Founders, SealedKey, ServiceAccount, Store, User
from services.common.errors import StoreUnavailable
from tests.fakes.auth_store import FakeStore
from tests.fakes.severable import Severable
from tests.service.auth_app import port_of
from tests.stack import Database

HASH = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA"


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[PostgresStore]:
    async with connected(dsn) as database:
        yield PostgresStore(database)


def identity(user_id: str, role: Role, client_id: str) -> Identity:
    return Identity(
        user_id=user_id, role=role, organization_id="default", project_id="default", client_id=client_id
    )


def founders(key_id: str = "k" * 43, password_hash: str = HASH) -> Founders:
    return Founders(
        username="admin",
        admin=User(identity("user:admin", Role.ADMIN, "login"), password_hash),
        service=ServiceAccount(identity(service_user_id("ollamesh"), Role.USER, "ollamesh"), b"d" * 32),
        key=SealedKey(first_term(key_id), key_id.encode()),
    )


@dataclass(frozen=True, slots=True)
class Subject:
    """A store, and another replica's view of the same."""

    store: Store
    replica: Store
    database: Database | None  # None for the fake.

    async def disable(self, user_id: str) -> None:
        if isinstance(self.store, FakeStore):
            self.store.disabled.add(user_id)
            return
        assert self.database is not None
        connection = await asyncpg.connect(self.database.system("auth"))
        await connection.execute("UPDATE users SET disable_time = now() WHERE user_id = $1", user_id)
        await connection.execute(
            "UPDATE service_accounts SET disable_time = now() WHERE 'service:' || client_id = $1", user_id
        )
        await connection.close()


@pytest.fixture(params=["fake", "postgres"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "fake":
        fake = FakeStore()
        yield Subject(fake, fake, None)
        return
    database: Database = request.getfixturevalue("database")
    async with (
        opened(database("auth")) as store,
        opened(database("auth")) as replica,
    ):
        yield Subject(store, replica, database)


async def test_the_founders_are_found_as_they_were_made(subject: Subject) -> None:
    await subject.store.found(founders())
    assert await subject.replica.find_user("admin") == founders().admin
    assert await subject.replica.find_service_account("ollamesh") == founders().service
    assert list(await subject.replica.signing_keys()) == [founders().key]


async def test_founding_again_changes_nothing(subject: Subject) -> None:
    await subject.store.found(founders())
    await subject.store.found(founders("n" * 43, HASH + "x"))
    assert await subject.store.find_user("admin") == founders().admin
    assert list(await subject.store.signing_keys()) == [founders().key]


async def test_replicas_that_found_at_once_agree_on_one_key(subject: Subject) -> None:
    both = (subject.store, subject.replica)
    await asyncio.gather(*(both[n % 2].found(founders(f"{n:043}")) for n in range(8)))
    (key,) = await subject.store.signing_keys()
    assert list(await subject.replica.signing_keys()) == [key]


async def test_nobody_is_none(subject: Subject) -> None:
    assert await subject.store.find_user("nobody") is None
    assert await subject.store.find_service_account("nobody") is None
    assert list(await subject.store.signing_keys()) == []


async def test_the_disabled_are_not_found(subject: Subject) -> None:
    await subject.store.found(founders())
    await subject.disable("user:admin")
    await subject.disable("service:ollamesh")
    assert await subject.store.find_user("admin") is None
    assert await subject.store.find_service_account("ollamesh") is None


async def test_a_hash_is_replaced_only_if_nobody_was_quicker(subject: Subject) -> None:
    await subject.store.found(founders())
    await subject.store.replace_password_hash("user:admin", old=HASH, new=HASH + "1")
    await subject.store.replace_password_hash("user:admin", old=HASH, new=HASH + "2")
    user = await subject.store.find_user("admin")
    assert user is not None
    assert user.password_hash == HASH + "1"


async def test_it_says_whether_it_answers(subject: Subject) -> None:
    assert await subject.store.answers()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO users VALUES ('service:x', 'default', 'default', 'x', '$argon2id$', 'user')",
        "INSERT INTO users VALUES ('user:x', 'default', 'default', 'X', '$argon2id$', 'user')",
        "INSERT INTO users VALUES ('user:x', 'default', 'default', 'x', 'plain', 'user')",
        "INSERT INTO users VALUES ('user:x', 'default', 'default', 'x', '$argon2id$', 'root')",
        "INSERT INTO users VALUES ('user:x', 'default', 'elsewhere', 'x', '$argon2id$', 'user')",
        "INSERT INTO users VALUES ('user:x', 'default', 'default', 'admin', '$argon2id$', 'user')",
        "UPDATE service_accounts SET secret_digest = 'short'",
        "UPDATE service_accounts SET scopes = '{everything}'",
        "UPDATE service_accounts SET role = 'root'",
        "UPDATE signing_keys SET retired_from = active_from",
        "INSERT INTO projects VALUES ('nowhere', 'default', 'd')",
    ],
)
async def test_the_schema_holds_what_the_code_relies_on(database: Database, statement: str) -> None:
    async with opened(database("auth")) as store:
        await store.found(founders())
    connection = await asyncpg.connect(database.system("auth"))
    try:
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_founding_waits_for_a_replica_that_is_about_to_make_the_key(database: Database) -> None:
    quicker = await asyncpg.connect(database.system("auth"))
    async with opened(database("auth")) as store:
        await store.found(founders())
        await quicker.execute("DELETE FROM signing_keys")
        async with quicker.transaction():
            await quicker.execute("SELECT pg_advisory_xact_lock($1)", FOUNDING_LOCK)
            slower = asyncio.create_task(store.found(founders("s" * 43)))
            while not await quicker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                assert not slower.done(), "it did not wait"
                await asyncio.sleep(0.01)
            await quicker.execute(
                "INSERT INTO signing_keys (key_id, active_from, sealed_key) VALUES ($1, to_timestamp(0), '')",
                "q" * 43,
            )
        await slower
        assert [key.term.key_id for key in await store.signing_keys()] == ["q" * 43]
    await quicker.close()


async def test_a_rotation_is_read_back(database: Database) -> None:
    async with opened(database("auth")) as store:
        await store.found(founders())
        connection = await asyncpg.connect(database.system("auth"))
        await connection.execute("UPDATE signing_keys SET retired_from = to_timestamp(1000)")
        await connection.close()
        (key,) = await store.signing_keys()
    assert key.term == Term(key_id="k" * 43, active_from_s=0.0, retired_from_s=1000.0)


async def test_a_cut_connection_is_replaced(database: Database) -> None:
    dsn = database("auth")
    async with (
        Severable.to(port_of(dsn)) as cable,
        opened(dsn.replace(f":{port_of(dsn)}/", f":{cable.port}/")) as store,
    ):
        await store.found(founders())
        await cable.cut()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.find_user("admin")
        await cable.mend()
        assert await store.find_user("admin") is not None
