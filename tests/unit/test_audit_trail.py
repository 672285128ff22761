"""The way of an event: nobody waits, order is kept, each counts once, and what is full says so."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.common.audit import Action, Happened, Outcome
from services.common.auditing import trail as module
from services.common.auditing.denials import KINDS_MAX, Denials
from services.common.auditing.metrics import AuditMetrics
from services.common.auditing.records import Record, decoded, encoded, fitted, record_of
from services.common.auditing.spool import Spool
from services.common.auditing.trail import BufferedTrail, ChainAway, RecordsRefused
from services.common.errors import AuditUnavailable
from tests.fakes.trail import KeptTrail


class Chain:
    """Takes records, or is away, or hangs, or refuses some of them."""

    def __init__(self) -> None:
        self.is_away = self.hangs = self.loses_answers = False
        self.refuses = ""
        self.taken: dict[Any, str] = {}
        self.delivery_count = 0

    async def __call__(self, records: Sequence[Record]) -> None:
        self.delivery_count += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.is_away:
            raise ChainAway
        if self.refuses and any(record.happened.object == self.refuses for record in records):
            raise RecordsRefused
        for record in records:
            self.taken.setdefault(record.event_id, _name(record))
        if self.loses_answers:
            raise ChainAway

    @property
    def names(self) -> list[str]:
        return list(self.taken.values())


def _name(record: Record) -> str:
    happened = record.happened
    return f"lost {happened.details['count']}" if happened.action is Action.EVENTS_LOST else happened.object


def happened(name: str) -> Happened:
    return Happened(action=Action.LOGIN, outcome=Outcome.ALLOWED, object=name)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RETRY_S", 0.01), ("RETRY_S_MAX", 0.02), ("DELIVER_S_MAX", 0.2), ("PAUSE_S", 0.001)):
        monkeypatch.setattr(module, name, value)


@asynccontextmanager
async def trail_to(
    chain: Chain, folder: Path | None, *, bytes_max: int = 1 << 20, queue_max: int = 1000
) -> AsyncIterator[BufferedTrail]:
    metrics = AuditMetrics(CollectorRegistry())

    @asynccontextmanager
    async def over(spool: Spool | None) -> AsyncIterator[BufferedTrail]:
        async with BufferedTrail.opened("x", chain, spool=spool, metrics=metrics) as trail:
            trail._queue_max = queue_max
            yield trail

    if folder is None:
        async with over(None) as trail:
            yield trail
        return
    with Spool.opened(folder, "x", bytes_max=bytes_max) as spool:
        async with over(spool) as trail:
            yield trail


async def settled(trail: BufferedTrail) -> None:
    async with asyncio.timeout(10):
        while not trail.is_settled:
            await asyncio.sleep(0.005)


async def test_noted_events_arrive_in_order_and_in_few_deliveries() -> None:
    chain = Chain()
    async with trail_to(chain, None) as trail:
        for number in range(300):
            trail.note(happened(str(number)))
        await settled(trail)
    assert chain.names == [str(number) for number in range(300)]
    assert chain.delivery_count <= 3


async def test_while_the_chain_is_away_they_wait_on_disk_and_keep_their_order(tmp_path: Path) -> None:
    chain = Chain()
    async with trail_to(chain, tmp_path) as trail:
        chain.is_away = True
        for number in range(100):
            trail.note(happened(str(number)))
            if number % 9 == 0:
                await asyncio.sleep(0.002)
        await trail.assure(happened("assured"))
        chain.is_away = False
        trail.note(happened("after"))
        await settled(trail)
    assert chain.names == [*map(str, range(100)), "assured", "after"]


async def test_an_answer_that_is_lost_makes_nothing_twice(tmp_path: Path) -> None:
    chain = Chain()
    chain.loses_answers = True
    async with trail_to(chain, tmp_path) as trail:
        await trail.assure(happened("a"))
        trail.note(happened("b"))
        await asyncio.sleep(0.05)
        chain.loses_answers = False
        await settled(trail)
    assert chain.names == ["a", "b"]
    assert chain.delivery_count > 2


async def test_what_a_process_leaves_on_disk_the_next_one_delivers(tmp_path: Path) -> None:
    chain = Chain()
    chain.is_away = True
    async with trail_to(chain, tmp_path) as trail:
        trail.note(happened("left"))
    assert chain.names == []
    chain.is_away = False
    async with trail_to(chain, tmp_path) as trail:
        await settled(trail)
    assert chain.names == ["left"]


async def test_the_end_of_a_process_brings_its_events_to_the_chain() -> None:
    chain = Chain()
    async with trail_to(chain, None) as trail:
        trail.note(happened("last"))
    assert chain.names == ["last"]


async def test_a_chain_that_hangs_delays_nobody_who_notes_and_assures_from_disk(tmp_path: Path) -> None:
    chain = Chain()
    chain.hangs = True
    async with trail_to(chain, tmp_path) as trail:
        trail.note(happened("noted"))
        await trail.assure(happened("assured"))
        chain.hangs = False
        await settled(trail)
    assert chain.names == ["noted", "assured"]


async def test_a_full_spool_refuses_who_must_not_go_on_and_says_what_it_dropped(tmp_path: Path) -> None:
    chain = Chain()
    chain.is_away = True
    async with trail_to(chain, tmp_path, bytes_max=2000, queue_max=10) as trail:
        async with asyncio.timeout(10):
            while trail._lost_count < 5:
                trail.note(happened("n"))
                await asyncio.sleep(0)
        assured, refused = set(), set()  # What comes while the writer looks elsewhere may still find room.
        for number in range(20):
            try:
                await trail.assure(happened(f"assured {number}"))
                assured.add(f"assured {number}")
            except AuditUnavailable:
                refused.add(f"assured {number}")
        assert len(refused) > 10
        assert chain.names == []
        chain.is_away = False
        await settled(trail)
    assert assured <= set(chain.names)
    assert not refused & set(chain.names)
    lost = [name for name in chain.names if name.startswith("lost ")]
    assert sum(int(name.split()[1]) for name in lost) >= 5
    assert chain.names.count("n") >= 10


@pytest.mark.timed
async def test_without_a_disk_who_must_not_go_on_is_refused_at_once() -> None:
    chain = Chain()
    chain.is_away = True
    async with trail_to(chain, None) as trail:
        async with asyncio.timeout(1):
            with pytest.raises(AuditUnavailable):
                await trail.assure(happened("refused"))
        trail.note(happened("noted"))
        chain.is_away = False
        await settled(trail)
    assert chain.names == ["noted"]


async def test_one_event_that_the_chain_never_takes_stops_no_other(tmp_path: Path) -> None:
    chain = Chain()
    chain.refuses = "bad"
    async with trail_to(chain, tmp_path) as trail:
        for name in ("a", "bad", "b"):
            trail.note(happened(name))
        await settled(trail)
    assert chain.names == ["a", "b", "lost 1"]


async def test_who_gave_up_is_not_recorded_as_having_done_it() -> None:
    chain = Chain()
    chain.hangs = True
    async with trail_to(chain, None) as trail:
        trail.note(happened("first"))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(trail.assure(happened("given up")))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
        chain.hangs = False
        await settled(trail)
    assert chain.names == ["first"]


TEXT = st.text(max_size=2000)


@given(TEXT, TEXT, TEXT, st.dictionaries(TEXT, TEXT, max_size=40))
def test_whatever_is_told_fits_and_comes_out_of_the_spool_as_it_went_in(
    user_id: str, what: str, reason: str, details: dict[str, str]
) -> None:
    told = Happened(
        action=Action.LOGIN,
        outcome=Outcome.DENIED,
        user_id=user_id,
        object=what,
        reason=reason,
        details=details,
    )
    record = record_of(told, service="x", time_ns=1_700_000_000_000_000_000)
    assert decoded(encoded(record)) == record
    assert fitted(record.happened) == record.happened
    for text in (record.happened.user_id, record.happened.object, record.happened.reason):
        assert "\0" not in text
        text.encode()
    assert len(record.happened.user_id) <= 128
    assert len(record.happened.object) <= 256
    assert len(record.happened.details) <= 32


@given(st.binary(max_size=200))
def test_what_is_no_record_is_none(data: bytes) -> None:
    decoded(data)


async def test_refusals_are_told_once_and_then_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.auditing.denials.WINDOW_S", 0.05)
    noted = KeptTrail()
    denials = Denials(noted)
    for _ in range(1000):
        denials.note(object="/a/B", reason="TOKEN_INVALID")
    denials.note(object="/a/B", reason="ROLE_REQUIRED", user_id="user:ann")
    assert [event.reason for event in noted.events] == ["TOKEN_INVALID", "ROLE_REQUIRED"]
    await asyncio.sleep(0.1)
    assert noted.events[2].details == {"count": "999"}
    denials.note(object="/a/B", reason="TOKEN_INVALID")
    assert len(noted.events) == 4
    await asyncio.sleep(0.1)
    assert len(noted.events) == 4


async def test_kinds_of_refusals_without_end_are_a_bounded_number_of_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.common.auditing.denials.WINDOW_S", 0.05)
    noted = KeptTrail()
    denials = Denials(noted)
    for number in range(5000):
        denials.note(object=f"/{number}", reason="TOKEN_INVALID")
    await asyncio.sleep(0.1)
    assert len(noted.events) == KINDS_MAX + 1
    assert noted.events[-1].details == {"count": str(5000 - KINDS_MAX)}
