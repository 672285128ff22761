"""What is remembered of keys, for how long, and what happens at each bound."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from services.auth import key_checks
from services.auth.core.api_keys import ID_LENGTH, SECRET_LENGTH
from services.auth.core.claims import LIFETIME_MAX_S
from services.auth.core.identity import SCOPES
from services.auth.key_swaps import LIFETIME_S
from services.common.audit import Action, Outcome
from services.common.errors import AuthUnavailable, StoreUnavailable, TokenExpired, TokenInvalid
from services.common.revoked import Kind, Revocation
from tests.unit.key_checks_rig import FORM, NOW_S, Rig


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    running = asyncio.create_task(made.checks.run())
    await asyncio.sleep(0)
    yield made
    running.cancel()
    await asyncio.wait((running,))


# ---- What is let in --------------------------------------------------------------------------------


async def test_a_key_is_changed_for_a_token_that_says_who_owns_it(rig: Rig) -> None:
    claims = await rig.asked(rig.keep())
    assert claims["aud"] == ["inference"]
    assert (claims["user_id"], claims["org"], claims["project"]) == ("user:ann", "acme", "lab")
    assert claims["role"] == "user"  # Its owner is no admin any more.
    assert claims["api_key"] == "0" * ID_LENGTH
    assert claims["exp"] - claims["iat"] <= LIFETIME_S


async def test_for_the_agent_it_lives_as_long_as_a_run_may_take(rig: Rig) -> None:
    claims = await rig.asked(rig.keep(), "agent")
    assert claims["exp"] - claims["iat"] == LIFETIME_MAX_S


async def test_what_cannot_be_a_key_asks_nobody(rig: Rig) -> None:
    rig.keep()
    for text in ("", "omk_", rig.keep()[:-1]):
        with pytest.raises(TokenInvalid):
            await rig.asked(text)
    assert rig.store.asked == []


async def test_another_secret_for_a_known_id_is_refused(rig: Rig) -> None:
    await rig.asked(rig.keep())
    with pytest.raises(TokenInvalid):
        await rig.asked(FORM.written("0" * ID_LENGTH, "c" * SECRET_LENGTH))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"revoked_at_s": NOW_S - 1}, TokenInvalid),
        ({"expires_at_s": NOW_S - 1}, TokenExpired),
        ({"revoked_at_s": NOW_S - 2, "expires_at_s": NOW_S - 1}, TokenInvalid),
        ({"scopes": frozenset({"agent"})}, TokenInvalid),
    ],
)
async def test_dead_and_lesser_keys(rig: Rig, change: dict[str, object], told: type[Exception]) -> None:
    text = rig.keep(change=change)
    for _ in range(3):
        with pytest.raises(told):
            await rig.asked(text)
    assert len(rig.store.asked) == 1


async def test_the_key_of_a_disabled_owner_is_dead(rig: Rig) -> None:
    text = rig.keep()
    key_id = "0" * ID_LENGTH
    rig.store.kept[key_id] = replace(rig.store.kept[key_id], owner=None)
    with pytest.raises(TokenInvalid):
        await rig.asked(text)


async def test_a_token_never_outlives_its_key(rig: Rig) -> None:
    text = rig.keep(change={"expires_at_s": NOW_S + 10})
    claims = await rig.asked(text)
    assert claims["exp"] <= NOW_S + 10
    rig.clock.now_s += 11
    with pytest.raises(TokenExpired):
        await rig.asked(text)


# ---- What is remembered ----------------------------------------------------------------------------


async def test_one_question_for_all_who_come_at_once(rig: Rig) -> None:
    text = rig.keep()
    rig.store.gate.clear()
    waiting = [asyncio.create_task(rig.asked(text, service)) for service in sorted(SCOPES) * 25]
    await rig.settled()
    waiting[0].cancel()  # Who leaves takes nothing along.
    rig.store.gate.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert len(rig.store.asked) == 1
    assert len(rig.signer.claims) == len(SCOPES)
    assert sum(isinstance(one, dict) for one in found) == 99


async def test_a_token_is_used_for_half_its_life(rig: Rig) -> None:
    text = rig.keep()
    first = await rig.asked(text)
    rig.clock.now_s += 29
    assert await rig.asked(text) == first
    rig.clock.now_s += 2
    second = await rig.asked(text)
    assert second["jti"] != first["jti"]
    assert second["exp"] > rig.clock.now_s + LIFETIME_S / 2


async def test_a_key_is_asked_for_again_while_requests_go_on(rig: Rig) -> None:
    text = rig.keep()
    await rig.asked(text)
    rig.store.gate.clear()
    rig.clock.now_s += key_checks.FRESH_S + 1
    rig.store.kept["0" * ID_LENGTH] = replace(rig.store.kept["0" * ID_LENGTH], owner=None)
    await rig.asked(text)  # Nobody waits.
    await rig.settled()
    assert len(rig.store.asked) == 2
    rig.store.gate.set()
    await rig.settled()
    with pytest.raises(TokenInvalid):
        await rig.asked(text)


async def test_a_store_that_is_away_stops_no_known_key_for_two_minutes(rig: Rig) -> None:
    text, other = rig.keep(), rig.keep(1)
    await rig.asked(text)
    rig.store.down = True
    with pytest.raises(AuthUnavailable) as refused:
        await rig.asked(other)
    assert refused.value.retry_after_s
    for _ in range(11):
        rig.clock.now_s += 10
        await rig.asked(text)
        await rig.settled()
    assert rig.store.asked.count("0" * ID_LENGTH) <= 12  # Once in ten seconds here; once a second at most.
    rig.clock.now_s += 11
    with pytest.raises(AuthUnavailable):
        await rig.asked(text)
    rig.store.down = False
    await rig.asked(text)
    await rig.asked(other)


async def test_a_store_that_does_not_answer_is_asked_once_a_second(rig: Rig) -> None:
    text = rig.keep()
    await rig.asked(text)
    rig.store.down, rig.clock.now_s = True, rig.clock.now_s + key_checks.FRESH_S + 1
    for _ in range(50):
        await rig.asked(text)
        await rig.settled()
    assert len(rig.store.asked) == 2


async def test_made_up_keys_are_asked_for_once(rig: Rig) -> None:
    text = FORM.written("9" * ID_LENGTH, "c" * SECRET_LENGTH)
    for _ in range(5):
        with pytest.raises(TokenInvalid):
            await rig.asked(text)
    assert len(rig.store.asked) == 1


async def test_a_flood_of_made_up_keys_is_bounded(rig: Rig) -> None:
    rig.store.gate.clear()
    texts = [FORM.written(f"{n:012d}", "c" * SECRET_LENGTH) for n in range(key_checks.WAITING_MAX * 2)]
    waiting = [asyncio.create_task(rig.asked(text)) for text in texts]
    await rig.settled()
    assert rig.store.asking_max == key_checks.AT_ONCE
    rig.store.gate.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(one, TokenInvalid) for one in found) == key_checks.WAITING_MAX
    assert sum(isinstance(one, AuthUnavailable) for one in found) == key_checks.WAITING_MAX


async def test_memory_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_checks, "KNOWN_MAX", 3)
    monkeypatch.setattr(key_checks, "UNKNOWN_MAX", 3)
    texts = [rig.keep(n) for n in range(5)]
    for text in texts:
        await rig.asked(text)
        with pytest.raises(TokenInvalid):
            await rig.asked(text.replace("b" * SECRET_LENGTH, "c" * SECRET_LENGTH)[:-6] + "000000")
    await rig.asked(texts[2])
    await rig.asked(texts[0])  # Forgotten, so asked for again; and the one used least recently goes.
    assert len(rig.store.asked) == 6
    await rig.asked(texts[2])
    await rig.asked(texts[3])
    assert len(rig.store.asked) == 7


async def test_without_a_signing_key_nobody_is_let_in(rig: Rig) -> None:
    rig.signer.has_key = False
    with pytest.raises(AuthUnavailable):
        await rig.asked(rig.keep())


# ---- What was revoked ------------------------------------------------------------------------------


def revoked(kind: Kind, name: str, *, until_s: float | None = None) -> Revocation:
    return Revocation(kind=kind, id=name, issued_until_s=until_s, forget_at_s=NOW_S + 600)


async def test_a_revoked_key_is_dead_at_once(rig: Rig) -> None:
    text = rig.keep()
    await rig.asked(text)
    key = rig.store.kept["0" * ID_LENGTH].key
    entry = revoked(Kind.API_KEY, key.key_id)
    await rig.store.end(key, entry)
    rig.denied.add([entry], now_s=NOW_S)
    for _ in range(3):
        with pytest.raises(TokenInvalid):
            await rig.asked(text)
    assert len(rig.store.asked) == 2


async def test_a_revoked_key_stays_dead_while_the_store_is_away(rig: Rig) -> None:
    text = rig.keep()
    await rig.asked(text)
    rig.store.down = True
    rig.denied.add([revoked(Kind.API_KEY, "0" * ID_LENGTH)], now_s=NOW_S)
    with pytest.raises(AuthUnavailable):
        await rig.asked(text)


async def test_a_user_who_was_logged_out_keeps_their_keys_with_new_tokens(rig: Rig) -> None:
    text = rig.keep()
    first = await rig.asked(text)
    rig.denied.add([revoked(Kind.USER, "user:ann", until_s=rig.clock.now_s)], now_s=NOW_S)
    second = await rig.asked(text)
    assert second["jti"] != first["jti"]
    assert second["iat"] > rig.clock.now_s
    assert len(rig.store.asked) == 2
    assert await rig.asked(text) == second


async def test_a_signing_key_that_is_revoked_signs_no_tokens_for_keys(rig: Rig) -> None:
    text = rig.keep()
    await rig.asked(text)
    rig.denied.add([revoked(Kind.SIGNING_KEY, "one")], now_s=NOW_S)
    with pytest.raises(TokenInvalid):
        await rig.asked(text)


def disable_owner(rig: Rig) -> None:
    rig.store.kept["0" * ID_LENGTH] = replace(rig.store.kept["0" * ID_LENGTH], owner=None)
    rig.denied.add([revoked(Kind.USER, "user:ann", until_s=rig.clock.now_s + 1)], now_s=NOW_S)
    rig.clock.now_s += 2


async def test_what_was_read_before_its_owner_lost_rights_lets_nobody_in(rig: Rig) -> None:
    text = rig.keep()
    await rig.asked(text, "inference")
    disable_owner(rig)
    for service in ("agent", "inference"):  # At the first, no token was signed before.
        with pytest.raises(TokenInvalid):
            await rig.asked(text, service)


async def test_an_answer_on_its_way_when_its_owner_lost_rights_lets_nobody_in(rig: Rig) -> None:
    text = rig.keep()
    rig.store.gate.clear()
    asking = asyncio.create_task(rig.asked(text))
    await rig.settled()
    disable_owner(rig)
    rig.store.gate.set()
    with pytest.raises(TokenInvalid):
        await asking


# ---- What is noted ---------------------------------------------------------------------------------


async def test_uses_are_noted_once_a_minute_and_written_apart(rig: Rig) -> None:
    text = rig.keep()
    for _ in range(100):
        await rig.asked(text)
    (noted,) = rig.trail.events
    assert (noted.action, noted.outcome) == (Action.API_KEY_USED, Outcome.ALLOWED)
    assert noted.object == f"api_key/{'0' * ID_LENGTH}"
    assert rig.store.times == []
    rig.store.down = True
    with pytest.raises(StoreUnavailable):
        await rig.uses.write()
    rig.store.down = False
    await rig.uses.write()
    await rig.uses.write()
    assert rig.store.times == [("0" * ID_LENGTH, NOW_S)]
    rig.clock.now_s += 61
    await rig.asked(text)
    await rig.uses.write()
    assert len(rig.trail.events) == len(rig.store.times) == 2


async def test_refused_uses_are_noted_too_but_are_no_use(rig: Rig) -> None:
    text = rig.keep(change={"revoked_at_s": NOW_S - 1})
    for _ in range(10):
        with pytest.raises(TokenInvalid):
            await rig.asked(text)
    assert [noted.outcome for noted in rig.trail.events] == [Outcome.DENIED]
    await rig.uses.write()
    assert rig.store.times == []
