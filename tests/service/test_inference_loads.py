"""The adapter's loads, unloads and probes, byte for byte over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.inference.adapters import ollama
from services.inference.adapters.ollama import Ollama, Timeouts
from services.inference.core.endpoints import parse_endpoint
from services.inference.ports import Fault, Trouble
from tests.fakes.fake_ollama import CHAT_MODEL, EMBEDDING_MODEL, FakeOllama
from tests.service.inference_backend import Backend, Upkeep

RUNNER = {"num_ctx": 4096, "num_gpu": 99}


@asynccontextmanager
async def adapter(backend: Backend | FakeOllama, **timeouts_s: float) -> AsyncIterator[Ollama]:
    endpoint = parse_endpoint(backend.url)
    assert endpoint is not None
    limits = {"connect_s": 5.0, "first_token_s": 20.0, "load_s": 20.0, "stall_s": 20.0, "listing_s": 20.0}
    timeouts = Timeouts(**limits | timeouts_s)
    if isinstance(backend, Backend):
        backend.by_hand = set(Upkeep)
    async with Ollama.opened(endpoint, timeouts=timeouts, connections_max=4, api_key=None) as made:
        yield made


async def test_a_load_generates_nothing_and_carries_what_requests_carry() -> None:
    async with Backend("tiny:latest").serving() as backend, adapter(backend) as instance:
        loading = asyncio.create_task(
            instance.load("tiny:latest", embeds=False, options=RUNNER, keep_alive_s=299.5)
        )
        asked = await backend.asked()
        asked.reply(
            {"model": "tiny:latest", "done": True, "done_reason": "load", "load_duration": 1_500_000_000}
        )
        assert await loading == 1.5
    assert (asked.method, asked.path) == ("POST", "/api/generate")
    assert asked.body == {"model": "tiny:latest", "options": RUNNER, "keep_alive": 300, "stream": False}


async def test_an_embedding_model_is_loaded_by_embedding_nothing() -> None:
    async with Backend("minilm:latest").serving() as backend, adapter(backend) as instance:
        loading = asyncio.create_task(
            instance.load("minilm:latest", embeds=True, options={}, keep_alive_s=0.5)
        )
        asked = await backend.asked()
        asked.reply({"model": "minilm:latest", "embeddings": []})
        assert await loading > 0  # The instance does not say how long it took, so it was measured.
    assert asked.path == "/api/embed"
    assert asked.body == {"model": "minilm:latest", "options": {}, "keep_alive": 1, "input": []}


@pytest.mark.parametrize(
    ("status", "answer", "detail"),
    [
        (200, {"error": "cudaMalloc failed: out of memory"}, "out of memory"),
        (200, {"done": False}, "did not load"),
        (500, {"error": "llama runner process has terminated"}, "terminated"),
        (404, {"error": "model 'tiny' not found"}, "404"),
        (400, {"error": '"tiny" does not support generate'}, "400"),
    ],
)
async def test_a_load_that_fails_is_the_instances_trouble_and_no_callers(
    status: int, answer: dict[str, object], detail: str
) -> None:
    async with Backend("tiny:latest").serving() as backend, adapter(backend) as instance:
        loading = asyncio.create_task(
            instance.load("tiny:latest", embeds=False, options=RUNNER, keep_alive_s=300)
        )
        (await backend.asked()).reply(answer, status=status)
        with pytest.raises(Trouble, match=detail) as failed:
            await loading
    assert failed.value.fault is Fault.BROKEN


async def test_a_load_has_a_patience_of_its_own() -> None:
    async with (
        Backend("tiny:latest").serving() as backend,
        adapter(backend, load_s=0.05, first_token_s=20.0) as instance,
    ):
        with pytest.raises(Trouble) as failed:
            await instance.load("tiny:latest", embeds=False, options=RUNNER, keep_alive_s=300)
    assert failed.value.fault is Fault.STALLED


async def test_an_unload_is_over_when_the_instance_lists_the_model_no_more() -> None:
    async with (
        Backend("tiny:latest", residents=("tiny:latest", "other:latest")).serving() as backend,
        adapter(backend) as instance,
    ):
        unloading = asyncio.create_task(instance.unload("tiny"))
        asked = await backend.asked()
        asked.reply({"model": "tiny", "done": True, "done_reason": "unload"})
        done, _ = await asyncio.wait({unloading}, timeout=0.1)
        assert not done
        backend.residents = [resident for resident in backend.residents if resident["name"] != "tiny:latest"]
        await unloading
    assert (asked.path, asked.body) == ("/api/generate", {"model": "tiny", "keep_alive": 0, "stream": False})


async def test_an_unload_that_never_happens_is_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama, "UNLOAD_S", 0.05)
    async with (
        Backend("tiny:latest", residents=("tiny:latest",)).serving() as backend,
        adapter(backend) as instance,
    ):
        unloading = asyncio.create_task(instance.unload("tiny:latest"))
        (await backend.asked()).reply({"done": True})
        with pytest.raises(Trouble) as failed:
            await unloading
    assert failed.value.fault is Fault.STALLED


async def test_a_probe_is_one_token_or_one_question() -> None:
    async with Backend("tiny:latest").serving() as backend, adapter(backend) as instance:
        await instance.probe(None)
        assert backend.idle()
        probing = asyncio.create_task(instance.probe("tiny:latest", options=RUNNER))
        asked = await backend.asked()
        asked.token("x")
        asked.done("length")
        await probing
        embedding = asyncio.create_task(instance.probe("tiny:latest", embeds=True, options=RUNNER))
        (texts := await backend.asked()).reply({"embeddings": [[1.0]]})
        await embedding
    assert asked.path == "/api/generate"
    assert asked.body == {
        "model": "tiny:latest",
        "prompt": "Hi",
        "raw": True,
        "stream": True,
        "options": {**RUNNER, "num_predict": 1},
    }
    assert (texts.path, texts.body["options"], texts.body["input"]) == ("/api/embed", RUNNER, ["Hi"])


async def test_a_probe_that_fails_is_trouble() -> None:
    async with Backend("tiny:latest").serving() as backend, adapter(backend, first_token_s=0.05) as instance:
        probing = asyncio.create_task(instance.probe("tiny:latest"))
        (await backend.asked()).fail(404)
        with pytest.raises(Trouble):
            await probing
        with pytest.raises(Trouble) as failed:
            await instance.probe("tiny:latest")
        backend.listing_status = 500
        with pytest.raises(Trouble):
            await instance.probe(None)
    assert failed.value.fault is Fault.STALLED


# Against what behaves as Ollama does


async def test_a_model_comes_and_goes_and_is_not_loaded_again_by_what_follows() -> None:
    async with FakeOllama(CHAT_MODEL, EMBEDDING_MODEL) as fake, adapter(fake) as instance:
        for card, embeds in ((CHAT_MODEL, False), (EMBEDDING_MODEL, True)):
            options = {"num_ctx": 2048}
            before = fake.load_count
            assert await instance.load(card.name, embeds=embeds, options=options, keep_alive_s=300) > 0
            await instance.probe(card.name, embeds=embeds, options=options)
            assert [(one.card.name, one.context_length) for one in fake.loaded] == [(card.name, 2048)]
            assert fake.load_count == before + 1
            await instance.unload(card.name)
            assert fake.loaded == []
        await instance.unload(CHAT_MODEL.name)  # What is not loaded need not go.
        assert fake.load_count == 2
