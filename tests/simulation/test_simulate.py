"""Any day on any fleet, simulated: it is the same every time, its books agree with the scheduler's, and its log is
a recording that replays.
"""

import hashlib
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from services.inference.core.estimates import Estimates
from services.inference.core.policy import Policy
from services.inference.core.recording import Alias, RecordingScheduler, keyed
from services.inference.simulation.calls import Ran, Verdict, time_of
from services.inference.simulation.fleet_spec import GIB, FleetSpec, InstanceGroup
from services.inference.simulation.fronts import Fifo, Gateway, RoundRobin
from services.inference.simulation.parts import MachineSpec, ModelSpec
from services.inference.simulation.recorded import arrivals_of
from services.inference.simulation.replay import verify
from services.inference.simulation.report import report
from services.inference.simulation.synthetic import synthesise
from services.inference.simulation.trace import Arrival, header_of, parse_lines
from services.inference.simulation.world import World

ROOT = Path(__file__).parents[2]
MODELS = {
    name: ModelSpec(
        name=name,
        vram_bytes=gib * GIB,
        load_s=gib / 4,
        prefill_tokens_per_s=8000.0 / gib,
        token_s=0.004 * gib,
        batch_cost=0.1,
        parallel_max=slots_max,
    )
    for name, gib, slots_max in (("tiny:latest", 2, 0), ("large:latest", 7, 0), ("embed:latest", 1, 1))
}


def some_fleet(seed: int) -> FleetSpec:
    chance = random.Random(f"fleet {seed}")
    machine = MachineSpec(
        name="", vram_bytes=chance.choice([8, 10, 24]) * GIB, parallel=chance.choice([1, 2, 4])
    )
    return FleetSpec(
        groups=(InstanceGroup(name="gpu", count=chance.choice([1, 2, 3]), speed=1.0, machine=machine),),
        models=MODELS,
        policy=Policy(waiting_max=chance.choice([5, 30])),
        keep_alive_s=chance.choice([5.0, 300.0]),
    )


def some_day(seed: int) -> list[Arrival]:
    chance = random.Random(f"day {seed}")
    flows = []
    for model, output in (("tiny", 60), ("large", 60), ("embed", 0)):
        for priority in ("interactive", "default", "batch"):
            if chance.random() < 0.6:
                kind = chance.choice(
                    ["poisson:", "burst:peak=20,every=6,lasting=2,", "diurnal:peak=9,every=12,"]
                )
                flows.append(
                    f"{kind}rate={chance.choice([0.2, 1, 3])},duration=12,model={model},output={output},"
                    f"priority={priority},tenants={chance.choice([1, 5])},timeout=20"
                    + chance.choice(["", ",deadline=8", ",deadline=25", ",leave=6", ",turns=3,think=4"])
                )
    return synthesise("+".join(flows or ["poisson:rate=1,duration=12,model=tiny"]), seed)


def played(seed: int, alias: Alias = str) -> tuple[Ran, Gateway, str]:
    text: list[str] = []
    fleet = some_fleet(seed)
    world = World(fleet, some_day(seed))
    front = Gateway(world)
    front.scheduler = RecordingScheduler(fleet.policy, Estimates(), write=text.append, alias=alias)
    return world.run(front), front, "".join(text)


def test_any_day(seed: int) -> None:
    ran, front, log = played(seed)
    check_answers(seed, ran)
    check_books(seed, ran, front)
    check_trace(seed, ran, log)
    _, _, same_log = played(seed)
    assert log == same_log


def test_a_recording_replays_though_it_hides_names(seed: int) -> None:
    _, _, log = played(seed, keyed(f"{seed}".encode()))
    assert "tenant-" not in log
    lines = log.splitlines(keepends=True)
    verdict = verify(lines)
    assert (verdict.difference, verdict.note, verdict.line_count) == ("", "", len(lines))


def check_answers(seed: int, ran: Ran) -> None:
    """Everybody is answered once, and in time."""
    assert all(call.verdict is not None for call in ran.calls)
    told = report("gateway", ran, weights={})
    assert sum(told.outcomes.values()) == len(ran.calls) == len(some_day(seed))
    share = told.utilisation
    assert share.busy + share.load + share.idle == pytest.approx(1.0)
    for call in ran.calls:
        if call.verdict is Verdict.COMPLETED:
            assert call.arrival.at_s <= call.started_s + 1e-9
            assert call.started_s <= call.ended_s
            if call.arrival.deadline_s is not None:
                assert call.ended_s <= call.arrival.at_s + call.arrival.deadline_s + 1e-9


def check_books(seed: int, ran: Ran, front: Gateway) -> None:
    """The simulation's books are kept from what machines say, the scheduler's from what it was told."""
    fleet = some_fleet(seed)
    theirs = front.scheduler.books(ran.ended_s)
    for mine in ran.machines:
        time, its = time_of(mine, ran.ended_s), theirs[mine.name]
        assert sum(time.tenants.values()) == pytest.approx(time.busy_s)
        assert sum(its.tenants.values()) + its.idle_s + its.load_s == pytest.approx(its.wall_s)
        assert most_at_once(mine.spans) <= fleet.groups[0].machine.parallel


def most_at_once(spans: list) -> int:  # type: ignore[type-arg]
    edges = sorted([(span.began_s + 1e-6, 1) for span in spans] + [(span.ended_s, -1) for span in spans])
    count = most = 0
    for _, step in edges:
        count += step
        most = max(most, count)
    return most


def check_trace(seed: int, ran: Ran, log: str) -> None:
    """A log is a trace of the same day."""
    rows = parse_lines(log.splitlines())
    assert header_of(next(rows))
    found = arrivals_of(rows)
    day = some_day(seed)
    assert len(found) == len(day)
    assert Counter(arrival.model for arrival in found) == Counter(arrival.model for arrival in day)
    first_s = day[0].at_s
    for arrival, original, call in zip(found, day, ran.calls, strict=True):
        assert arrival.at_s == pytest.approx(original.at_s - first_s)
        if call.verdict is Verdict.COMPLETED:
            assert (arrival.prompt_tokens, arrival.output_tokens) == (
                original.prompt_tokens,
                original.output_tokens,
            )


def test_what_it_is_compared_with_answers_everybody_too(seed: int) -> None:
    for front in (RoundRobin, Fifo):
        world = World(some_fleet(seed), some_day(seed))
        ran = world.run(front(world))
        assert {call.verdict for call in ran.calls} <= {
            Verdict.COMPLETED,
            Verdict.LEFT,
            Verdict.DEADLINE_MISSED,
        }


PROGRAM = """
import hashlib
from tests.simulation.test_simulate import played
print(hashlib.sha256(played(7)[2].encode()).hexdigest())
"""


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_no_decision_depends_on_how_names_are_hashed(hash_seed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert done.stdout.strip() == hashlib.sha256(played(7)[2].encode()).hexdigest()
