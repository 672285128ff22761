"""The load generator keeps its promises: an open loop, bounded, nothing left out, and it says when it was late."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import grpc
import pytest
from ollamesh.client import Client
from ollamesh.client.errors import CallError

from tests.load import drive
from tests.load.callers import Refused, Sign
from tests.load.drive import Driver
from tests.load.figures import Spread, by_kind, spread, summaries, void
from tests.load.plots import draw
from tests.load.record import NOT_SENT, OK, UNFINISHED, Answer, Cost, Plan, Record
from tests.load.report import Run, lines, write
from tests.load.schedule import MIX, SHOTS_MAX, Kind, ScheduleError, Shot, read_mix, schedule

RUN = Run(target="no models", seconds=10, rate=1, mix={"chat": 1.0}, seed=1, machine="none")
NOBODY = cast("Client", None)


def shots(count: int, *, kind: Kind = "chat", every_s: float = 0.0) -> list[Shot]:
    return [Shot(at_s=number * every_s, kind=kind, number=number) for number in range(count)]


def plan(asked: Sequence[Shot], *, in_flight_max: int = 100, drain_s: float = 30.0) -> Plan:
    return Plan(edge="", username="", password="", shots=asked, in_flight_max=in_flight_max, drain_s=drain_s)


def answer(
    *,
    at_s: float = 0,
    took_s: float = 1,
    first_s: float = -1,
    late_s: float = 0,
    verdict: str = OK,
    kind: Kind = "chat",
) -> Answer:
    return Answer(
        kind=kind, at_s=at_s, began_s=at_s + late_s, first_s=first_s, ended_s=at_s + took_s, verdict=verdict
    )


class Mesh:
    """Answers nothing until it is let."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.asked: list[int] = []
        self.fails: dict[int, Exception] = {}

    async def ask(self, _client: Client, _plan: Plan, shot: Shot, sign: Sign) -> None:
        self.asked.append(shot.number)
        await self.open.wait()
        sign.seen()
        if shot.number in self.fails:
            raise self.fails[shot.number]


@pytest.fixture
async def mesh(monkeypatch: pytest.MonkeyPatch) -> Mesh:
    made = Mesh()
    monkeypatch.setattr(drive, "ask", made.ask)
    return made


# ---- The plan


def test_the_same_seed_asks_the_same_at_the_same_times() -> None:
    one, again = (schedule(MIX, seconds=50, rate=2, seed=7) for _ in range(2))
    assert one == again
    assert one != schedule(MIX, seconds=50, rate=2, seed=8)


def test_requests_come_in_order_within_the_time_and_near_their_rates() -> None:
    asked = schedule({"chat": 5.0, "embed": 20.0}, seconds=100, rate=2, seed=1)
    times = [shot.at_s for shot in asked]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] < 100
    counts = Counter(shot.kind for shot in asked)
    assert 900 < counts["chat"] < 1100  # Of 1,000 expected: more than three deviations.
    assert 3700 < counts["embed"] < 4300


def test_a_further_kind_moves_no_other() -> None:
    chats = schedule({"chat": 5.0}, seconds=20, rate=1, seed=1)
    both = schedule({"chat": 5.0, "run": 1.0}, seconds=20, rate=1, seed=1)
    assert [shot for shot in both if shot.kind == "chat"] == chats


def test_a_mix_is_read() -> None:
    assert read_mix("") == MIX
    assert read_mix("chat=2, embed=0.5") == {"chat": 2.0, "embed": 0.5}


@pytest.mark.parametrize("text", ["chat", "chat=x", "chat=-1", "talk=1", "chat=inf", "chat=nan"])
def test_a_mix_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError, match="MIX"):
        read_mix(text)


@pytest.mark.parametrize(("seconds", "rate"), [(0, 1), (10, 0), (float("nan"), 1), (SHOTS_MAX, 1)])
def test_a_plan_has_bounds(seconds: float, rate: float) -> None:
    with pytest.raises(ScheduleError):
        schedule({"chat": 1.1}, seconds=seconds, rate=rate, seed=1)


# ---- The driver


async def test_no_request_waits_for_an_answer(mesh: Mesh) -> None:
    """A closed loop would ask once and then stand still."""
    running = asyncio.create_task(Driver(plan(shots(20, every_s=0.01)), [NOBODY]).run())
    async with asyncio.timeout(30):
        while len(mesh.asked) < 20:
            await asyncio.sleep(0.01)
    mesh.open.set()
    record = await running
    assert mesh.asked == list(range(20))
    assert [found.verdict for found in record.answers] == [OK] * 20


async def test_latencies_count_from_when_a_request_should_have_been_sent(mesh: Mesh) -> None:
    """All were due while the mesh stood still: each has waited since its own time."""
    running = asyncio.create_task(Driver(plan(shots(5, every_s=0.1)), [NOBODY]).run())
    async with asyncio.timeout(30):
        while len(mesh.asked) < 5:
            await asyncio.sleep(0.01)
    mesh.open.set()
    record = await running
    assert all(found.total_s >= 0.4 - found.at_s for found in record.answers)


async def test_a_late_generator_makes_latencies_worse(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh.open.set()
    monkeypatch.setattr(drive, "HEAD_START_S", -5.0)  # As if it had been stopped for five seconds.
    record = await Driver(plan(shots(3)), [NOBODY]).run()
    assert all(found.total_s >= 5 for found in record.answers)
    assert void(record) is not None


async def test_what_is_over_the_bound_is_not_sent_and_counted(mesh: Mesh) -> None:
    driver = Driver(plan(shots(10), in_flight_max=4), [NOBODY])
    running = asyncio.create_task(driver.run())
    async with asyncio.timeout(30):
        while len(driver._answers) < 6:
            await asyncio.sleep(0.01)
    mesh.open.set()
    record = await running
    assert Counter(found.verdict for found in record.answers) == {OK: 4, NOT_SENT: 6}


async def test_what_has_no_answer_in_the_end_is_given_up_and_counted(mesh: Mesh) -> None:
    record = await Driver(plan(shots(3), drain_s=0.05), [NOBODY]).run()
    assert mesh.asked == [0, 1, 2]
    assert [found.verdict for found in record.answers] == [UNFINISHED] * 3


async def test_failures_are_counted_by_reason(mesh: Mesh) -> None:
    mesh.open.set()
    mesh.fails = {
        0: CallError(code=grpc.StatusCode.RESOURCE_EXHAUSTED, message="", reason="QUEUE_FULL"),
        1: CallError(code=grpc.StatusCode.UNAVAILABLE, message=""),
        2: Refused("FAILED"),
    }
    record = await Driver(plan(shots(4)), [NOBODY]).run()
    verdicts = Counter(found.verdict for found in record.answers)
    assert verdicts == {"QUEUE_FULL": 1, "UNAVAILABLE": 1, "FAILED": 1, OK: 1}


async def test_a_bug_of_the_generator_is_no_answer(mesh: Mesh) -> None:
    mesh.open.set()
    mesh.fails = {0: KeyError("bug")}
    with pytest.raises(KeyError):
        await Driver(plan(shots(1)), [NOBODY]).run()


# ---- The figures


def test_a_spread_is_of_what_there_is() -> None:
    assert spread([]) == Spread()
    assert spread([2.0]) == Spread(count=1, p50_s=2, p90_s=2, p99_s=2, max_s=2)
    many = spread([float(value) for value in range(101)])
    assert (many.p50_s, many.p90_s, many.p99_s, many.max_s) == (50, 90, 99, 100)


def test_good_is_well_and_in_time() -> None:
    answers = [
        answer(took_s=1),
        answer(took_s=11),
        answer(verdict="QUEUE_FULL"),
        answer(kind="embed", took_s=3),
    ]
    *kinds, whole = summaries(Record(answers=answers, wall_s=20, cpu_s=1), seconds=10)
    assert [
        (found.name, found.sent_count, found.ok_count, found.good_count) for found in (*kinds, whole)
    ] == [
        ("chat", 3, 2, 1),
        ("embed", 1, 1, 0),
        ("all", 4, 3, 1),
    ]
    assert whole.good_per_s == 0.1
    assert whole.failures == {"QUEUE_FULL": 1}


def test_failures_are_in_no_latency() -> None:
    record = Record(
        answers=[answer(took_s=1, first_s=0.5), answer(took_s=0.001, verdict="DENIED")], wall_s=1, cpu_s=0
    )
    (chat, _) = summaries(record, seconds=1)
    assert (chat.total.count, chat.total.p50_s, chat.first.p50_s) == (1, 1, 0.5)


def test_figures_are_void_if_the_generator_was_late_or_idle() -> None:
    assert void(Record(answers=[answer(late_s=0.001)], wall_s=1, cpu_s=0)) is None
    assert "late" in (void(Record(answers=[answer(late_s=0.2)], wall_s=1, cpu_s=0)) or "")
    assert void(Record(answers=[], wall_s=1, cpu_s=0)) == "nothing was sent"


# ---- The report


def test_a_report_has_every_kind_and_says_what_is_void(tmp_path: Path) -> None:
    answers = [answer(kind="chat", first_s=0.2), answer(kind="embed", verdict="RATE_LIMITED", late_s=1)]
    parts = {"edge": Cost(cpu_s=2, memory_max_bytes=10**8)}
    record = Record(answers=answers, wall_s=10, cpu_s=1, in_flight=[(0, 1), (1, 2)], parts=parts)
    told = "\n".join(lines(RUN, record))
    assert "RATE_LIMITED 1" in told
    assert "void" in told
    write(tmp_path, RUN, record)
    found = json.loads((tmp_path / "report.json").read_text())
    assert [kind["name"] for kind in found["kinds"]] == ["chat", "embed", "all"]
    assert found["parts"]["edge"]["cpu_s"] == 2
    assert "latency.png" in (tmp_path / "report.md").read_text()
    for picture in draw(record, tmp_path, title="a test"):
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_pictures_of_a_run_without_answers_are_drawn(tmp_path: Path) -> None:
    assert len(draw(Record(answers=[], wall_s=1, cpu_s=0), tmp_path, title="nothing")) == 2
    assert by_kind([]) == {}
