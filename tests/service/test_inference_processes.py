"""Several processes are one service: one truth about slots and turns, one view of what is and what was counted.

Whatever else holds of one process is proved of several by OLLAMESH_TEST_PROCESSES (inference_app.py).
"""

import asyncio
import signal

import grpc
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.fleet_pb2 import Fleet, WatchFleetRequest
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest
from ollamesh.inference.v1.model_pb2 import GetModelRequest, ListModelsRequest

from tests.fakes.fake_ollama import Cut, FakeOllama, Hang, Refuse
from tests.service.inference_app import (
    BRISK,
    TINY,
    WITHIN_S,
    Call,
    Service,
    a_machine,
    asked,
    events_of,
    grammar,
    left,
    preload,
    refused,
    until_event,
)
from tests.service.inference_processes import program

FAILS = Refuse(500, "no")
METHOD = "/ollamesh.inference.v1.InferenceService/Chat"


async def test_each_serves_cancels_fails_and_drains() -> None:
    gate = asyncio.Event()
    async with FakeOllama(TINY) as fake, program(fake.url) as running:
        one, other = running.services
        assert grammar(await events_of(one.chat("hello"))) == "OQSDF", "it waits for the load"
        assert grammar(await events_of(other.chat("hello"))) == "OSDF"
        for service in running.services:
            await service.call("Embed", EmbedRequest(model="tiny", input=["x"]))

        fake.script("a", Hang())
        leaving = other.chat()
        await until_event(leaving, "delta")
        leaving.cancel()
        assert await left(await asked(fake, 3))
        await one.until_idle()

        fake.script("a", Cut())
        assert (await refused(other.chat())).reason == "INSTANCE_LOST"
        await running.until_ready()

        fake.script("a", gate, "b")
        last = other.chat()
        await until_event(last, "delta")
        running.head.send_signal(signal.SIGTERM)
        gate.set()
        await until_event(last, "finished")
        _, written = await asyncio.wait_for(running.head.communicate(), WITHIN_S)
    log = written.decode()
    assert running.head.returncode == 0, log
    assert "hello" not in log, "prompts are not logged"
    assert "Traceback" not in log, log


async def test_slots_and_turns_are_shared() -> None:
    """An instance never gets more than it has slots; and who comes with little waits for nobody who came with much."""
    async with a_machine(BRISK, parallel=4) as fake, program(fake.url) as running:
        await preload(fake, BRISK)
        one, other = running.services
        much = [one.chat(f"much {number} [write 200]", org="much") for number in range(24)]
        await one.until_fleet(lambda fleet: sum(queue.default_waiting_count for queue in fleet.queues) > 8)
        little = [other.chat(f"little {number} [write 50]", org="little") for number in range(4)]
        seen = asyncio.create_task(_most_busy(other))
        await asyncio.gather(*(events_of(call) for call in (*much, *little)))
        assert fake.waited_inside_count == 0
        assert await seen == 4
        tenants = [
            "little" if "little" in str(asked.body["messages"]) else "much"
            for asked in fake.asked("/api/chat")
        ]
    assert len(tenants) == 28
    assert "little" not in tenants[-4:], "they came last, and none is among the last to be served"


async def _most_busy(service: Service) -> int:
    """Watch until nothing waits; return how many slots were ever in use."""
    most = 0
    while (fleet := await service.fleet()).queues:
        most = max(most, *(one.busy_slot_count for one in fleet.instances))
        await asyncio.sleep(0.001)
    return most


async def test_one_queue_for_all_its_places_refusals_and_deadlines() -> None:
    async with FakeOllama(TINY) as fake:
        await preload(fake, TINY)
        async with program(fake.url, instance_slots=1, queue_max=2, timeout_min_s=0.1) as running:
            one, other = running.services
            fake.script("a", Hang())
            holder = one.chat("holder", org="holder")
            await until_event(holder, "delta")

            hurried = other.chat(queue_timeout={"nanos": 300_000_000})
            assert (await _queued(hurried)).ahead_count == 0
            answer = await refused(hurried)
            assert (answer.code, answer.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "QUEUE_TIMEOUT")

            batch = one.chat(priority=pb.PRIORITY_BATCH)
            await _queued(batch)
            first = other.chat()
            await _queued(first)
            urgent = other.chat(priority=pb.PRIORITY_INTERACTIVE)
            await _queued(urgent)
            assert (await refused(batch)).reason == "QUEUE_FULL", "it gave way to one of the other process"
            full = await refused(one.chat(org="org-1"))
            assert (full.code, full.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
            assert full.retry_after_ms is not None
            assert await _first_message(one.chat(org="org-1")) is None, "refused before anything is said"

            urgent.cancel()
            await one.until_fleet(lambda fleet: fleet.queues[0].interactive_waiting_count == 0)
            assert (await _queued(again := one.chat())).ahead_count == 1
            first.cancel()
            assert (await _queued(again)).ahead_count == 0, "its place improved, across processes"
            holder.cancel()
            assert (await until_event(again, "finished")).HasField("finished")
            await other.until_idle()


async def _queued(call: Call) -> pb.CompletionEvent.Queued:
    return (await until_event(call, "queued")).queued


async def _first_message(call: Call) -> object:
    try:
        return await call.read()
    except grpc.aio.AioRpcError:
        return None


async def test_a_failure_is_repeated_elsewhere_and_a_policys_time_ends() -> None:
    policy = '{"user": {"timeout_s_min": 0, "timeout_s_max": 3}}'
    async with FakeOllama(TINY) as fake, FakeOllama(TINY) as spare:
        for each in (fake, spare):
            await preload(each, TINY)
        async with program(fake.url, spare.url, policy=policy) as running:
            one, other = running.services
            fake.script(FAILS)
            spare.script(FAILS)
            lost = await refused(one.chat())
            assert lost.reason == "INSTANCE_FAILED", "both failed: it is repeated once"
            assert len(fake.asked("/api/chat")) == len(spare.asked("/api/chat")) == 1
            fake.script(FAILS)
            for _ in range(4):  # Wherever they go first.
                assert grammar(await events_of(other.chat()))[-1] == "F"
            for each in (fake, spare):
                each.script("a", Hang())
            call = other.chat()
            await until_event(call, "delta")
            ended = await refused(call)
            assert (ended.code, ended.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "TIME_EXCEEDED")
            await one.until_idle()


async def test_all_show_the_same_and_one_endpoint_counts_for_all() -> None:
    async with FakeOllama(TINY) as fake:
        await preload(fake, TINY)
        async with program(fake.url, processes=3) as running:
            fake.script("a", Hang())
            held = running.services[0].chat()
            await until_event(held, "delta")
            versions = set[str]()
            for service in running.services:
                (instance,) = (await service.fleet()).instances
                assert (instance.busy_slot_count, instance.slot_count) == (1, 4)
                versions.add(instance.version)
                watched = await service.call("WatchFleet", WatchFleetRequest()).read()
                assert _shown(watched.fleet) == _shown(await service.fleet())
            assert len(versions) == 1
            assert versions != {""}
            models = [await service.call("ListModels", ListModelsRequest()) for service in running.services]
            assert models[0].models
            assert models[0] == models[1] == models[2]
            found = [
                await service.call("GetModel", GetModelRequest(model="tiny")) for service in running.services
            ]
            assert found[0] == found[1] == found[2]
            held.cancel()
            await running.services[1].until_idle()

            for service in running.services:
                await events_of(service.chat())
                await refused(service.chat(model="unknown"))
            name, labels = "ollamesh_rpc_handled_total", frozenset({METHOD, "OK"})
            await running.until_counted(name, lambda found: found[labels] == 3)
            unknown = frozenset({METHOD, "NOT_FOUND"})
            await running.until_counted(name, lambda found: found[unknown] == 3)
            refusals = await running.counted("ollamesh_admission_refusals_total")
            assert refusals[frozenset({"MODEL_NOT_FOUND"})] == 3
            served = await running.counted("gen_ai_server_request_duration_seconds_count")
            assert sum(served.values()) == 4, "the head counts what was placed: once"
            assert next(iter((await running.counted("ollamesh_instance_ready")).values())) == 1


def _shown(fleet: Fleet) -> Fleet:
    """Without what moves by itself."""
    shown = Fleet()
    shown.CopyFrom(fleet)
    shown.ClearField("observed_time")
    for instance in shown.instances:
        instance.ClearField("seen_time")
        for resident in instance.resident_models:
            resident.ClearField("expire_time")
    return shown
