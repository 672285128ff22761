"""What is recorded of the scheduler, how names are hidden, and the file's bound."""

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import fields
from errno import ENOSPC
from pathlib import Path

import pytest

from services.inference.adapters.recorder import Recorder
from services.inference.core.estimates import Estimates
from services.inference.core.hosts import Capacity
from services.inference.core.jobs import Job, Priority
from services.inference.core.policy import Policy, read_weights
from services.inference.core.prefixes import Prefix
from services.inference.core.recording import RecordingScheduler, keyed
from services.inference.core.usage import Usage
from services.inference.errors import QueueFull
from services.inference.simulation.fields import Malformed
from services.inference.simulation.replay import verify

USAGE = Usage(prompt_token_count=100, prompt_s=0.1, output_token_count=50, output_s=1 / 3, load_s=0.01)


def job(ticket: int, **changes: object) -> Job:
    values: dict[str, object] = {
        "ticket": ticket,
        "tenant": "Acme",
        "model": "tiny:latest",
        "priority": Priority.DEFAULT,
        "arrived_at_s": 1.1,
        "expires_at_s": 61.1,
        "prompt_token_count": 100,
        "prefixes": (Prefix(key="said in secret", token_count=90),),
    }
    return Job(**(values | changes))  # type: ignore[arg-type]


def story(scheduler: RecordingScheduler) -> None:
    """One that has every kind of call in it, and most kinds of decisions."""
    scheduler.observe(Capacity(instance="one", slots=1, models={"tiny:latest": 10, "big:latest": 20}), 1.0)
    scheduler.submit(job(1), 1.1)
    assert [type(step).__name__ for step in scheduler.decide(1.2)] == ["Load"]
    scheduler.loaded("one", "tiny:latest", ok=True, load_s=0.7, now_s=1.9)
    assert [type(step).__name__ for step in scheduler.decide(1.9)] == ["Dispatch"]
    scheduler.submit(job(2, deadline_at_s=99.0, tenant="Beta"), 2.0)
    with pytest.raises(QueueFull):
        scheduler.submit(job(3), 2.0)
    scheduler.submit(job(4, priority=Priority.INTERACTIVE, output_token_max=5), 2.1)
    scheduler.decide(2.2)
    scheduler.end(1, USAGE, 2.5)
    scheduler.decide(2.5)
    scheduler.end(4, None, 2.6)
    scheduler.submit(job(5, model="big:latest"), 2.7)
    scheduler.decide(2.7)
    scheduler.unloaded("one", "tiny:latest", 2.9)
    scheduler.decide(2.9)
    scheduler.withdraw(5)
    scheduler.submit(job(6, avoid=frozenset({"b", "a", "c"})), 3.0)
    scheduler.decide(70.0)


def recorded(alias: Callable[[str], str] = str) -> list[str]:
    text: list[str] = []
    policy = Policy(waiting_max=1, weights={"Acme": 2.0})
    story(RecordingScheduler(policy, Estimates(), write=text.append, alias=alias))
    return "".join(text).splitlines(keepends=True)


def test_a_replay_is_the_same_byte_for_byte() -> None:
    lines = recorded()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert {"submit", "withdraw", "end", "observe", "loaded", "unloaded", "decide"} <= set(kinds)
    assert {"refuse", "displace", "load", "dispatch", "settled"} <= set(kinds)
    verdict = verify(lines)
    assert (verdict.difference, verdict.note, verdict.line_count) == ("", "", len(lines))


def test_what_is_changed_is_found() -> None:
    lines = recorded()
    place = next(place for place, line in enumerate(lines) if '"dispatch"' in line)
    verdict = verify([*lines[:place], lines[place].replace('"ticket":1', '"ticket":2'), *lines[place + 1 :]])
    assert verdict.line_count == place
    assert f"line {place + 1} is" in verdict.difference


def test_a_decision_that_the_replay_has_not_is_a_difference() -> None:
    lines = recorded()
    verdict = verify([*lines[:2], '{"instance":"one","kind":"dispatch","ticket":1}\n', *lines[2:]])
    assert verdict.line_count == 2
    assert verdict.difference.startswith("line 3 is")
    assert "the replay has nothing there" in verdict.difference


def test_weights_are_recorded_as_they_are_read_back() -> None:
    text: list[str] = []
    weights, _ = read_weights('{"Acme": 2}')
    story(
        RecordingScheduler(Policy(waiting_max=1, weights=weights), Estimates(), write=text.append, alias=str)
    )
    assert not verify("".join(text).splitlines(keepends=True)).difference


def test_an_input_that_makes_no_sense_is_named() -> None:
    lines = recorded()
    with pytest.raises(Malformed, match="line 3: the scheduler cannot be told this end"):
        verify([*lines[:2], '{"at_s":1.5,"kind":"end","ticket":77,"usage":null}\n'])
    with pytest.raises(Malformed, match="line 3: ticket is missing"):
        verify([*lines[:2], '{"kind":"withdraw"}\n'])
    with pytest.raises(Malformed, match="line 3: kind is not that of an input, but 'header'"):
        verify([*lines[:2], '{"kind":"header"}\n'])
    with pytest.raises(Malformed, match="line 1: there is none"):
        verify([])
    with pytest.raises(Malformed, match="arrivals only"):
        verify(['{"kind":"header","version":1}\n'])


def test_a_recording_that_was_cut_off_is_good_up_to_there() -> None:
    lines = recorded()
    verdict = verify([*lines[:-1], lines[-1][:-5]])
    assert (verdict.difference, verdict.line_count) == ("", len(lines) - 1)
    assert verdict.note == f"line {len(lines)} is cut off"
    place = next(place for place, line in enumerate(lines) if '"dispatch"' in line)
    assert verify(lines[:place]).note == "it ends within a call"


def test_nobody_is_named() -> None:
    one, other = recorded(keyed(b"salt of one file")), recorded(keyed(b"of another"))
    text = "".join(one)
    assert "Acme" not in text
    assert "Beta" not in text
    assert "secret" not in text
    assert text.count(keyed(b"salt of one file")("Acme")) > 3  # Who is the same stays the same,
    assert one != other  # and in another file is somebody else.
    assert not verify(one).difference
    assert json.loads(one[0])["policy"]["weights"] == {keyed(b"salt of one file")("Acme"): 2.0}


def test_what_was_learned_before_is_part_of_it() -> None:
    estimates = Estimates()
    for _ in range(5):
        estimates.learn_work("tiny:latest", "one", "Acme", usage=USAGE, reused_token_count=0, batch=1.5)
    estimates.learn_load("tiny:latest", "one", 0.3)
    text: list[str] = []
    story(RecordingScheduler(Policy(waiting_max=1), estimates, write=text.append, alias=keyed(b"salt")))
    assert "Acme" not in "".join(text)
    assert not verify("".join(text).splitlines(keepends=True)).difference


def test_no_field_is_left_out() -> None:
    """Whoever adds a field to what goes into the scheduler adds it to recording and replay."""
    seen = {json.loads(line)["kind"]: json.loads(line) for line in recorded()}
    renamed = {"prompt_token_count": "prompt_tokens", "output_token_max": "output_max"}
    names = {renamed.get(field.name, field.name) for field in fields(Job)}
    assert names <= set(seen["submit"])
    assert {field.name for field in fields(Capacity)} <= set(seen["observe"])
    assert {field.name for field in fields(Policy)} == set(seen["header"]["policy"])
    capacity = Capacity(
        instance="two",
        slots=3,
        models={"a:latest": 1},
        loaded={"a:latest": 2},
        foreign=frozenset({"z", "y"}),
        slots_of={"a:latest": 1},
        vram_bytes=5,
        asked_at_s=0.5,
        pinned=frozenset({"a:latest"}),
        wanted=frozenset({"b:latest"}),
        unwanted=frozenset({"c:latest"}),
    )
    assert all(getattr(capacity, field.name) for field in fields(Capacity)), "give every field a value"
    text: list[str] = []
    scheduler = RecordingScheduler(Policy(), Estimates(), write=text.append, alias=str)
    scheduler.observe(capacity, 1.0)
    assert not verify("".join(text).splitlines(keepends=True)).difference


# The file


async def test_the_file_holds_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_text("of the run before")
    with Recorder.opened(path, bytes_max=10_000) as recorder:
        recorder.write("one\n")
        running = asyncio.create_task(recorder.run(every_s=0.001))
        async with asyncio.timeout(10):
            while path.read_text() != "one\n":
                await asyncio.sleep(0.001)
        recorder.write("two\n")
        running.cancel()
    assert path.read_text() == "one\ntwo\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "recording.previous").read_text() == "of the run before"


async def test_at_the_bound_it_ends_between_two_calls_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    lines = recorded()
    with Recorder.opened(path, bytes_max=2000) as recorder:
        scheduler = RecordingScheduler(
            Policy(waiting_max=1, weights={"Acme": 2.0}), Estimates(), write=recorder.write, alias=str
        )
        story(scheduler)
        async with asyncio.timeout(10):
            await recorder.run(every_s=0.001)  # It has nothing more to do.
    kept = path.read_text().splitlines(keepends=True)
    assert path.stat().st_size <= 2000
    assert json.loads(kept[-1])["kind"] == "stopped"
    assert kept[:-1] == lines[: len(kept) - 1]
    assert verify(kept).note == "it was stopped: its bound in bytes is reached"


async def test_a_disk_that_fails_ends_the_recording_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Recorder.opened(tmp_path / "missing" / "recording", bytes_max=10_000) as recorder:
        story(RecordingScheduler(Policy(waiting_max=1), Estimates(), write=recorder.write, alias=str))
        async with asyncio.timeout(10):
            await recorder.run(every_s=0.001)

    def write(file: int, text: bytes) -> int:
        raise OSError(ENOSPC, "no space is left")

    monkeypatch.setattr(os, "write", write)
    with Recorder.opened(tmp_path / "recording", bytes_max=10_000) as recorder:
        recorder.write("one\n")
        async with asyncio.timeout(10):
            await recorder.run(every_s=0.001)
        recorder.write("two\n")
        assert not recorder.active
