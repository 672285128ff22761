"""What the engine makes of instances that fall silent, fail and come back."""

import asyncio
from functools import partial
from math import isfinite

import pytest

from services.common.errors import MeshError
from services.inference import health, upkeep
from services.inference.core.breaker import Breaker, BreakerState
from services.inference.errors import InstanceFailed, StreamStalled
from services.inference.ports import Trouble
from tests.unit.engine_rig import BROKEN, STALLED, FakeInstance, Rig, running, until, whole


async def test_an_instance_that_never_answers_again_is_broken_and_its_slot_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upkeep, "PROBE_S", 0.05)
    instance, other = FakeInstance(), FakeInstance(answers=True)
    instance.may_stop.set()
    other.may_stop.set()
    async with running(instance, other, measured=True) as rig:
        ticket, _ = rig.open()
        await until(lambda: instance.running_count == 1)
        rig.engine.abandon(ticket)
        await rig.until_busy(0)
        assert instance.probe_count == 1
        assert rig.ledger.view("gpu-0").breaker is BreakerState.OPEN
        _, completion = rig.open()
        await whole(completion)
        assert (instance.running_count_max, other.running_count_max) == (1, 1)


async def fail(rig: Rig, count: int = 1) -> None:
    """Have so many calls fail, one after the other."""
    for _ in range(count):
        _, completion = rig.open()
        with pytest.raises(MeshError):
            await whole(completion)


def probe_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "Breaker", partial(Breaker, open_s=0.01))


async def test_one_that_stalls_in_the_middle_of_all_it_had_is_started_anew() -> None:
    """Although the first of several, beside which others ran, opened the breaker."""
    instance = FakeInstance(stalls_after_a_token=True)
    async with running(instance, slots=4) as rig:
        calls = [rig.open()[1] for _ in range(4)]
        await until(lambda: instance.running_count == 4)
        instance.may_stop.set()
        for completion in calls:
            with pytest.raises(StreamStalled):
                await whole(completion)
        assert rig.restarts == ["gpu-0"]


@pytest.mark.parametrize(("answer", "restarted"), [(STALLED, True), (None, False)])
async def test_after_silence_before_the_first_tokens_a_probe_decides(
    monkeypatch: pytest.MonkeyPatch, answer: Trouble | None, *, restarted: bool
) -> None:
    probe_soon(monkeypatch)
    instance = FakeInstance(failure=STALLED, probe_failure=answer)
    instance.may_answer_probes.set()
    async with running(instance, slots=4) as rig:
        calls = [rig.open()[1] for _ in range(4)]
        await until(lambda: instance.running_count == 4)
        assert rig.restarts == []
        instance.may_stop.set()
        for completion in calls:
            with pytest.raises(InstanceFailed):
                await whole(completion)
        await until(lambda: bool(rig.restarts) if restarted else rig.ledger.view("gpu-0").ready)
        assert instance.probe_count == 1
        assert rig.restarts == (["gpu-0"] if restarted else [])


async def test_a_probe_that_fails_beside_others_restarts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    probe_soon(monkeypatch)
    instance = FakeInstance(probe_failure=STALLED)
    async with running(instance, slots=2) as rig:
        rig.open()
        await until(lambda: instance.running_count == 1)
        instance.failure = BROKEN
        instance.may_stop.set()
        await fail(rig, 3)
        await until(lambda: instance.probe_count == 2)
        assert rig.restarts == []


async def test_requests_that_are_answered_with_errors_keep_an_instance_for_one_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe_soon(monkeypatch)
    instance = FakeInstance(failure=BROKEN)
    instance.may_stop.set()
    async with running(instance) as rig:
        await fail(rig, 3)
        assert not rig.ledger.view("gpu-0").ready
        instance.may_answer_probes.set()
        instance.failure, instance.answers = None, True
        await until(lambda: rig.ledger.view("gpu-0").ready)
        _, completion = rig.open()
        await whole(completion)
        assert (instance.probe_count, rig.restarts) == (1, [])


@pytest.mark.parametrize(
    ("failure", "state", "restarts"),
    [(BROKEN, BreakerState.CLOSED, []), (STALLED, BreakerState.OPEN, ["gpu-0"])],
)
async def test_a_load_that_fails_tells_of_the_model_and_one_that_hangs_of_the_instance(
    monkeypatch: pytest.MonkeyPatch, failure: Trouble, state: BreakerState, restarts: list[str]
) -> None:
    monkeypatch.setattr(health, "Breaker", partial(Breaker, failures_max=1))
    instance = FakeInstance(load_failure=failure)
    async with running(instance) as rig:
        _, completion = rig.open()
        await until(lambda: instance.load_count == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert rig.ledger.view("gpu-0").breaker is state
        assert rig.restarts == restarts
        assert completion.ending is None


@pytest.mark.parametrize("measured", [False, True])
async def test_the_first_token_is_timed_only_by_what_was_measured(*, measured: bool) -> None:
    instance = FakeInstance(answers=True)
    instance.may_stop.set()
    async with running(instance, measured=measured) as rig:
        _, completion = rig.open()
        await whole(completion)
        assert [isfinite(limit_s) for limit_s in instance.first_token_s] == [measured]


async def test_who_left_an_instance_that_was_never_measured_makes_nobody_call_it_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be reading the prompt for as long as its own timeout allows."""
    monkeypatch.setattr(upkeep, "PROBE_S", 0.01)
    instance = FakeInstance()
    instance.may_stop.set()
    async with running(instance) as rig:
        ticket, _ = rig.open()
        await until(lambda: instance.running_count == 1)
        rig.engine.abandon(ticket)
        await until(lambda: instance.probe_count == 1)
        await asyncio.sleep(0.05)
        await rig.until_busy(1)
        assert rig.ledger.view("gpu-0").ready
        instance.may_answer_probes.set()
        await rig.until_busy(0)
