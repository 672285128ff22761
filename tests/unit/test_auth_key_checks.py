"""What is remembered of keys, for how long, and what happens at each bound."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jwt
import pytest
from prometheus_client import CollectorRegistry

from services.auth import key_checks
from services.auth.core.api_keys import ID_LENGTH, SECRET_LENGTH, ApiKey, Kept, KeyForm, Owner
from services.auth.core.claims import LIFETIME_MAX_S, Claims
from services.auth.core.identity import SCOPES, Role
from services.auth.key_checks import KeyChecks
from services.auth.key_swaps import LIFETIME_S, Swaps
from services.auth.key_uses import KeyUses
from services.auth.telemetry import KeyMetrics
from services.common.audit import Action, Happened, Outcome
from services.common.errors import AuthUnavailable, StoreUnavailable, TokenExpired, TokenInvalid
from services.common.revoked import DenyList, Kind, Revocation
from tests.fakes.api_key_store import FakeApiKeys

FORM = KeyForm("live", "s" * 32)
NOW_S = 1_800_000_000.5


class Signer:
    def __init__(self) -> None:
        self.claims: list[Claims] = []
        self.has_key = True

    def sign(self, claims: Claims) -> str:
        if not self.has_key:
            raise StoreUnavailable
        self.claims.append(claims)
        return jwt.encode(dict(claims), "k" * 32, headers={"kid": "one"})


class Trail:
    def __init__(self) -> None:
        self.noted: list[Happened] = []

    def note(self, happened: Happened) -> None:
        self.noted.append(happened)

    async def assure(self, happened: Happened) -> None:
        self.note(happened)


@dataclass(slots=True)
class Clock:
    now_s: float = NOW_S

    def time(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s - NOW_S


class Rig:
    """Checks over a fake store, and a clock that a test moves."""

    def __init__(self) -> None:
        self.clock, self.store, self.signer = Clock(), FakeApiKeys(), Signer()
        self.trail, self.denied = Trail(), DenyList()
        self.uses = KeyUses(self.store, self.trail, KeyMetrics(CollectorRegistry()), clock=self.clock)
        swaps = Swaps(
            self.signer,
            issuer="http://ollamesh",
            passed=lambda token, _service: token.encode(),
            issuable_from_s=self.denied.issuable_from_s,
            clock=self.clock,
        )
        self.checks = KeyChecks(
            store=self.store, form=FORM, swaps=swaps, uses=self.uses, denied=self.denied, clock=self.clock
        )

    def keep(self, number: int = 0, change: Mapping[str, object] | None = None) -> str:
        """A key that the store has; the text of it."""
        key_id = f"{number:0{ID_LENGTH}d}"
        text = FORM.written(key_id, "b" * SECRET_LENGTH)
        presented = FORM.read(text)
        assert presented
        key = ApiKey(
            key_id=key_id,
            prefix=FORM.prefix(key_id),
            display_name="mine",
            user_id="user:ann",
            organization_id="acme",
            project_id="lab",
            role=Role.ADMIN,
            scopes=SCOPES,
            created_at_s=NOW_S - 10,
            expires_at_s=NOW_S + 86_400,
        )
        changed: Any = {} if change is None else change
        owner = Owner(role=Role.USER)
        self.store.kept[key_id] = Kept(key=replace(key, **changed), digest=presented.digest, owner=owner)
        return text

    async def asked(self, text: str, service: str = "inference") -> dict[str, Any]:
        """What the token says with which the request goes on."""
        token = await self.checks.answer(text, service)
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False, "verify_aud": False})
        return claims

    async def settled(self) -> None:
        """Until nothing is being asked in the background."""
        for _ in range(10):
            await asyncio.sleep(0)


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
    await rig.asked(text)  # Nobody waits.
    await rig.settled()
    assert len(rig.store.asked) == 2
    rig.store.kept["0" * ID_LENGTH] = replace(rig.store.kept["0" * ID_LENGTH], owner=None)
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


# ---- What is noted ---------------------------------------------------------------------------------


async def test_uses_are_noted_once_a_minute_and_written_apart(rig: Rig) -> None:
    text = rig.keep()
    for _ in range(100):
        await rig.asked(text)
    (noted,) = rig.trail.noted
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
    assert len(rig.trail.noted) == len(rig.store.times) == 2


async def test_refused_uses_are_noted_too_but_are_no_use(rig: Rig) -> None:
    text = rig.keep(change={"revoked_at_s": NOW_S - 1})
    for _ in range(10):
        with pytest.raises(TokenInvalid):
            await rig.asked(text)
    assert [noted.outcome for noted in rig.trail.noted] == [Outcome.DENIED]
    await rig.uses.write()
    assert rig.store.times == []
