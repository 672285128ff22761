"""More requests than can be served: who is let in, who gives way, and what those who are not served are told."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from ollamesh.inference.v1 import completion_pb2 as pb

from tests.fakes.fake_ollama import FakeOllama, Hang
from tests.service.inference_app import (
    BRISK,
    Call,
    Service,
    asked,
    events_of,
    next_event,
    one_instance,
    one_machine,
    refused,
    until,
    until_event,
)

Code = grpc.StatusCode
# An answer of a hundred tokens takes half a second.
STEADY = replace(BRISK, token_s=0.005)
ANSWER = "[write 100]"


async def hold(service: Service, fake: FakeOllama) -> Call:
    """Keep the only slot busy."""
    fake.script("a", Hang())
    call = service.chat("holder", org="holder")
    await until_event(call, "delta")
    return call


async def waiting(call: Call) -> Call:
    await until_event(call, "queued")
    return call


# By count


async def test_the_hundred_and_first_is_refused_with_a_delay() -> None:
    async with one_instance(instance_slots=1) as (service, fake):
        await hold(service, fake)
        await asyncio.gather(*(waiting(service.chat()) for _ in range(100)))
        answer = await refused(service.chat())
        (queue,) = (await service.fleet()).queues
        other_model = await refused(service.chat(model="huge"))
    assert (answer.code, answer.reason) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert answer.facts == {"waiting_max": "100"}
    assert answer.retry_after_ms is not None
    assert queue.default_waiting_count == 100
    assert other_model.reason == "MODEL_NOT_FOUND"


async def test_batch_work_takes_only_its_share_of_the_places() -> None:
    async with one_instance(instance_slots=1, queue_max=4, batch_queue_share=0.5) as (service, fake):
        await hold(service, fake)
        for _ in range(2):
            await waiting(service.chat(priority=pb.PRIORITY_BATCH))
        answer = await refused(service.chat(priority=pb.PRIORITY_BATCH))
        for _ in range(2):
            await waiting(service.chat())
    assert (answer.reason, answer.facts) == ("QUEUE_FULL", {"waiting_max": "2"})


async def test_a_tenant_that_fills_the_queue_does_not_keep_another_out() -> None:
    async with one_instance(instance_slots=1, queue_max=3) as (service, fake):
        await hold(service, fake)
        _, _, newest = [await waiting(service.chat(org="greedy")) for _ in range(3)]
        light = await waiting(service.chat("light", org="light"))
        answer = await refused(newest)
        own = await refused(service.chat(org="greedy"))
        (queue,) = (await service.fleet()).queues
        light.cancel()
    assert (answer.code, answer.reason) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert answer.facts == {"waiting_max": "3"}
    assert answer.retry_after_ms is not None
    assert own.reason == "QUEUE_FULL", "who has most displaces nobody"
    assert queue.default_waiting_count == 3


async def test_the_urgent_displace_those_that_can_wait() -> None:
    async with one_instance(instance_slots=1, queue_max=2) as (service, fake):
        await hold(service, fake)
        batch = await waiting(service.chat(priority=pb.PRIORITY_BATCH))
        first = await waiting(service.chat())
        urgent = await waiting(service.chat(priority=pb.PRIORITY_INTERACTIVE))
        assert (await refused(batch)).reason == "QUEUE_FULL"
        await waiting(service.chat(priority=pb.PRIORITY_INTERACTIVE))
        assert (await refused(first)).reason == "QUEUE_FULL"
        answer = await refused(service.chat(priority=pb.PRIORITY_INTERACTIVE))
        urgent.cancel()
    assert answer.reason == "QUEUE_FULL"


# By time


async def test_who_could_not_be_served_in_time_is_refused_at_once() -> None:
    async with one_machine(STEADY) as (service, fake):
        await events_of(service.chat(ANSWER))  # Now it is known how long that takes.
        for _ in range(4):
            service.chat(ANSWER)
        await until_waiting(service, 3)
        answer = await refused(service.chat(ANSWER, timeout_s=1.5))
        patient = service.chat(ANSWER, timeout_s=60)
        assert (await until_event(patient, "finished")).HasField("finished")
        sent_count = len(fake.asked("/api/chat"))
    assert (answer.code, answer.reason) == (Code.RESOURCE_EXHAUSTED, "DEADLINE_UNREACHABLE")
    wait_s, remaining_s = (float(answer.facts[name]) for name in ("estimated_wait_s", "remaining_s"))
    assert wait_s > remaining_s / 2
    assert 0 < remaining_s <= 2  # gRPC's clock is coarse.
    assert answer.retry_after_ms is not None
    assert 100 <= answer.retry_after_ms <= 1000 * wait_s
    assert sent_count == 6, "nothing was generated for the one that was refused"


async def test_nobody_is_refused_for_a_guess() -> None:
    """What nobody has measured is tried."""
    async with one_machine(replace(BRISK, load_s=0.2)) as (service, fake):
        await hold(service, fake)
        await asyncio.gather(*(waiting(service.chat(ANSWER, timeout_s=5.0)) for _ in range(20)))


async def test_those_who_wait_see_their_place_and_when_it_may_be_their_turn() -> None:
    async with one_machine(STEADY) as (service, fake):
        await events_of(service.chat(ANSWER))
        running = service.chat(ANSWER)
        await asked(fake, 2)
        calls = []
        for count in range(1, 4):
            calls.append(service.chat(ANSWER))
            await until_waiting(service, count)
        seen = []
        while (event := await next_event(calls[-1])).WhichOneof("event") != "started":
            if event.HasField("queued"):
                seen.append((event.queued, datetime.now(UTC)))
        running.cancel()
    places = [queued.ahead_count for queued, _ in seen]
    assert places == [2, 1, 0]
    for queued, now in seen:
        start = queued.estimated_start_time.ToDatetime(UTC)
        assert now - timedelta(seconds=5) < start < now + timedelta(seconds=30)


async def until_waiting(service: Service, count: int) -> None:
    await service.until_fleet(
        lambda fleet: sum(queue.default_waiting_count for queue in fleet.queues) == count
    )


@pytest.mark.parametrize("timeout_s", [0, 1, 4])
async def test_a_timeout_that_is_too_short_to_be_meant_is_a_wrong_request(timeout_s: int) -> None:
    async with one_instance() as (service, fake):
        messages = [pb.Message(role=pb.ROLE_USER, content="x")]
        request = pb.ChatRequest(model="tiny", messages=messages)
        request.queue_timeout.FromSeconds(timeout_s)
        answer = await refused(service.call("Chat", request))
        assert not fake.asked("/api/chat")
    assert (answer.code, answer.reason, answer.fields) == (
        Code.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        ["queue_timeout"],
    )


async def test_after_the_overload_everyone_is_served() -> None:
    async with one_machine(BRISK, queue_max=10) as (service, fake):
        calls = [service.chat("[write 5]", org=f"org-{number % 4}") for number in range(60)]
        refusals = await asyncio.gather(*map(outcome, calls))
        await service.until_idle()
        for _ in range(10):
            assert (await events_of(service.chat()))[-1].HasField("finished")
        await until(lambda: fake.busy_count == 0)
        assert fake.waited_inside_count == 0
    assert set(refusals) == {"", "QUEUE_FULL"}


async def outcome(call: Call) -> str:
    """The reason of a refusal; empty for an answer."""
    try:
        await events_of(call)
    except grpc.aio.AioRpcError:
        return (await refused(call)).reason
    return ""
