"""Embeddings from the tenant's cache and in micro-batches, through the wire."""

import asyncio
import secrets

import grpc
import httpx
import msgspec
import pytest
from cryptography.fernet import Fernet
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2 import (
    EmbedRequest,
    EmbedResponse,
    PurgeCacheRequest,
)
from ollamesh.inference.v1.model_pb2 import ListModelsRequest

from deploy.local.ports import free_ports
from tests.fakes.fake_ollama import FakeOllama
from tests.service.inference_app import PROCESSES, TIMEOUT_S, Service, one_instance, refused, serving
from tests.service.inference_backend import Backend, describe

KEYS = {"SECRET_KEY": secrets.token_urlsafe(32), "ENCRYPTION_KEY": Fernet.generate_key().decode()}
one_process = pytest.mark.skipif(PROCESSES > 1, reason="calls meet in a process")


async def embed(
    service: Service, *texts: str, org: str = "org-1", model: str = "tiny", **more: object
) -> EmbedResponse:
    request = EmbedRequest(model=model, input=texts, **more)  # type: ignore[arg-type]
    response = await service.call("Embed", request, org=org)
    assert isinstance(response, EmbedResponse)
    return response


async def purge(service: Service, model: str = "", *, org: str = "org-1", role: str = "admin") -> None:
    await service.call("PurgeCache", PurgeCacheRequest(model=model), org=org, role=role)


def inputs_asked(fake: FakeOllama) -> list[list[str]]:
    return sorted(msgspec.convert(recorded.body["input"], list[str]) for recorded in fake.asked("/api/embed"))


def texts_asked(fake: FakeOllama) -> list[str]:
    return [text for texts in inputs_asked(fake) for text in texts]


async def cached(service: Service, *texts: str, **more: object) -> None:
    """Have texts embedded until they are cached, which happens behind their backs."""
    async with asyncio.timeout(TIMEOUT_S):
        while (await embed(service, *texts, **more)).cached_count < len(texts):  # type: ignore[arg-type]
            await asyncio.sleep(0.005)


async def test_a_text_is_embedded_once_for_a_tenant(redis_url: str) -> None:
    async with one_instance(REDIS_URL=redis_url, **KEYS) as (service, fake):
        first = await embed(service, "a word", "two words")
        assert first.cached_count == 0
        await cached(service, "a word", "two words")
        fake.requests.clear()

        again = await embed(service, "two words", "new", "a word")
        assert again.cached_count == 2
        assert texts_asked(fake) == ["new"]
        assert (again.embeddings[2], again.embeddings[0]) == (first.embeddings[0], first.embeddings[1])
        assert again.model == first.model == "tiny:latest"

        other = await embed(service, "a word", org="org-2")
        assert other.cached_count == 0
        assert other.embeddings[0] == first.embeddings[0]


async def test_all_of_it_cached_is_the_same_answer_without_an_instance(redis_url: str) -> None:
    async with one_instance(REDIS_URL=redis_url, **KEYS) as (service, fake):
        first = await embed(service, "one", "and another one")
        await cached(service, "one", "and another one")
        fake.requests.clear()
        again = await embed(service, "one", "and another one")
        assert fake.asked("/api/embed") == []
        assert list(again.embeddings) == list(first.embeddings)
        assert again.usage == first.usage
        assert again.usage.prompt_token_count > 0


@pytest.mark.parametrize(
    "more", [{"dimension_count": 3}, {"truncate": False}, {"cache_policy": pb.CACHE_POLICY_NEVER}], ids=str
)
async def test_what_makes_another_vector_is_another_text(redis_url: str, more: dict[str, object]) -> None:
    async with one_instance(REDIS_URL=redis_url, **KEYS) as (service, _):
        await cached(service, "a word")
        assert (await embed(service, "a word", **more)).cached_count == 0  # type: ignore[arg-type]


async def test_new_weights_are_asked_anew(redis_url: str) -> None:
    backend = Backend("tiny:latest", residents=("tiny:latest",))
    async with backend.serving(), serving(backend.url, REDIS_URL=redis_url, **KEYS) as service:
        await answered(backend, service, "a", vectors=[[1.0]])
        await cached(service, "a")
        backend.models[0]["digest"] = "new"
        await until_digest(service, backend, "new")
        await answered(backend, service, "a", vectors=[[3.0]])


async def until_digest(service: Service, backend: Backend, digest: str) -> None:
    """Return when the gateway has seen that its model has new weights, which it then has described."""
    describing = asyncio.create_task(describe(backend))
    async with asyncio.timeout(TIMEOUT_S):
        while (await service.call("ListModels", ListModelsRequest())).models[0].digest != digest:
            await asyncio.sleep(0.005)
    describing.cancel()


async def answered(backend: Backend, service: Service, *texts: str, vectors: list[list[float]]) -> None:
    """Have an instance answer a call that is not cached."""
    call = asyncio.ensure_future(embed(service, *texts))
    (await backend.asked()).reply({"embeddings": vectors, "prompt_eval_count": 1})
    response = await call
    assert [list(each.values) for each in response.embeddings] == vectors


# Purges


async def test_an_admin_purges_what_is_their_organisations(redis_url: str) -> None:
    async with one_instance(REDIS_URL=redis_url, **KEYS) as (service, _):
        await cached(service, "a word")
        await cached(service, "a word", org="org-2")
        assert (await refused(purge(service, role="user"))).reason == "ROLE_REQUIRED"
        await purge(service, "other")
        assert (await embed(service, "a word")).cached_count == 1
        for model in ("tiny", ""):
            await purge(service, model)
            assert (await embed(service, "a word")).cached_count == 0
            await purge(service, model)  # Again.
            await cached(service, "a word")
        assert (await embed(service, "a word", org="org-2")).cached_count == 1


async def test_without_a_cache_there_is_nothing_to_purge() -> None:
    async with one_instance() as (service, _):
        await purge(service)
        assert (await embed(service, "a word")).cached_count == 0
        assert (await embed(service, "a word")).cached_count == 0


async def test_a_purge_that_cannot_be_done_is_refused() -> None:
    async with one_instance(REDIS_URL="redis://127.0.0.1:1/0", **KEYS) as (service, _):
        refusal = await refused(purge(service))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "CACHE_UNAVAILABLE")
        assert refusal.retry_after_ms == 1000
        assert (await embed(service, "a word")).cached_count == 0


async def test_the_cache_can_be_switched_off(redis_url: str) -> None:
    async with one_instance(REDIS_URL=redis_url, OLLAMESH_ANSWER_CACHE="false", **KEYS) as (service, fake):
        for _ in range(2):
            await embed(service, "a word")
        assert texts_asked(fake) == ["a word", "a word"]


# Micro-batches


@one_process
async def test_calls_that_come_together_are_one_request() -> None:
    async with one_instance(embed_batch_delay_s=0.5) as (service, fake):
        texts = [f"text {number}" for number in range(10)]
        answers = await asyncio.gather(*(embed(service, text) for text in texts))
        assert len(fake.asked("/api/embed")) < len(texts)
        assert sorted(texts_asked(fake)) == sorted(texts)
        alone = [await embed(service, text) for text in texts[:2]]
        assert [list(answer.embeddings) for answer in answers[:2]] == [list(one.embeddings) for one in alone]


@one_process
async def test_calls_of_two_tenants_are_two_requests() -> None:
    async with one_instance(embed_batch_delay_s=0.2) as (service, fake):
        await asyncio.gather(embed(service, "a"), embed(service, "b", org="org-2"))
        assert inputs_asked(fake) == [["a"], ["b"]]


@one_process
async def test_a_text_that_is_too_long_fails_its_own_call_alone() -> None:
    backend = Backend("tiny:latest", residents=("tiny:latest",))
    async with backend.serving(), serving(backend.url, embed_batch_delay_s=0.3) as service:
        good = asyncio.ensure_future(embed(service, "good", truncate=False))
        bad = asyncio.ensure_future(refused(embed(service, "long", truncate=False)))
        asked = await backend.asked()
        assert sorted(asked.body["input"]) == ["good", "long"]
        asked.fail(400, "the input length exceeds the context length")
        for _ in range(2):
            asked = await backend.asked()
            if asked.body["input"] == ["good"]:
                asked.reply({"embeddings": [[1.0]], "prompt_eval_count": 1})
            else:
                asked.fail(400, "the input length exceeds the context length")
        assert (await bad).reason == "INVALID_REQUEST"
        assert list((await good).embeddings[0].values) == [1.0]


@one_process
async def test_the_last_caller_to_leave_ends_the_work() -> None:
    backend = Backend("tiny:latest", residents=("tiny:latest",))
    async with backend.serving(), serving(backend.url, embed_batch_delay_s=0.3) as service:
        calls = [service.call("Embed", EmbedRequest(model="tiny", input=[text])) for text in ("a", "b")]
        asked = await backend.asked()
        assert len(asked.body["input"]) == 2
        calls[0].cancel()
        await asyncio.sleep(0)
        calls[1].cancel()
        await asyncio.wait_for(asked.gone.wait(), TIMEOUT_S)


async def test_lookups_are_counted(redis_url: str) -> None:
    (free_port,) = free_ports(1)
    settings = {"REDIS_URL": redis_url, "OLLAMESH_INFERENCE_METRICS_PORT": free_port, **KEYS}
    async with one_instance(**settings) as (service, _), httpx.AsyncClient() as http:
        await cached(service, "a")

        async def counted() -> str:
            return (await http.get(f"http://127.0.0.1:{free_port}/metrics")).text

        async with asyncio.timeout(TIMEOUT_S):
            while (
                'ollamesh_cache_lookups_total{operation="embeddings",result="hit"} 1.0' not in await counted()
            ):
                await asyncio.sleep(0.05)
        assert "ollamesh_redis_up" in await counted()
