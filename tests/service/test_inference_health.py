"""Instances that fail, fall silent, or go away: what is tried again, what is kept from work, how it comes back."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from ollamesh.inference.v1.fleet_pb2 import (
    BREAKER_STATE_CLOSED,
    BREAKER_STATE_HALF_OPEN,
    BREAKER_STATE_OPEN,
    INSTANCE_STATE_BROKEN,
    INSTANCE_STATE_READY,
    Instance,
)

from tests.fakes.fake_ollama import (
    Cut,
    Duplicate,
    DuplicateEnd,
    End,
    Fail,
    FakeOllama,
    Hang,
    Malformed,
    Refuse,
    Step,
)
from tests.service.inference_app import (
    TINY,
    WITHIN_S,
    Call,
    Service,
    events_of,
    grammar,
    left,
    one_instance,
    preload,
    refused,
    serving,
    until_event,
)
from tests.service.inference_backend import Backend, Upkeep

REPOSITORY = Path(__file__).parents[2]
Code = grpc.StatusCode
# Long enough that nothing healthy is taken for silent.
PATIENCE = {"stall_timeout_s": 1, "first_token_timeout_s": 1}
BEFORE: dict[str, Step] = {
    "500": Refuse(500, "llama runner process has terminated"),
    "503": Refuse(503, "server busy, please try again.  maximum pending requests exceeded"),
    "error": Fail("CUDA error: out of memory"),
    "cut": Cut(),
    "truncated": End(),
    "hang": Hang(),
}
AFTER: dict[str, Step] = {
    "error": Fail("CUDA error: out of memory"),
    "cut": Cut(),
    "truncated": End(),
    "malformed": Malformed(),
    "hang": Hang(),
}


@asynccontextmanager
async def two_fakes(**settings: object) -> AsyncIterator[tuple[Service, FakeOllama, FakeOllama]]:
    """The service over two instances, both with `tiny` in memory; the first one's name is first."""
    async with FakeOllama(TINY) as one, FakeOllama(TINY) as two:
        for fake in (one, two):
            await preload(fake, TINY)
        first, second = sorted((one, two), key=lambda fake: fake.url)
        async with serving(one.url, two.url, **settings) as service:
            yield service, first, second


def asked_count(*fakes: FakeOllama) -> int:
    return sum(len(fake.asked("/api/chat")) for fake in fakes)


def break_next(fake: FakeOllama, fault: str) -> int:
    """Have the next request fail; return how often it may be sent.

    Twice, if its connection breaks and was an old one: then it may only have been closed for being idle.
    """
    count = 2 if fault == "cut" else 1
    for _ in range(count):
        fake.script(BEFORE[fault])
    return count


# One request


@pytest.mark.parametrize("fault", BEFORE)
async def test_what_fails_before_the_first_token_is_answered_elsewhere(fault: str) -> None:
    async with two_fakes(**PATIENCE) as (service, one, two):
        sent_max = break_next(one, fault)
        events = await events_of(service.chat())
        await service.until_idle()
        assert 1 <= asked_count(one) <= sent_max
        assert asked_count(two) == 1
    assert grammar(events).replace("Q", "").rstrip("DF") == "OS"
    assert [event.started.instance for event in events if event.HasField("started")] == [
        two.url.removeprefix("http://")
    ]


@pytest.mark.parametrize("fault", BEFORE)
async def test_it_is_tried_twice_and_no_more(fault: str) -> None:
    async with two_fakes(**PATIENCE) as (service, one, two):
        sent_max = sum(break_next(fake, fault) for fake in (one, two))
        answer = await refused(service.chat())
        await service.until_idle()
        assert 2 <= asked_count(one, two) <= sent_max
    assert (answer.code, answer.reason) == (Code.UNAVAILABLE, "INSTANCE_FAILED")


@pytest.mark.parametrize("fault", AFTER)
async def test_what_fails_after_it_is_not_started_over(fault: str) -> None:
    async with two_fakes(**PATIENCE) as (service, one, two):
        one.script("a", "b", AFTER[fault])
        call = service.chat()
        opened = (await until_event(call, "opened")).opened
        last_sequence = (await until_event(call, "delta")).sequence
        answer = await refused(call)
        await service.until_idle()
        assert (asked_count(one), asked_count(two)) == (1, 0)
    assert answer.code is Code.ABORTED
    assert answer.reason == ("STREAM_STALLED" if fault == "hang" else "INSTANCE_LOST")
    assert answer.facts["stream_id"] == opened.stream_id
    assert int(answer.facts["last_sequence"]) in {last_sequence, last_sequence + 1}  # If "b" came alone.


async def test_what_is_said_twice_is_no_failure() -> None:
    async with one_instance() as (service, fake):
        fake.script("a", Duplicate(), "b", DuplicateEnd())
        events = await events_of(service.chat())
        again = await events_of(service.chat("again"))
        await service.until_idle()
    assert "".join(event.delta.text for event in events) == "aab", "a model may repeat itself"
    assert [event.HasField("finished") for event in events].count(True) == 1
    assert "".join(event.delta.text for event in again) == "again"


async def test_when_half_of_all_attempts_fail_retries_stay_a_fifth() -> None:
    count = 150
    async with two_fakes() as (service, one, two):
        for _ in range(count):
            for fake in (one, two):
                fake.script(Refuse(500, "it failed"))  # Never as often in a row as opens the breaker.
                fake.script("a")
        succeeded = sum([await succeeds(service.chat()) for _ in range(count)])
        attempts = asked_count(one, two)
        fleet = await service.fleet()
    assert {instance.breaker for instance in fleet.instances} == {BREAKER_STATE_CLOSED}
    assert count < attempts <= 1.2 * count
    assert succeeded >= count / 2


async def succeeds(call: Call) -> bool:
    """Whether it does, or else fails as it may."""
    try:
        return (await events_of(call))[-1].HasField("finished")
    except grpc.aio.AioRpcError as error:
        if error.code() is not Code.UNAVAILABLE:
            raise
        return False


# Breakers


async def the_instance(service: Service, breaker: int) -> Instance:
    fleet = await service.until_fleet(lambda fleet: fleet.instances[0].breaker == breaker)
    return fleet.instances[0]


async def test_an_instance_that_keeps_failing_gets_nothing_until_a_probe_succeeds() -> None:
    async with (
        Backend("tiny", residents=("tiny",), by_hand=(Upkeep.PROBE,)).serving() as backend,
        serving(backend.url) as service,
    ):
        for _ in range(3):
            call = service.chat()
            (await backend.asked()).fail(500)
            assert (await refused(call)).reason == "INSTANCE_FAILED"
        broken = await the_instance(service, BREAKER_STATE_OPEN)
        assert (broken.state, broken.slot_count) == (INSTANCE_STATE_BROKEN, 0)
        assert "failed" in broken.state_reason
        answer = await refused(service.chat())
        assert (answer.code, answer.reason) == (Code.UNAVAILABLE, "NO_INSTANCE")
        assert answer.retry_after_ms is not None

        probe = await backend.asked()
        assert probe.upkeep is Upkeep.PROBE
        assert (await the_instance(service, BREAKER_STATE_HALF_OPEN)).state == INSTANCE_STATE_BROKEN
        assert backend.idle(), "one probe, and nobody's request"
        backend.keep(probe)
        mended = await the_instance(service, BREAKER_STATE_CLOSED)
        assert (mended.state, mended.state_reason) == (INSTANCE_STATE_READY, "")
        call = service.chat()
        (await backend.asked()).done()
        await until_event(call, "finished")


async def test_one_that_falls_silent_with_all_it_had_is_given_nothing_until_it_is_itself() -> None:
    async with one_instance(first_token_timeout_s=0.5) as (service, fake):
        fake.wedge()
        answer = await refused(service.chat())
        assert (answer.code, answer.reason) == (Code.UNAVAILABLE, "INSTANCE_FAILED")
        wedged = await the_instance(service, BREAKER_STATE_OPEN)
        assert (wedged.state, wedged.busy_slot_count) == (INSTANCE_STATE_BROKEN, 0)
        assert "silent" in wedged.state_reason
        fake.restart()
        await service.until_ready(1)
        assert (await events_of(service.chat()))[-1].HasField("finished")
        assert fake.load_count == 2, "the restart had emptied it"


async def test_one_that_is_slow_beside_others_is_not_taken_for_wedged() -> None:
    async with one_instance(stall_timeout_s=0.3) as (service, fake):
        fake.script("a", Hang())
        holder = service.chat("holder")
        await until_event(holder, "delta")
        fake.script(*["b"] * 3)
        assert (await events_of(service.chat()))[-1].HasField("finished")
        assert (await refused(holder)).reason == "STREAM_STALLED"


# Processes


@asynccontextmanager
async def process() -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A fake in a process of its own, whose models say a token every 50 ms."""
    command = (sys.executable, "-m", "tests.fakes.fake_ollama", "--listen", "127.0.0.1:0", "--token-ms", "50")
    running = await asyncio.create_subprocess_exec(
        *command, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert running.stdout is not None
        line = await asyncio.wait_for(running.stdout.readline(), WITHIN_S)
        yield running, line.decode().removeprefix("listening on ").strip()
    finally:
        running.kill()
        await running.wait()


async def test_a_process_that_stands_still_breaks_and_comes_back_by_a_probe() -> None:
    settings = {"stall_timeout_s": 1, "poll_timeout_s": 1, "poll_every_s": 0.05}
    async with process() as (running, url), serving(url, **settings) as service:
        call = service.chat(" ".join(["word"] * 1000), model="smollm2:135m")
        sequence = (await until_event(call, "delta")).sequence
        running.send_signal(signal.SIGSTOP)
        answer = await refused(call)
        assert answer.reason == "STREAM_STALLED"
        assert int(answer.facts["last_sequence"]) >= sequence
        broken = await the_instance(service, BREAKER_STATE_OPEN)
        assert (broken.state, broken.slot_count, broken.busy_slot_count) == (INSTANCE_STATE_BROKEN, 0, 0)
        assert broken.state_reason
        assert (await refused(service.chat(model="smollm2:135m"))).reason == "NO_INSTANCE"

        running.send_signal(signal.SIGCONT)
        await service.until_ready(1)
        assert (await events_of(service.chat(model="smollm2:135m")))[-1].HasField("finished")


async def test_when_all_instances_are_gone_callers_are_told_and_when_they_are_back_served() -> None:
    async with two_fakes() as (service, *fakes):
        for fake in fakes:
            await fake.refuse()
        await service.until_ready(0)
        answer = await refused(service.chat())
        assert (answer.code, answer.reason) == (Code.UNAVAILABLE, "NO_INSTANCE")
        assert answer.retry_after_ms is not None
        for fake in fakes:
            await fake.accept()
        await service.until_ready(2)
        assert (await events_of(service.chat()))[-1].HasField("finished")


async def test_a_slot_is_free_when_the_instance_that_had_it_is_gone() -> None:
    async with one_instance(instance_slots=1) as (service, fake):
        fake.script("a", Hang())
        call = service.chat()
        await until_event(call, "delta")
        fake.restart()
        assert (await refused(call)).reason == "INSTANCE_LOST"
        assert await left(fake.asked("/api/chat")[0])
        await service.until_ready(1)
        await service.until_idle()
        assert (await events_of(service.chat()))[-1].HasField("finished")
