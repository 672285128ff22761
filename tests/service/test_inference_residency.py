"""Which models are loaded where: by decisions of the gateway, never by accident, and what becomes of those who wait."""

import asyncio
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import grpc
import pytest
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest

from deploy.local.ports import free_ports
from tests.fakes.fake_ollama import FakeOllama, fake_model
from tests.service.inference_app import (
    BRISK,
    GIB,
    OTHER,
    WITHIN_S,
    a_machine,
    asked,
    events_of,
    one_machine,
    preload,
    refused,
    serving,
    until,
    until_event,
)
from tests.service.inference_backend import Backend, Exchange, Upkeep

Code = grpc.StatusCode
SMALL = replace(BRISK, name="small:latest", vram_bytes=2 * GIB)
FAILED_LOADS: dict[str, Callable[[Exchange], None]] = {
    "500": lambda exchange: exchange.fail(500, "llama runner process has terminated: out of memory"),
    "503": lambda exchange: exchange.fail(503, "server busy, please try again."),
    "error": lambda exchange: exchange.reply({"error": "cudaMalloc failed: out of memory"}),
    "nonsense": lambda exchange: exchange.reply([]),
    "cut": Exchange.cut,
}


def loads(fake: FakeOllama) -> list[str]:
    """The models that were asked for without a prompt, in order: the gateway's decisions."""
    return [
        str(request.body["model"])
        for request in fake.asked("/api/generate")
        if "prompt" not in request.body and request.body["keep_alive"] != 0
    ]


# Loading


async def test_a_model_is_loaded_before_anybody_is_sent_to_it() -> None:
    async with a_machine(BRISK) as fake, serving(fake.url, context_tokens=2048) as service:
        events = await events_of(service.chat())
        (load,) = fake.asked("/api/generate")
        (chat,) = fake.asked("/api/chat")
        assert fake.waited_inside_count == 0
        assert fake.load_count == 1
    assert [event.WhichOneof("event") for event in events][:3] == ["opened", "queued", "started"]
    assert events[1].queued.HasField("estimated_start_time")
    assert load.body["options"] == {"num_ctx": 2048}
    options = chat.body["options"]
    assert isinstance(options, dict)
    assert options["num_ctx"] == 2048


async def test_a_model_that_only_embeds_is_loaded_by_embedding_nothing() -> None:
    async with FakeOllama(fake_model("minilm:latest", "embedding")) as fake, serving(fake.url) as service:
        response = await service.call("Embed", EmbedRequest(model="minilm", input=["a", "b"]))
        inputs = [request.body["input"] for request in fake.asked("/api/embed")]
    assert len(response.embeddings) == 2
    assert inputs == [[], ["a", "b"]]


async def test_others_are_served_while_a_model_loads_slowly() -> None:
    room = {"instance_vram_bytes": 10 * GIB}
    async with one_machine(BRISK, SMALL, parallel=2, **room) as (service, fake):
        await events_of(service.chat())
        fake.machine.loads_held = True
        waiting = [service.chat(model="small") for _ in range(2)]
        queued = [(await until_event(call, "queued")).queued for call in waiting]
        now = datetime.now(UTC)
        for _ in range(5):
            assert (await events_of(service.chat()))[-1].HasField("finished")
        assert sorted(place.ahead_count for place in queued) == [0, 1]
        for place in queued:
            assert place.estimated_start_time.ToDatetime(UTC) < now + timedelta(seconds=60)
        fake.let_load()
        for call in waiting:
            await until_event(call, "finished")
        assert loads(fake) == ["small:latest"]
        assert fake.waited_inside_count == 0


@pytest.mark.parametrize("way", FAILED_LOADS)
async def test_what_one_instance_cannot_load_another_does(way: str) -> None:
    async with (
        Backend("tiny", by_hand=(Upkeep.LOAD,)).serving() as one,
        Backend("tiny", by_hand=(Upkeep.LOAD,)).serving() as two,
        serving(one.url, two.url) as service,
    ):
        call = service.chat()
        await until(lambda: one.upkeep or two.upkeep)
        first, other = (one, two) if one.upkeep else (two, one)
        while not other.upkeep:  # Again, if a connection breaks that may only have been too old.
            if not first.idle():
                FAILED_LOADS[way](await first.asked())
            await asyncio.sleep(0)
        other.keep(await other.asked())
        exchange = await other.asked()
        exchange.token("a")
        exchange.done()
        await until_event(call, "finished")


@pytest.mark.parametrize("way", ["500", "error", "nonsense"])
async def test_where_nobody_can_load_it_all_who_wait_are_told(way: str) -> None:
    async with (
        Backend("tiny", by_hand=(Upkeep.LOAD,)).serving() as backend,
        serving(backend.url) as service,
    ):
        calls = [service.chat() for _ in range(3)]
        for call in calls:
            await until_event(call, "queued")
        for _ in range(2):  # Once may be an accident.
            FAILED_LOADS[way](await backend.asked())
        for call in calls:
            answer = await refused(call)
            assert (answer.code, answer.reason) == (Code.UNAVAILABLE, "INSTANCE_FAILED")
            assert answer.facts == {"instance": backend.name}
            assert answer.retry_after_ms is not None
            assert "memory" not in answer.message
        await service.until_fleet(lambda fleet: not fleet.queues)


async def test_a_load_that_never_ends_is_given_up() -> None:
    async with (
        Backend("tiny", by_hand=(Upkeep.LOAD,)).serving() as backend,
        serving(backend.url, load_timeout_s=0.3) as service,
    ):
        call = service.chat()
        load = await backend.asked()
        assert (await refused(call)).reason == "INSTANCE_FAILED"
        await asyncio.wait_for(load.gone.wait(), WITHIN_S)


async def test_who_waits_goes_elsewhere_when_the_instance_that_loads_is_gone() -> None:
    async with a_machine(BRISK) as one, a_machine(BRISK) as two, serving(one.url, two.url) as service:
        for fake in (one, two):
            fake.hold_loads()
        call = service.chat()
        await until(lambda: loads(one) + loads(two))
        loading, other = (one, two) if loads(one) else (two, one)
        other.let_load()
        await loading.refuse()
        loading.restart()
        assert (await until_event(call, "started")).started.instance in other.url
        await until_event(call, "finished")


# Keeping


async def test_no_request_ever_makes_an_instance_load_anew() -> None:
    """Whatever contexts they ask for, and whatever they embed."""
    async with a_machine(BRISK, OTHER) as fake, serving(fake.url, context_tokens=4096) as service:
        for count in (None, 1, 512, 4096):
            options = pb.Options(context_token_count=count)
            await events_of(service.chat(options=options))
            await service.call(
                "Generate", pb.GenerateRequest(model="tiny", prompt="x", options=options)
            ).read()
            await service.call("Embed", EmbedRequest(model="tiny", input=["x"]))
        answer = await refused(service.chat(options=pb.Options(context_token_count=8192)))
        await service.until_idle()
        assert (fake.load_count, fake.reload_count) == (1, 0)
        assert loads(fake) == ["tiny:latest"]
    assert answer.reason == "CONTEXT_TOO_LARGE"


async def test_one_that_was_loaded_with_another_context_is_loaded_anew_before_it_is_used() -> None:
    async with a_machine(BRISK) as fake:
        await preload(fake, BRISK, num_ctx=1024)
        async with serving(fake.url, context_tokens=2048) as service:
            await events_of(service.chat())
            assert loads(fake) == ["tiny:latest"]
            assert (fake.load_count, fake.loaded[0].context_length) == (2, 2048)


@pytest.mark.parametrize("room_bytes", [10 * GIB, 0], ids=["known room", "unknown room"])
async def test_two_models_with_room_for_one_are_served_by_turns(room_bytes: int) -> None:
    (metrics_port,) = free_ports(1)
    count = 30
    settings = {"inference_metrics_port": metrics_port, "instance_vram_bytes": room_bytes}
    async with one_machine(BRISK, OTHER, parallel=2, **settings) as (service, fake):
        await events_of(service.chat())
        calls = [service.chat(model=("tiny", "other")[number % 2]) for number in range(2 * count)]
        for call in calls:
            await until_event(call, "finished")
        await service.until_idle()
        decided = await loads_told(metrics_port)
        models = [request.body["model"] for request in fake.asked("/api/chat")]
        assert fake.load_count == 1 + decided == 1 + len(loads(fake))
        assert fake.reload_count == 0
        # Where the room is not known, the first load finds out, and waits for what runs.
        assert fake.waited_inside_count <= (0 if room_bytes else 1)
        assert max(fake.busy_peaks.values()) == 2
    changes = sum(before != after for before, after in pairwise(models))
    assert changes == decided <= 3, "Ollama alone would load for every other request"


async def loads_told(metrics_port: int) -> int:
    url = f"http://127.0.0.1:{metrics_port}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    lines = [line for line in text.splitlines() if line.startswith("ollamesh_model_loads_total")]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


async def test_a_model_that_runs_is_not_unloaded_under_its_requests() -> None:
    room = {"instance_vram_bytes": 10 * GIB}
    async with one_machine(BRISK, OTHER, **room) as (service, fake):
        running = service.chat("[write 100]")
        await until_event(running, "delta")
        waiting = service.chat(model="other")
        await until_event(waiting, "queued")
        assert fake.load_count == 1
        await until_event(running, "finished")
        await until_event(waiting, "finished")
        unloads = [request for request in fake.asked("/api/generate") if request.body["keep_alive"] == 0]
        assert [request.body["model"] for request in unloads] == ["tiny:latest"]
        assert fake.waited_inside_count == 0


async def test_two_that_fit_both_stay() -> None:
    async with one_machine(BRISK, SMALL) as (service, fake):
        for _ in range(5):
            await events_of(service.chat())
            await events_of(service.chat(model="small"))
        assert fake.load_count == 2


async def test_a_queue_that_grows_is_shared_with_another_instance() -> None:
    async with a_machine(BRISK) as one, a_machine(BRISK) as two:
        await preload(one, BRISK)
        async with serving(one.url, two.url, instance_slots=1) as service:
            await events_of(service.chat("[write 50]"))
            assert not loads(two), "nobody waits"
            calls = [service.chat("[write 50]") for _ in range(40)]
            for call in calls:
                await until_event(call, "finished")
            assert loads(two) == ["tiny:latest"]
            await asked(two)
