"""Models on disk: pulled, copied and deleted on every instance, and shown when that is so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from ollamesh.inference.v1 import model_pb2 as pb

from services.inference import downloads
from tests.fakes.fake_ollama import Cut, Fail, FakeOllama, Hang, Outcome, fake_model
from tests.service.inference_app import (
    TINY,
    WITHIN_S,
    Call,
    Service,
    asked,
    events_of,
    left,
    one_instance,
    refused,
    serving,
    until,
    until_event,
)

Code = grpc.StatusCode
NEW = fake_model("new:latest", "completion", size_bytes=100)


def pull(service: Service, model: str = "new", *instances: str) -> Call:
    request = pb.PullModelRequest(model=model, instances=instances)
    call: Call = service.call("PullModel", request, role="admin")
    return call


def told(events: list[pb.PullModelResponse]) -> list[tuple[str, int]]:
    """Status and bytes of each progress."""
    return [
        (event.progress.status, event.progress.completed_bytes)
        for event in events
        if event.HasField("progress")
    ]


async def read(call: Call) -> pb.PullModelResponse:
    async with asyncio.timeout(WITHIN_S):
        response = await call.read()
    assert isinstance(response, pb.PullModelResponse), "the stream goes on"
    return response


async def rest(call: Call) -> list[Any]:
    """Read a stream to its end."""
    responses = []
    async with asyncio.timeout(WITHIN_S):
        while (response := await call.read()) is not grpc.aio.EOF:
            responses.append(response)
    return responses


async def until_bytes(call: Call, count: int) -> None:
    while (await read(call)).progress.completed_bytes != count:
        pass


async def names(service: Service) -> list[str]:
    found = await service.call("ListModels", pb.ListModelsRequest())
    return [model.name for model in found.models]


@asynccontextmanager
async def two_instances() -> AsyncIterator[tuple[Service, FakeOllama, FakeOllama]]:
    async with FakeOllama(TINY) as one, FakeOllama(TINY) as two, serving(one.url, two.url) as service:
        yield service, one, two


async def admin(service: Service, method: str, request: object) -> Any:
    return await service.call(method, request, role="admin")


# Pull


async def test_a_pull_tells_how_far_it_is_and_ends_with_the_model() -> None:
    async with one_instance() as (service, fake):
        gate = asyncio.Event()
        fake.offer(NEW, 10, 60, gate)
        call = pull(service)
        await until_bytes(call, 60)
        assert await names(service) == ["tiny:latest"]
        gate.set()
        events = await rest(call)
        assert events[-1].done.model.name == "new:latest"
        assert events[-1].done.model.instances == [fake.url.removeprefix("http://")]
        assert "new:latest" in await names(service)
        (body,) = [request.body for request in fake.asked("/api/pull")]
    assert body == {"model": "new", "stream": True}
    assert told(events)[-1] == ("success", 0)


async def test_every_instance_pulls_and_says_so() -> None:
    async with two_instances() as (service, one, two):
        for fake in (one, two):
            fake.offer(NEW, 50)
        events = await rest(pull(service))
        instances = {event.progress.instance for event in events if event.HasField("progress")}
        assert instances == {fake.url.removeprefix("http://") for fake in (one, two)}
        assert events[-1].done.model.instances == sorted(instances)


async def test_only_the_instances_that_were_named_pull() -> None:
    async with two_instances() as (service, one, two):
        one.offer(NEW)
        name = one.url.removeprefix("http://")
        events = await rest(pull(service, "new", name))
        assert events[-1].done.model.instances == [name]
        assert not two.asked("/api/pull")
        broken = await refused(pull(service, "new", name, "elsewhere"))
    assert (broken.code, broken.fields) == (Code.INVALID_ARGUMENT, ["instances[1]"])


async def test_two_who_ask_for_a_model_share_its_download() -> None:
    async with one_instance() as (service, fake):
        gate = asyncio.Event()
        fake.offer(NEW, 10, 60, gate)
        first = pull(service)
        await until_bytes(first, 60)
        second = pull(service, "NEW:latest")
        assert (await read(second)).progress.completed_bytes == 60, "a late joiner is told at once"
        gate.set()
        for call in (first, second):
            assert (await rest(call))[-1].done.model.name == "new:latest"
        assert len(fake.asked("/api/pull")) == 1


async def test_who_leaves_stops_nothing_that_others_watch() -> None:
    async with one_instance() as (service, fake):
        gate = asyncio.Event()
        fake.offer(NEW, 10, gate)
        first, second = pull(service), pull(service)
        await until_bytes(first, 10)
        await until_bytes(second, 10)
        first.cancel()
        gate.set()
        assert (await rest(second))[-1].HasField("done")
        assert len(fake.asked("/api/pull")) == 1


async def test_the_last_who_leaves_stops_the_download_and_the_next_resumes_it() -> None:
    async with one_instance() as (service, fake):
        gate = asyncio.Event()
        fake.offer(NEW, 10, 60, gate, 90)
        first, second = pull(service), pull(service)
        for call in (first, second):
            await until_bytes(call, 60)
            call.cancel()
        assert await left(await asked(fake, 1, "/api/pull"))
        gate.set()
        events = await rest(pull(service))
        assert events[-1].HasField("done")
        assert all(count >= 60 for _, count in told(events) if count)


async def test_an_unknown_model_is_not_found() -> None:
    async with one_instance() as (service, _):
        missing = await refused(pull(service, "nope"))
    assert (missing.code, missing.reason) == (Code.NOT_FOUND, "MODEL_NOT_FOUND")
    assert missing.facts == {"model": "nope"}


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Fail("max retries exceeded: secret words"), "INSTANCE_LOST"),
        (Cut(), "INSTANCE_LOST"),
    ],
    ids=["fails", "breaks"],
)
async def test_an_instance_that_fails_is_named_when_the_others_are_done(
    step: Fail | Cut, reason: str
) -> None:
    async with two_instances() as (service, one, two):
        gate = asyncio.Event()
        one.offer(NEW, 10, step)
        two.offer(NEW, 10, gate)
        call = pull(service)
        await asyncio.wait_for((await asked(one, 1, "/api/pull")).ended.wait(), WITHIN_S)
        gate.set()
        failed = await refused(call)
        await until(lambda: "new:latest" in two.models)
    assert (failed.reason, failed.facts) == (reason, {"instance": one.url.removeprefix("http://")})
    assert "secret" not in failed.message


async def test_downloads_of_an_instance_are_bounded() -> None:
    async with one_instance() as (service, fake):
        calls = []
        for number in range(downloads.DOWNLOADS_MAX):
            fake.offer(fake_model(f"m{number}:latest", "completion"), 10, Hang())
            calls.append(pull(service, f"m{number}"))
        for call in calls:
            await until_bytes(call, 10)
        joined = pull(service, "m0")
        assert (await read(joined)).progress.completed_bytes == 10
        full = await refused(pull(service, "new"))
        assert (full.code, full.reason) == (Code.RESOURCE_EXHAUSTED, "TOO_MANY_PULLS")
        assert full.retry_after_ms is not None
        calls.pop().cancel()
        fake.offer(NEW)
        await until(lambda: any(each.outcome is Outcome.LEFT for each in fake.asked("/api/pull")))
        assert (await rest(pull(service)))[-1].HasField("done")
        for call in (*calls, joined):
            call.cancel()


async def test_only_admins_pull() -> None:
    async with one_instance() as (service, _):
        denied = await refused(service.call("PullModel", pb.PullModelRequest(model="new")))
    assert (denied.code, denied.reason) == (Code.PERMISSION_DENIED, "ROLE_REQUIRED")


# Copy and delete


async def test_a_copy_is_shown_when_the_call_returns() -> None:
    async with two_instances() as (service, one, two):
        request = pb.CopyModelRequest(request_id="1", source="TINY", destination="mine")
        for _ in range(2):  # A repetition does no harm.
            copied = await admin(service, "CopyModel", request)
            assert copied.model.name == "mine:latest"
            assert len(copied.model.instances) == 2
        assert await names(service) == ["mine:latest", "tiny:latest"]
        assert one.models == two.models == ["tiny:latest", "mine:latest"]
        missing = await refused(
            admin(service, "CopyModel", pb.CopyModelRequest(source="nope", destination="mine"))
        )
    assert missing.reason == "MODEL_NOT_FOUND"


async def test_a_model_is_deleted_everywhere_once_nobody_uses_it() -> None:
    async with one_instance(TINY, fake_model("other:latest", "completion")) as (service, fake):
        gate = asyncio.Event()
        fake.script("a", gate, "b")
        running = service.chat()
        await until_event(running, "delta")
        request = pb.DeleteModelRequest(request_id="1", model="tiny")
        deleting = asyncio.ensure_future(admin(service, "DeleteModel", request))
        for _ in range(20):  # Each is answered after what was asked before it.
            await service.fleet()
        assert not fake.asked("/api/delete"), "a running answer ends first"
        gate.set()
        assert (await rest(running))[-1].event.HasField("finished")
        await deleting
        assert await names(service) == ["other:latest"]
        paths = [request.path for request in fake.requests if request.path != "/api/ps"]
        unload = next(place for place, each in enumerate(fake.requests) if each.body.get("keep_alive") == 0)
        assert fake.requests[unload].path == "/api/generate"
        assert "/api/delete" in paths
        assert unload < next(i for i, each in enumerate(fake.requests) if each.path == "/api/delete")
        gone = await refused(service.chat())
        assert gone.reason == "MODEL_NOT_FOUND"
        await admin(service, "DeleteModel", request)  # As if its first reply had been lost.
        again = await refused(admin(service, "DeleteModel", pb.DeleteModelRequest(model="tiny")))
        assert again.reason == "MODEL_NOT_FOUND"


async def test_a_model_that_was_deleted_can_be_pulled_and_used_at_once() -> None:
    async with one_instance(TINY) as (service, fake):
        await admin(service, "DeleteModel", pb.DeleteModelRequest(model="tiny"))
        fake.offer(TINY)
        assert (await rest(pull(service, "tiny")))[-1].HasField("done")
        assert (await events_of(service.chat()))[-1].HasField("finished")
