"""Models in memory, as an admin wants them: loaded before they are needed, pinned, unloaded, or refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from ollamesh.inference.v1 import model_pb2 as pb

from services.inference.core.catalog import KEEP_ALIVE_S_MAX
from tests.fakes.fake_ollama import FakeOllama, fake_model
from tests.service.inference_app import (
    BRISK,
    GIB,
    OTHER,
    Service,
    a_machine,
    events_of,
    one_instance,
    one_machine,
    preload,
    refused,
    serving,
    until,
    until_event,
)
from tests.service.inference_backend import Backend, Upkeep

Code = grpc.StatusCode
SMALL = replace(BRISK, name="small:latest", vram_bytes=2 * GIB)
LARGE = replace(BRISK, name="large:latest", vram_bytes=20 * GIB)
ROOM: dict[str, Any] = {"instance_vram_bytes": 10 * GIB}


async def admin(service: Service, method: str, request: object) -> Any:
    return await service.call(method, request, role="admin")


async def load(service: Service, model: str, instance: str = "", *, pin: bool = False) -> str:
    request = pb.LoadModelRequest(request_id="1", model=model, instance=instance, pin=pin)
    return str((await admin(service, "LoadModel", request)).instance)


async def unload(service: Service, model: str, instance: str = "") -> None:
    await admin(service, "UnloadModel", pb.UnloadModelRequest(model=model, instance=instance))


async def model(service: Service, name: str) -> pb.Model:
    response = await service.call("GetModel", pb.GetModelRequest(model=name))
    assert isinstance(response.model, pb.Model)
    return response.model


def loaded(fake: FakeOllama) -> list[str]:
    return sorted(each.card.name for each in fake.loaded)


def name_of(fake: FakeOllama) -> str:
    return fake.url.removeprefix("http://")


@asynccontextmanager
async def two_machines(**settings: object) -> AsyncIterator[tuple[Service, FakeOllama, FakeOllama]]:
    async with (
        a_machine(BRISK, OTHER, SMALL) as one,
        a_machine(BRISK, OTHER, SMALL) as two,
        serving(one.url, two.url, **{**ROOM, "instance_slots": 1, **settings}) as service,
    ):
        yield service, one, two


# Load


async def test_a_model_is_loaded_before_it_is_needed() -> None:
    async with a_machine(BRISK, OTHER) as fake, serving(fake.url, **ROOM) as service:
        assert await load(service, "TINY") == name_of(fake)
        shown = await model(service, "tiny")
        assert (list(shown.resident_instances), shown.pinned) == ([name_of(fake)], False)
        assert fake.load_count == 1
        await events_of(service.chat())
        assert fake.load_count == 1
        assert await load(service, "tiny") == name_of(fake), "it is there already"
        assert fake.load_count == 1
        assert fake.reload_count == 0


async def test_an_idle_model_makes_room_and_a_busy_one_does_not() -> None:
    async with one_machine(BRISK, OTHER, parallel=2, **ROOM) as (service, fake):
        gate = asyncio.Event()
        fake.script("a", gate, "b")
        running = service.chat()
        await until_event(running, "delta")
        full = await refused(load(service, "other"))
        assert (full.code, full.reason) == (Code.FAILED_PRECONDITION, "MODEL_TOO_LARGE")
        assert full.facts == {
            "model": "other:latest",
            "needed_bytes": str(6 * GIB * 6 // 5),
            "available_bytes": str(4 * GIB),
        }
        assert not [each for each in fake.asked("/api/generate") if each.body["model"] == "other:latest"]
        gate.set()
        await until_event(running, "finished")
        await service.until_idle()
        await load(service, "other")
        assert loaded(fake) == ["other:latest"]


async def test_what_fits_no_instance_is_refused_before_it_is_tried() -> None:
    async with a_machine(LARGE, SMALL) as fake, serving(fake.url, **ROOM) as service:
        for instance in ("", name_of(fake)):
            large = await refused(load(service, "large", instance, pin=True))
            assert (large.reason, large.facts["available_bytes"]) == ("MODEL_TOO_LARGE", str(10 * GIB))
        assert fake.load_count == 0
        assert not (await model(service, "large")).pinned


async def test_a_named_instance_loads_it() -> None:
    async with two_machines() as (service, one, two):
        for fake in (two, one):
            assert await load(service, "small", name_of(fake)) == name_of(fake)
            assert loaded(fake) == ["small:latest"]
        unknown = await refused(load(service, "small", "elsewhere"))
        assert (unknown.code, unknown.fields) == (Code.INVALID_ARGUMENT, ["instance"])
        missing = await refused(load(service, "nope"))
        assert missing.reason == "MODEL_NOT_FOUND"


async def test_a_load_that_fails_names_its_instance() -> None:
    async with Backend("tiny", by_hand=(Upkeep.LOAD,)).serving() as backend, serving(backend.url) as service:
        loading = asyncio.ensure_future(refused(load(service, "tiny", pin=True)))
        (await backend.asked()).fail(500, "llama runner process has terminated: secret")
        failed = await loading
        assert (failed.reason, failed.facts) == ("INSTANCE_FAILED", {"instance": backend.name})
        assert "secret" not in failed.message
        assert backend.idle(), "it is not tried again: nobody wants it any more"


async def test_who_leaves_wants_nothing_any_more() -> None:
    async with one_machine(BRISK, OTHER, **ROOM) as (service, fake):
        fake.machine.loads_held = True
        loading = service.call("LoadModel", pb.LoadModelRequest(model="other", pin=True), role="admin")
        await until(lambda: [each for each in fake.asked("/api/generate") if "other" in str(each.body)])
        loading.cancel()
        fake.let_load()
        await until(lambda: loaded(fake) == ["other:latest"])
        await service.until_fleet(
            lambda fleet: [each.name for each in fleet.instances[0].resident_models] == ["other:latest"]
        )
        assert not (await model(service, "other")).pinned


# Pin


async def test_a_pinned_model_stays_and_others_wait_for_room_elsewhere() -> None:
    async with two_machines() as (service, one, two):
        pinned = await load(service, "tiny", pin=True)
        other = two if pinned == name_of(one) else one
        assert (await model(service, "tiny")).pinned
        for _ in range(3):
            await events_of(service.chat(model="other"))
            await events_of(service.chat(model="small"))
        assert "tiny:latest" in loaded(one if other is two else two)
        assert "other:latest" in loaded(other)
        full = await refused(load(service, "other", pinned))
        assert full.reason == "MODEL_TOO_LARGE"
        await load(service, "small", name_of(other), pin=True)
        await load(service, "other", name_of(other), pin=True)


async def test_who_asks_for_what_has_no_room_beside_pins_is_told_at_once() -> None:
    async with one_machine(BRISK, OTHER, **ROOM) as (service, _):
        await load(service, "tiny", pin=True)
        crowded = await refused(service.chat(model="other"))
        assert (crowded.code, crowded.reason) == (Code.FAILED_PRECONDITION, "MODEL_TOO_LARGE")
        await unload(service, "tiny")
        assert (await events_of(service.chat(model="other")))[-1].HasField("finished")


async def test_a_pinned_model_is_kept_alive() -> None:
    async with one_instance() as (service, fake):
        await load(service, "tiny", pin=True)
        (touch,) = fake.asked("/api/generate")
        await events_of(service.chat())
        (chat,) = fake.asked("/api/chat")
        assert touch.body["keep_alive"] == chat.body["keep_alive"] == KEEP_ALIVE_S_MAX
        await unload(service, "tiny")
        await events_of(service.chat())
        assert fake.asked("/api/chat")[1].body["keep_alive"] == 300


async def test_a_pinned_model_comes_back_when_its_instance_does() -> None:
    async with one_machine(BRISK, OTHER, **ROOM) as (service, fake):
        await load(service, "tiny", pin=True)
        fake.restart()
        assert loaded(fake) == []
        await until(lambda: loaded(fake) == ["tiny:latest"])
        assert (await model(service, "tiny")).pinned


async def test_configuration_pins_on_every_instance() -> None:
    async with two_machines(models='{"small": {"pinned": true}}') as (service, one, two):
        await until(lambda: loaded(one) == loaded(two) == ["small:latest"])
        assert (await model(service, "small")).pinned
        await unload(service, "small", name_of(one))
        assert loaded(one) == []
        assert (await model(service, "small")).resident_instances == [name_of(two)]


# Unload


async def test_an_unload_waits_for_what_runs_and_unpins() -> None:
    async with one_instance() as (service, fake):
        await load(service, "tiny", pin=True)
        gate = asyncio.Event()
        fake.script("a", gate, "b")
        running = service.chat()
        await until_event(running, "delta")
        unloading = asyncio.ensure_future(unload(service, "tiny"))
        for _ in range(20):  # Each is answered after what was asked before it.
            await service.fleet()
        assert loaded(fake) == ["tiny:latest"]
        gate.set()
        await until_event(running, "finished")
        await unloading
        assert loaded(fake) == []
        shown = await model(service, "tiny")
        assert (shown.pinned, list(shown.resident_instances)) == (False, [])
        await unload(service, "tiny")  # Again: nothing is left to do.
        await events_of(service.chat())
        assert loaded(fake) == ["tiny:latest"], "who asks gets it all the same"


async def test_what_the_plan_would_not_have_loaded_is_unloaded_too() -> None:
    async with one_instance(context_tokens=2048) as (service, fake):
        await preload(fake, fake_model("tiny:latest", "completion"), num_ctx=512)
        await until(lambda: fake.loaded[0].context_length == 512)
        await unload(service, "tiny")
        assert loaded(fake) == []


@pytest.mark.parametrize("method", ["LoadModel", "UnloadModel", "DeleteModel", "CopyModel"])
async def test_only_admins_change_what_there_is(method: str) -> None:
    request: object = getattr(pb, f"{method}Request")(
        **({"source": "tiny", "destination": "x"} if method == "CopyModel" else {"model": "tiny"})
    )
    async with one_instance() as (service, fake):
        denied = await refused(service.call(method, request))
        assert loaded(fake) == ["tiny:latest"]
    assert (denied.code, denied.reason) == (Code.PERMISSION_DENIED, "ROLE_REQUIRED")
