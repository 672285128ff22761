"""Who is let in, in which order things are asked, and what is not asked at all."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from cryptography.fernet import Fernet

from services.auth.adapters.argon2_hasher import AT_ONCE_MAX, WAITING_MAX, Argon2Hasher
from services.auth.adapters.es256 import Es256Locksmith
from services.auth.core.keys import first_term
from services.auth.core.throttle import FREE_COUNT
from services.auth.errors import CredentialsInvalid, RateLimited
from services.auth.keyring import Keyring
from services.auth.ports import SealedKey
from services.common.errors import StoreUnavailable
from tests.fakes.auth_store import FakeStore
from tests.unit.auth_rig import SECRET, Setup


@pytest_asyncio.fixture
async def setup() -> AsyncIterator[Setup]:
    made = Setup()
    await made.keyring.load()
    yield made


async def test_an_unknown_name_costs_a_hash_like_a_known_one(setup: Setup) -> None:
    for name in ("nobody", "ann"):
        with pytest.raises(CredentialsInvalid):
            await setup.grants.login(name, "wrong")
    assert setup.hasher.checked == [None, "pw"]
    assert setup.counted("refused", grant="password", reason="CREDENTIALS_INVALID") == 2


async def test_a_throttled_guess_costs_neither_the_store_nor_a_hash(setup: Setup) -> None:
    for _ in range(FREE_COUNT):
        with pytest.raises(CredentialsInvalid):
            await setup.grants.login("ann", "wrong")
    asked_count = setup.store.asked_count
    with pytest.raises(RateLimited):
        await setup.grants.login("ann", "pw")
    assert len(setup.hasher.checked) == FREE_COUNT
    assert setup.store.asked_count == asked_count


async def test_guesses_at_once_are_counted_before_any_is_answered(setup: Setup) -> None:
    guesses = [setup.grants.login("ann", "wrong") for _ in range(3 * FREE_COUNT)]
    answers = await asyncio.gather(*guesses, return_exceptions=True)
    assert sum(isinstance(answer, CredentialsInvalid) for answer in answers) == FREE_COUNT
    assert sum(isinstance(answer, RateLimited) for answer in answers) == 2 * FREE_COUNT


async def test_a_store_that_is_away_uses_up_no_attempts(setup: Setup) -> None:
    setup.store.down = True
    for _ in range(2 * FREE_COUNT):
        with pytest.raises(StoreUnavailable):
            await setup.grants.login("ann", "pw")
    setup.store.down = False
    await setup.grants.login("ann", "pw")
    assert setup.counted("issued", grant="password") == 1


async def test_a_hash_of_other_days_is_renewed_at_login(setup: Setup) -> None:
    setup.hasher.out_of_date = True
    await setup.grants.login("ann", "pw")
    assert setup.store.users["ann"].password_hash == "new:pw"


async def test_a_clients_secret_is_not_hashed_slowly_nor_throttled(setup: Setup) -> None:
    for _ in range(2 * FREE_COUNT):
        with pytest.raises(CredentialsInvalid):
            await setup.grants.client_credentials("svc", "wrong")
    await setup.grants.client_credentials("svc", SECRET)
    assert setup.hasher.checked == []


async def test_without_keys_nobody_gets_a_token_and_the_keys_are_not_an_empty_list(setup: Setup) -> None:
    keyless = Keyring(FakeStore(), Es256Locksmith((Fernet.generate_key().decode(),)))
    setup.grants._issuer._keyring = setup.logins._issuer._keyring = keyless
    with pytest.raises(StoreUnavailable):
        await setup.grants.login("ann", "pw")
    with pytest.raises(StoreUnavailable):
        keyless.jwks()


async def test_a_store_that_goes_away_takes_no_key_with_it(setup: Setup) -> None:
    before = setup.keyring.jwks()
    setup.store.down = True
    with pytest.raises(StoreUnavailable):
        await setup.keyring.load()
    assert setup.keyring.jwks() == before


async def test_a_forged_key_in_the_store_is_not_published(setup: Setup) -> None:
    before = setup.keyring.jwks()
    forger = Es256Locksmith((Fernet.generate_key().decode(),))
    key_id, sealed = forger.make()
    setup.store.keys.append(SealedKey(first_term(key_id), sealed))
    await setup.keyring.load()
    assert setup.keyring.jwks() == before


@pytest.fixture
def hasher() -> Iterator[Argon2Hasher]:
    with Argon2Hasher.started() as started:
        yield started


async def test_argon2id_with_owasps_parameters(hasher: Argon2Hasher) -> None:
    made = await hasher.hash("correct")
    assert made.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert not hasher.outdated(made)
    assert hasher.outdated("$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$+tL2FUY4aLjRHGqCwfWAnA")
    assert await hasher.matches(made, "correct")
    assert not await hasher.matches(made, "wrong")
    assert not await hasher.matches(None, "correct")
    assert not await hasher.matches("not a hash", "correct")


async def test_at_most_two_hash_at_once_few_wait_and_the_rest_are_refused(hasher: Argon2Hasher) -> None:
    working, release = threading.Semaphore(0), threading.Event()

    def work() -> bool:
        working.release()
        return release.wait(10)

    jobs = [asyncio.create_task(hasher._off_loop(work)) for _ in range(AT_ONCE_MAX + WAITING_MAX)]
    for _ in range(AT_ONCE_MAX):
        assert await asyncio.to_thread(working.acquire, timeout=10)
    assert not working.acquire(blocking=False), "a third one works"
    with pytest.raises(RateLimited):
        await hasher.matches(None, "x")
    for job in jobs[AT_ONCE_MAX:]:
        job.cancel()  # Their callers left: nothing is hashed for them, and their places are free.
    await asyncio.gather(*jobs[AT_ONCE_MAX:], return_exceptions=True)
    late = asyncio.create_task(hasher._off_loop(work))
    release.set()
    assert await asyncio.gather(*jobs[:AT_ONCE_MAX], late) == [True] * (AT_ONCE_MAX + 1)
    assert hasher._pending_count == 0 or await settled(hasher)


async def settled(hasher: Argon2Hasher) -> bool:
    async with asyncio.timeout(30):
        while hasher._pending_count:
            await asyncio.sleep(0)
    return True
