"""Keys that follow each other: on schedule, by command, in an emergency, from any state and by any clock."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from services.auth.adapters.es256 import Es256Locksmith
from services.auth.core.keys import CLOCK_SKEW_S, KEPT_S, Phase, Term, first_term, phase, published, signing
from services.auth.core.rotation import LEAD_S, Plan, due, emergency, planned
from services.auth.keyring import Keyring
from services.auth.ports import SealedKey
from services.auth.revocations import Revocations
from services.auth.rotation import Decision, Named, Rotated, Rotation
from services.common.audit import Action, Happened, Outcome
from tests.fakes.auth_store import FakeStore
from tests.fakes.revocation_store import FakeRevocationStore

START_S = 1_000_000.0
DAY_S = 86_400.0
acts = st.lists(
    st.tuples(st.floats(0, 3 * LEAD_S), st.sampled_from(["rotate", "rotate", "emergency", "wait"])),
    max_size=12,
)


def carried_out(terms: Sequence[Term], plan: Plan) -> list[Term]:
    """What the store makes of a plan."""
    if plan.exists:
        return list(terms)
    changed = {term.key_id: term for term in plan.changed}
    kept = [changed.get(term.key_id, term) for term in terms if term.key_id not in plan.removed]
    return [*kept, plan.new]


@given(acts)
def test_whatever_is_done_one_key_signs_and_was_published_long_enough(
    sequence: list[tuple[float, str]],
) -> None:
    now_s, terms = START_S, [first_term("first")]
    published_s, urgent = {"first": 0.0}, {"first"}
    for number, (wait_s, act) in enumerate(sequence):
        now_s += wait_s
        before = signing(terms, now_s)
        if act == "rotate":
            terms = carried_out(terms, planned(terms, f"k{number}", now_s))
            after = signing(terms, now_s)
            assert before is not None
            assert after is not None
            assert after.key_id == before.key_id
        elif act == "emergency":
            terms = carried_out(terms, emergency(terms, f"k{number}", now_s))
            assert [term.key_id for term in published(terms, now_s)] == [f"k{number}"]
            urgent.add(f"k{number}")
        for term in terms:
            published_s.setdefault(term.key_id, now_s)
        assert len([term for term in terms if phase(term, now_s) is Phase.PENDING]) <= 1
        for later_s in (0.0, LEAD_S / 2, LEAD_S, 10 * LEAD_S):
            signer = signing(terms, now_s + later_s)
            assert signer is not None
            waited_s = signer.active_from_s - published_s[signer.key_id]
            assert waited_s >= LEAD_S - 1e-6 or signer.key_id in urgent


@given(acts, st.floats(-CLOCK_SKEW_S, CLOCK_SKEW_S))
def test_a_replica_whose_clock_is_off_signs_with_what_the_others_publish(
    sequence: list[tuple[float, str]], off_s: float
) -> None:
    now_s, terms = START_S, [first_term("first")]
    for number, (wait_s, act) in enumerate(sequence):
        now_s += wait_s
        if act != "wait":
            make = planned if act == "rotate" else emergency
            terms = carried_out(terms, make(terms, f"k{number}", now_s))
        for later_s in (0.0, LEAD_S - 1, LEAD_S, LEAD_S + 1):
            signer = signing(terms, now_s + later_s + off_s)
            assert signer is not None
            assert signer in published(terms, now_s + later_s)


def test_a_planned_rotation_in_its_phases() -> None:
    plan = planned([first_term("a")], "b", 100.0)
    terms = carried_out([first_term("a")], plan)
    active_s = 100.0 + LEAD_S
    assert [term.retired_from_s for term in terms] == [active_s, None]
    for now_s, signs, known in (
        (100.0, "a", {"a", "b"}),
        (active_s - 0.1, "a", {"a", "b"}),
        (active_s, "b", {"a", "b"}),
        (active_s + KEPT_S - 0.1, "b", {"a", "b"}),
        (active_s + KEPT_S, "b", {"b"}),
    ):
        signer = signing(terms, now_s)
        assert signer is not None
        assert (signer.key_id, {term.key_id for term in published(terms, now_s)}) == (signs, known)


def test_while_one_is_pending_there_is_no_other() -> None:
    terms = carried_out([first_term("a")], planned([first_term("a")], "b", 100.0))
    again = planned(terms, "c", 101.0)
    assert again.exists
    assert again.new.key_id == "b"


@pytest.mark.parametrize(
    ("age_s", "every_s", "is_due"),
    [
        (0, 30 * DAY_S, False),
        (30 * DAY_S - LEAD_S - 1, 30 * DAY_S, False),
        (30 * DAY_S - LEAD_S, 30 * DAY_S, True),
        (400 * DAY_S, 30 * DAY_S, True),
        (400 * DAY_S, 0, False),
    ],
)
def test_when_the_next_one_is_due(age_s: float, every_s: float, is_due: bool) -> None:  # noqa: FBT001
    first = replace(
        first_term("a"), made_at_s=START_S
    )  # Its time lies at the beginning; what counts is its age.
    assert due([first], START_S + age_s, every_s=every_s) is is_due


def test_nothing_is_due_while_one_is_pending_or_where_there_is_none() -> None:
    pending = Term(key_id="b", active_from_s=START_S + 10, made_at_s=START_S)
    assert not due([first_term("a"), pending], START_S, every_s=1000)
    assert not due([], START_S, every_s=1000)


class FakeSigningKeys:
    """Rotations in memory, beside the fake store."""

    def __init__(self, store: FakeStore) -> None:
        self._store, self._lock = store, asyncio.Lock()
        self.forgotten_count = 0

    async def rotate(self, decide: Decision, *, named: Named | None) -> Rotated | None:
        async with self._lock:
            await asyncio.sleep(0)
            terms = [key.term for key in self._store.keys]
            if (decided := decide(terms)) is None:
                return None
            plan, sealed = decided
            by_id = {key.term.key_id: key.sealed for key in self._store.keys} | {plan.new.key_id: sealed}
            self._store.keys = [SealedKey(term, by_id[term.key_id]) for term in carried_out(terms, plan)]
            new = plan.new
            return Rotated(key_id=new.key_id, active_from_s=new.active_from_s, is_new=not plan.exists)

    async def reseal(self, key_id: str, *, old: bytes, new: bytes) -> None:
        self._store.keys = [
            SealedKey(key.term, new) if (key.term.key_id, key.sealed) == (key_id, old) else key
            for key in self._store.keys
        ]

    async def forget(self, now_s: float) -> None:
        self.forgotten_count += 1


class Notes:
    def __init__(self) -> None:
        self.noted: list[Happened] = []
        self.assured: list[Happened] = []

    def note(self, happened: Happened) -> None:
        self.noted.append(happened)

    async def assure(self, happened: Happened) -> None:
        self.assured.append(happened)


class Replica:
    def __init__(self, store: FakeStore, *encryption_keys: str, every_s: float = 30 * DAY_S) -> None:
        self.now_s, self.trail = START_S, Notes()
        self.locksmith = Es256Locksmith(encryption_keys)
        self.keyring = Keyring(store, self.locksmith, clock=lambda: self.now_s)
        self.rotation = Rotation(
            FakeSigningKeys(store),
            self.keyring,
            self.locksmith,
            Revocations(FakeRevocationStore()),
            self.trail,
            every_s=every_s,
            clock=lambda: self.now_s,
        )


def stocked(encryption_key: str) -> FakeStore:
    store = FakeStore()
    key_id, sealed = Es256Locksmith((encryption_key,)).make()
    store.keys.append(SealedKey(replace(first_term(key_id), made_at_s=START_S), sealed))
    return store


OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


async def test_replicas_that_find_one_due_make_one() -> None:
    store = stocked(OLD)
    replicas = [Replica(store, OLD) for _ in range(3)]
    keys = FakeSigningKeys(store)
    for replica in replicas:
        replica.rotation._store = keys
        await replica.rotation.step()
        replica.now_s += 30 * DAY_S
    assert len(store.keys) == 1
    await asyncio.gather(*(replica.rotation.step() for replica in replicas))
    assert len(store.keys) == 2
    noted = [happened for replica in replicas for happened in replica.trail.noted]
    assert [(one.action, one.outcome) for one in noted] == [(Action.SIGNING_KEY_ROTATED, Outcome.ALLOWED)]


async def test_an_old_encryption_key_can_be_dropped_after_one_round() -> None:
    store = stocked(OLD)
    between = Replica(store, NEW, OLD)
    await between.rotation.step()
    after = Replica(store, NEW)
    await after.rotation.step()
    assert after.keyring.usable
    sealed = store.keys[0].sealed
    await after.rotation.step()
    assert store.keys[0].sealed == sealed  # Once is enough.


async def test_a_key_that_was_opened_stays_open_when_another_replica_seals_it_anew() -> None:
    store = stocked(OLD)
    behind = Replica(store, OLD)
    await behind.rotation.step()
    await Replica(store, NEW, OLD).rotation.step()
    await behind.rotation.step()
    assert behind.keyring.usable


async def test_a_command_is_written_down_before_it_happens() -> None:
    store = stocked(OLD)
    replica = Replica(store, OLD)
    await replica.rotation.step()

    async def down(happened: Happened) -> None:
        raise ZeroDivisionError

    replica.trail.assure = down  # type: ignore[method-assign]
    happened = Happened(action=Action.SIGNING_KEY_ROTATED, outcome=Outcome.ALLOWED)
    with pytest.raises(ZeroDivisionError):
        await replica.rotation.rotate(happened, emergency=True, request_id="")
    assert len(store.keys) == 1
