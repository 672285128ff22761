"""Models are changed through any of several processes: one plan of what is in memory, one view of what there is."""

import asyncio
from typing import Any

import grpc
from ollamesh.inference.v1 import model_pb2 as pb

from tests.service.inference_app import (
    BRISK,
    GIB,
    OTHER,
    WITHIN_S,
    Service,
    a_machine,
    asked,
    events_of,
    refused,
    until_event,
)
from tests.service.inference_processes import program


async def admin(service: Service, method: str, request: object) -> Any:
    return await service.call(method, request, role="admin")


async def pinned(service: Service) -> bool:
    response = await service.call("GetModel", pb.GetModelRequest(model="tiny"))
    return bool(response.model.pinned)


async def until_pinned(service: Service, *, is_pinned: bool) -> None:
    """Return when a worker has heard that it is so."""
    async with asyncio.timeout(WITHIN_S):
        while await pinned(service) is not is_pinned:
            await asyncio.sleep(0.005)


async def test_what_one_worker_is_told_holds_for_all() -> None:
    async with (
        a_machine(BRISK, OTHER) as fake,
        program(fake.url, instance_vram_bytes=10 * GIB, instance_slots=1) as running,
    ):
        one, other = running.services
        loaded = await admin(one, "LoadModel", pb.LoadModelRequest(model="tiny", pin=True))
        assert loaded.instance == fake.url.removeprefix("http://")
        assert await pinned(one)
        await until_pinned(other, is_pinned=True)
        full = await refused(admin(other, "LoadModel", pb.LoadModelRequest(model="other")))
        assert full.reason == "MODEL_TOO_LARGE"
        assert full.facts["needed_bytes"] == str(6 * GIB * 6 // 5)

        gate = asyncio.Event()
        fake.script("a", gate, "b")
        chat = one.chat()
        await until_event(chat, "delta")
        leaving = other.call("UnloadModel", pb.UnloadModelRequest(model="tiny"), role="admin", timeout_s=60)
        await until_pinned(other, is_pinned=False)
        assert fake.loaded, "what runs ends first"
        gate.set()
        await until_event(chat, "finished")
        await leaving
        assert not fake.loaded
        assert not await pinned(other)

        await admin(one, "CopyModel", pb.CopyModelRequest(source="tiny", destination="copy"))
        await admin(one, "DeleteModel", pb.DeleteModelRequest(model="tiny"))
        assert (await refused(one.chat())).reason == "MODEL_NOT_FOUND"
        assert (await events_of(one.chat(model="copy")))[-1].HasField("finished")
        pull = one.call("PullModel", pb.PullModelRequest(model="copy"), role="admin")
        assert [each async for each in pull][-1].done.model.name == "copy:latest"
        await asked(fake, 1, "/api/pull")


async def test_a_worker_that_dies_wants_nothing_any_more() -> None:
    async with (
        a_machine(BRISK, OTHER) as fake,
        program(fake.url, instance_vram_bytes=10 * GIB, instance_slots=1) as running,
    ):
        one, other = running.services
        fake.hold_loads()
        loading = one.call("LoadModel", pb.LoadModelRequest(model="tiny", pin=True), role="admin")
        await asked(fake, 1, "/api/generate")
        running.workers()[0].kill()
        assert (await refused(loading)).code is grpc.StatusCode.UNAVAILABLE
        await until_pinned(other, is_pinned=False)
        fake.let_load()
        await running.until_back(0)
        assert not await pinned(other)
