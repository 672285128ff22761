"""The service over the embedded runtime: a real model in real memory, with llama.cpp's own batches and slots."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1 import model_pb2
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest

from tests.contract.ollama_servers import CHAT, EMBEDDING, OllamaServer, runtime_server
from tests.service.inference_app import (
    WITHIN_S,
    Call,
    Service,
    events_of,
    grammar,
    refused,
    serving,
    until_event,
)

SLOTS = 4
ROUNDS_MAX = 8
TOKENS = 16
GAIN_MIN = 1.2


@pytest.fixture(scope="module")
def runtime() -> Iterator[OllamaServer]:
    with runtime_server(parallel=SLOTS) as server:
        yield server


@asynccontextmanager
async def serving_it(runtime: OllamaServer, **settings: object) -> AsyncIterator[Service]:
    usual = {"instance_slots": SLOTS, "context_tokens": 1024}
    async with serving(runtime.url, **{**usual, **settings}) as service:
        yield service


def tell(service: Service, token_count: int) -> Call:
    """Have a story told, of at most so many tokens: always the same one, and always to the end."""
    options = pb.Options(output_token_count_max=token_count, temperature=0, seed=1)
    request = pb.GenerateRequest(model=CHAT, prompt="1, 2, 3, 4, 5, 6, 7, 8,", raw=True, options=options)
    call: Call = service.call("Generate", request)
    return call


async def test_a_real_model_is_pinned_unloaded_and_not_changed(runtime: OllamaServer) -> None:
    async with serving_it(runtime) as service:
        load = model_pb2.LoadModelRequest(model=CHAT, pin=True)
        await service.call("LoadModel", load, role="admin")
        get = model_pb2.GetModelRequest(model=CHAT)
        found = (await service.call("GetModel", get)).model
        assert (found.pinned, len(found.resident_instances)) == (True, 1)
        assert found.vram_bytes > 0
        await service.call("UnloadModel", model_pb2.UnloadModelRequest(model=CHAT), role="admin")
        assert not (await service.call("GetModel", get)).model.resident_instances
        pull = service.call("PullModel", model_pb2.PullModelRequest(model=CHAT), role="admin")
        assert [each async for each in pull][-1].done.model.name == CHAT
        fixed = await refused(
            service.call("DeleteModel", model_pb2.DeleteModelRequest(model=CHAT), role="admin")
        )
        assert fixed.reason == "INVALID_REQUEST", "its models are installed, not managed"
        assert grammar(await events_of(tell(service, 2))).endswith("F"), "it is there as before"


async def test_a_real_model_is_loaded_once_and_streams(runtime: OllamaServer) -> None:
    async with serving_it(runtime) as service:
        events = await events_of(tell(service, 16))
        again = await events_of(tell(service, 16))
        embedded = await service.call("Embed", EmbedRequest(model=EMBEDDING, input=["one", "two"]))
        fleet = await service.until_fleet(lambda fleet: bool(fleet.instances[0].resident_models))
    told = ["".join(event.delta.text for event in answer) for answer in (events, again)]
    assert told[0] == told[1] != ""
    assert grammar(events).replace("Q", "").replace("D", "") == "OSF"
    assert "Q" not in grammar(again), "it is loaded"
    finished = events[-1].finished
    assert finished.usage.output_token_count == 16
    assert finished.timings.output.ToNanoseconds() > 0
    assert [len(vector.values) for vector in embedded.embeddings] == [384, 384]
    assert {
        model.context_token_count for model in fleet.instances[0].resident_models if model.name == CHAT
    } == {1024}


async def test_an_answer_that_is_left_leaves_its_slot_to_the_next(runtime: OllamaServer) -> None:
    """With one slot, the next answer comes only once nothing runs any more."""
    async with serving_it(runtime, instance_slots=1) as service:
        await events_of(tell(service, 1))
        for _ in range(3):
            leaving = tell(service, 1000)
            await until_event(leaving, "delta")
            leaving.cancel()
            await service.until_idle()
            finished = (await events_of(tell(service, 4)))[-1].finished
            assert finished.usage.output_token_count == 4


async def test_a_prompt_that_is_left_leaves_its_slot_to_the_next(runtime: OllamaServer) -> None:
    async with serving_it(runtime, instance_slots=1) as service:
        await events_of(tell(service, 1))
        for number in range(3):
            leaving = service.chat(f"{number} " + "and then " * 400, model=CHAT)
            await service.until_fleet(lambda fleet: fleet.instances[0].busy_slot_count == 1)
            leaving.cancel()
            await service.until_idle()
            assert (await events_of(tell(service, 4)))[-1].HasField("finished")


@pytest.mark.timed
async def test_a_batch_gives_more_tokens_than_one_after_the_other(runtime: OllamaServer) -> None:
    together_s: list[float] = []
    apart_s: list[float] = []
    async with serving_it(runtime) as service:
        await events_of(tell(service, TOKENS))
        # What else the machine does makes either slower, now and then: the fastest of each tell the truth.
        while len(apart_s) < ROUNDS_MAX and (len(apart_s) < 2 or gain(apart_s, together_s) < GAIN_MIN):
            together_s.append(await timed(service, [SLOTS]))
            apart_s.append(await timed(service, [1] * SLOTS))
    assert gain(apart_s, together_s) >= GAIN_MIN


def gain(apart_s: list[float], together_s: list[float]) -> float:
    return min(apart_s) / min(together_s)


async def timed(service: Service, batches: list[int]) -> float:
    """Return how long batches of answers take, one batch after the other."""
    loop = asyncio.get_running_loop()
    began_at_s = loop.time()
    for size in batches:
        for answer in await asyncio.gather(*(events_of(tell(service, TOKENS)) for _ in range(size))):
            assert answer[-1].finished.usage.output_token_count == TOKENS
    return loop.time() - began_at_s


async def test_a_request_for_another_context_loads_nothing(runtime: OllamaServer) -> None:
    async with serving_it(runtime) as service, httpx.AsyncClient(base_url=runtime.url) as http:
        await events_of(tell(service, 1))
        before = [runner.pid for runner in runtime.runners()]
        options = pb.Options(context_token_count=256, output_token_count_max=2)
        await asyncio.wait_for(events_of(service.chat("Hi", model=CHAT, options=options)), WITHIN_S)
        shown = (await http.get("/api/ps")).json()["models"]
        assert [runner.pid for runner in runtime.runners()] == before
    assert {model["context_length"] for model in shown if model["model"] == CHAT} == {1024}
