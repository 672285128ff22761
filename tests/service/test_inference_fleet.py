"""The fleet as callers see it: what there is, what is ready, what it is doing; and embeddings."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.fleet_pb2 import INSTANCE_STATE_READY, INSTANCE_STATE_STALE
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest
from ollamesh.inference.v1.model_pb2 import (
    CAPABILITY_COMPLETION,
    CAPABILITY_EMBEDDING,
    CAPABILITY_THINKING,
    CAPABILITY_TOOLS,
    GetModelRequest,
    ListModelsRequest,
)

from deploy.local.ports import free_ports
from tests.fakes.fake_ollama import FakeOllama, Hang, Refuse, fake_model
from tests.service.inference_app import (
    TINY,
    WITHIN_S,
    Service,
    asked,
    events_of,
    one_instance,
    preload,
    refused,
    serving,
    until,
    until_event,
)
from tests.service.inference_backend import Backend

LARGE = fake_model("large:latest", "completion")


@asynccontextmanager
async def two_instances(**settings: object) -> AsyncIterator[tuple[Service, FakeOllama, FakeOllama]]:
    """The service over an instance with two models, and one that has `tiny` loaded."""
    async with FakeOllama(TINY, LARGE) as one, FakeOllama(TINY) as two:
        await preload(two, TINY)
        async with serving(one.url, two.url, **settings) as service:
            yield service, one, two


async def until_health(service: Service, status: int) -> None:
    health: Any = HealthStub(service.channel)
    async with asyncio.timeout(WITHIN_S):
        while (await health.Check(HealthCheckRequest(), timeout=5)).status != status:
            await asyncio.sleep(0.02)


def name_of(fake: FakeOllama) -> str:
    return fake.url.removeprefix("http://")


async def test_the_fleet_shows_what_runs_where_and_who_waits() -> None:
    async with two_instances(instance_slots=1) as (service, one, two):
        for fake in (two, one):
            fake.script(Hang())
            service.chat()
            await asked(fake)
        for priority in (pb.PRIORITY_INTERACTIVE, pb.PRIORITY_BATCH):
            await until_event(service.chat(priority=priority), "queued")
        fleet = await service.until_fleet(
            lambda fleet: all(instance.resident_models for instance in fleet.instances)
        )
    assert [instance.name for instance in fleet.instances] == sorted(map(name_of, (one, two)))
    for instance in fleet.instances:
        assert (instance.state, instance.state_reason) == (INSTANCE_STATE_READY, "")
        assert (instance.slot_count, instance.busy_slot_count, bool(instance.version)) == (1, 1, True)
        assert instance.HasField("seen_time")
        (resident,) = instance.resident_models
        assert (resident.name, resident.size_bytes, resident.vram_bytes) == ("tiny:latest", 100_000_000, 0)
        assert (resident.context_token_count, resident.busy_slot_count) == (4096, 1)
        assert resident.HasField("expire_time")
    (queue,) = fleet.queues
    assert (queue.model, queue.interactive_waiting_count, queue.default_waiting_count) == (
        "tiny:latest",
        1,
        0,
    )
    assert queue.batch_waiting_count == 1
    assert queue.oldest_wait.ToNanoseconds() >= 0


async def test_a_loaded_model_is_preferred_then_the_freest_instance() -> None:
    async with two_instances(instance_slots=2) as (service, one, two):
        for fake, count in ((two, 1), (two, 2), (one, 1), (one, 2)):
            fake.script(Hang())
            service.chat()
            await asked(fake, count)


async def test_what_does_not_answer_gets_nothing_until_it_does() -> None:
    async with Backend("tiny").serving() as backend, serving(backend.url) as service:
        await backend.stop()
        fleet = await service.until_fleet(lambda fleet: fleet.instances[0].state == INSTANCE_STATE_STALE)
        assert (fleet.instances[0].slot_count, fleet.instances[0].state_reason) == (0, "it cannot be reached")
        answer = await refused(service.chat())
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_INSTANCE")
        assert answer.retry_after_ms == 2000
        await until_health(service, HealthCheckResponse.NOT_SERVING)

        await backend.start()
        await service.until_ready(1)
        await until_health(service, HealthCheckResponse.SERVING)
        call = service.chat()
        (await backend.asked()).done()
        assert (await until_event(call, "finished")).finished.reason == pb.FINISH_REASON_STOP


@pytest.mark.parametrize(
    ("models", "status"), [(["no model"], 200), ([], 500), ([], 404)], ids=["shape", "500", "no Ollama"]
)
async def test_what_answers_wrongly_gets_nothing(models: list[Any], status: int) -> None:
    async with Backend("tiny").serving() as backend, serving(backend.url) as service:
        backend.models, backend.listing_status = models, status
        fleet = await service.until_fleet(lambda fleet: fleet.instances[0].state == INSTANCE_STATE_STALE)
        assert fleet.instances[0].state_reason == "it answers with errors"


async def test_a_broken_connection_keeps_work_away_until_the_next_look() -> None:
    """Or an instance that has just died would swallow request after request, being so free."""
    async with two_instances(poll_every_s=60) as (service, one, two):
        await two.close()
        for _ in range(5):
            await events_of(service.chat())
        fleet = await service.fleet()
    states = {instance.name: instance.state for instance in fleet.instances}
    assert states == {name_of(one): INSTANCE_STATE_READY, name_of(two): INSTANCE_STATE_STALE}
    assert len(one.asked("/api/chat")) == 5


async def test_who_waits_goes_on_waiting_through_a_restart_of_the_instance() -> None:
    async with Backend("tiny").serving() as backend, serving(backend.url, instance_slots=1) as service:
        first = service.chat()
        await backend.asked()
        second = service.chat()
        await until_event(second, "queued")
        await backend.stop()
        assert (await refused(first)).reason == "INSTANCE_FAILED"
        await backend.start()
        (await backend.asked()).done()
        await until_event(second, "finished")


async def test_instances_are_shown_the_key() -> None:
    async with FakeOllama(TINY) as fake, serving(fake.url, OLLAMA_API_KEY="sesame") as service:
        await events_of(service.chat())
        assert {request.authorization for request in fake.requests} == {"Bearer sesame"}


# Models


async def test_models_are_listed_page_by_page() -> None:
    async with two_instances() as (service, one, two):
        whole = await service.call("ListModels", ListModelsRequest())
        first = await service.call("ListModels", ListModelsRequest(page_size=1))
        token = first.next_page_token
        second = await service.call("ListModels", ListModelsRequest(page_size=1, page_token=token))
        answer = await refused(service.call("ListModels", ListModelsRequest(page_token="???")))
    assert [model.name for model in whole.models] == ["large:latest", "tiny:latest"]
    assert [*first.models, *second.models] == list(whole.models)
    assert (whole.next_page_token, bool(token), second.next_page_token) == ("", True, "")
    tiny = whole.models[1]
    assert (tiny.digest, tiny.size_bytes, tiny.quantization) == (TINY.digest, 100_000_000, "F16")
    assert list(tiny.instances) == sorted(map(name_of, (one, two)))
    assert list(tiny.resident_instances) == [name_of(two)]
    assert tiny.modified_time.ToSeconds() == int(TINY.modified_at.timestamp())
    assert (answer.reason, answer.fields) == ("INVALID_REQUEST", ["page_token"])


async def test_one_model_is_described() -> None:
    async with one_instance() as (service, _):
        response = await service.call("GetModel", GetModelRequest(model="Tiny"))
        unknown = await refused(service.call("GetModel", GetModelRequest(model="huge")))
    assert (response.model.name, response.model.digest) == ("tiny:latest", TINY.digest)
    assert response.model.context_token_count_max == 8192
    assert sorted(response.model.capabilities) == sorted(
        (CAPABILITY_COMPLETION, CAPABILITY_TOOLS, CAPABILITY_EMBEDDING, CAPABILITY_THINKING)
    )
    assert unknown.reason == "MODEL_NOT_FOUND"


# Embeddings


async def test_vectors_come_in_the_order_of_the_texts() -> None:
    texts = ["one", "two", "three"]
    async with one_instance() as (service, fake):
        together = await service.call("Embed", EmbedRequest(model="tiny", input=texts, dimension_count=8))
        alone = [
            (await service.call("Embed", EmbedRequest(model="tiny", input=[text], dimension_count=8)))
            for text in texts
        ]
        request = (await asked(fake, path="/api/embed")).body
        await service.until_idle()
    assert (request["input"], request["dimensions"], request["truncate"]) == (texts, 8, True)
    assert list(together.embeddings) == [answer.embeddings[0] for answer in alone]
    assert len(together.embeddings[0].values) == 8
    assert (together.model, together.usage.prompt_token_count) == ("tiny:latest", 3)


@pytest.mark.parametrize("answer", [{"embeddings": [[1.0]]}, {"embeddings": "none"}, {}, []])
async def test_an_embedding_that_failed_is_made_elsewhere(answer: object) -> None:
    async with (
        Backend("tiny", residents=("tiny",)).serving() as preferred,
        Backend("tiny").serving() as other,
        serving(preferred.url, other.url) as service,
    ):
        request = EmbedRequest(model="tiny", input=["one", "two"])
        answering = asyncio.ensure_future(service.call("Embed", request))
        (await preferred.asked()).reply(answer)
        (await other.asked()).reply({"embeddings": [[1.0], [2.0]]})
        response = await answering
    assert [list(embedding.values) for embedding in response.embeddings] == [[1.0], [2.0]]


async def test_a_model_that_does_not_embed_is_refused() -> None:
    async with one_instance(LARGE) as (service, _):
        answer = await refused(service.call("Embed", EmbedRequest(model="large", input=["x"])))
    assert (answer.reason, answer.facts["capability"]) == ("MODEL_UNSUITABLE", "embedding")


async def test_leaving_an_embedding_reaches_the_instance_and_frees_the_slot() -> None:
    async with (
        Backend("tiny", residents=("tiny",)).serving() as backend,
        serving(backend.url, instance_slots=1) as service,
    ):
        call = service.call("Embed", EmbedRequest(model="tiny", input=["one"]))
        reading = asyncio.ensure_future(refused(call))
        exchange = await backend.asked()
        call.cancel()
        await asyncio.wait([reading])
        await asyncio.wait_for(exchange.gone.wait(), WITHIN_S)
        await service.until_idle()


# Watching


async def test_metrics_tell_waits_first_tokens_and_failures() -> None:
    (metrics_port,) = free_ports(1)
    async with one_instance(inference_metrics_port=metrics_port) as (service, fake):
        fake.script("a", "b")
        await events_of(service.chat())
        fake.script(Refuse(500, "no"))
        await refused(service.chat())
        fake.script(Hang())
        leaving = service.chat()
        await until(lambda: len(fake.asked("/api/chat")) == 3)
        leaving.cancel()
        await refused(service.chat(model="invented"))
        await service.until_idle()
        url = f"http://127.0.0.1:{metrics_port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    model = 'gen_ai_operation_name="chat",gen_ai_request_model="tiny:latest"'
    for expected in (
        'ollamesh_queue_wait_seconds_count{model="tiny:latest",priority="default"} 3.0',
        'ollamesh_queue_depth{model="tiny:latest",priority="default"} 0.0',
        "ollamesh_cancel_to_idle_seconds_count 1.0",
        'ollamesh_admission_refusals_total{reason="MODEL_NOT_FOUND"} 1.0',
        f"gen_ai_server_time_to_first_token_seconds_count{{{model}}} 1.0",
        f"gen_ai_server_time_per_output_token_seconds_count{{{model}}} 1.0",
        f'gen_ai_server_request_duration_seconds_count{{error_type="",{model}}} 1.0',
        f'gen_ai_server_request_duration_seconds_count{{error_type="INSTANCE_FAILED",{model}}} 1.0',
        f'gen_ai_server_request_duration_seconds_count{{error_type="CANCELLED",{model}}} 1.0',
    ):
        assert expected in text
    assert "invented" not in text
