"""What the fake with a machine and the embedded runtime share: time, in ratios that no machine's speed changes.

The scripted fake takes whatever time its script says, so it is not asked.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.contract.ollama_servers import (
    CHAT,
    COUNTING,
    EMBEDDING,
    OllamaServer,
    eventually,
    resident,
    runtime_server,
)

MINILM = f"{EMBEDDING}:latest"
# A busy machine can spoil a measurement, but not all of them.
ATTEMPTS = 5


@pytest.fixture(params=["fake_machine", "runtime"])
def server(request: pytest.FixtureRequest) -> OllamaServer:
    chosen: OllamaServer = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def http(server: OllamaServer) -> Iterator[httpx.Client]:
    with server.client() as http:
        yield http


def read(http: httpx.Client, prompt: str) -> dict[str, Any]:
    body = {"model": CHAT, "prompt": prompt, "raw": True, "stream": False, "options": {"num_predict": 1}}
    reply: dict[str, Any] = http.post("/api/generate", json=body).json()
    return reply


async def write(http: httpx.AsyncClient, callers: int) -> list[dict[str, Any]]:
    """As many answers at once, of the same length."""
    body = {**COUNTING, "stream": False, "options": {"num_predict": 40, "temperature": 0}}
    replies = await asyncio.gather(*(http.post("/api/generate", json=body) for _ in range(callers)))
    return [reply.json() for reply in replies]


async def test_a_batch_writes_more_together_and_each_less(fake_machine: OllamaServer) -> None:
    async with fake_machine.async_client() as http:
        await http.post("/api/generate", json={"model": CHAT})
        (alone,) = await write(http, 1)
        for _ in range(ATTEMPTS):
            together = await write(http, 2)
            slowdown = max(end["eval_duration"] for end in together) / alone["eval_duration"]
            if slowdown > 1.1:  # They did meet, and each is slower for it; but two at that speed are more.
                assert slowdown < 1.21
                return
    pytest.fail("two callers never wrote at the same time")


async def test_a_batch_raises_the_throughput_of_a_real_runner() -> None:
    """By what a token costs the processor, so that a busy machine does not matter much."""
    gains = []
    with runtime_server(parallel=8) as server:
        async with server.async_client() as http:
            await http.post("/api/generate", json={"model": CHAT})
            (runner,) = server.runners()
            for _ in range(ATTEMPTS):
                costs_s = []
                for callers in (1, 8):
                    began_s = processor_s(runner)
                    ends = await write(http, callers)
                    costs_s.append((processor_s(runner) - began_s) / sum(end["eval_count"] for end in ends))
                gains.append(costs_s[0] / costs_s[1])
                if gains[-1] > 1.15:
                    return
    pytest.fail(f"a token in a batch cost {gains} times less than one alone")


def processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


@pytest.mark.timed
def test_what_was_read_before_is_not_read_again(http: httpx.Client) -> None:
    http.post("/api/generate", json={"model": CHAT})
    prompt = " ".join(str(number * number) for number in range(2000, 2040))
    cold, warm, grown = read(http, prompt), read(http, prompt), read(http, f"{prompt} 7 8 9")
    assert cold["prompt_eval_count"] == warm["prompt_eval_count"] < grown["prompt_eval_count"]
    assert warm["prompt_eval_duration"] < cold["prompt_eval_duration"] / 3
    assert grown["prompt_eval_duration"] < cold["prompt_eval_duration"] / 3


@pytest.mark.timed
def test_a_load_is_in_load_duration_once(http: httpx.Client) -> None:
    http.post("/api/generate", json={"model": CHAT, "keep_alive": 0})
    eventually(lambda: not resident(http))
    cold, warm = read(http, "one"), read(http, "two")
    assert cold["load_duration"] > 20e6 > warm["load_duration"]
    assert cold["total_duration"] >= cold["load_duration"]


def test_nothing_to_embed_loads_an_embedding_model_and_an_empty_prompt_unloads_it(
    http: httpx.Client,
) -> None:
    unload = {"model": EMBEDDING, "keep_alive": 0}
    assert http.post("/api/generate", json=unload).json()["done_reason"] == "unload"
    eventually(lambda: not resident(http, MINILM))
    reply = http.post("/api/embed", json={"model": EMBEDDING, "input": [], "keep_alive": "10m"})
    assert reply.json() == {"model": EMBEDDING, "embeddings": []}
    assert resident(http, MINILM)
    assert http.post("/api/generate", json=unload).json()["done_reason"] == "unload"
    eventually(lambda: not resident(http, MINILM))


def test_loading_what_is_loaded_does_nothing_but_set_its_keep_alive(http: httpx.Client) -> None:
    for keep_alive, for_ever in (("10m", False), (-1, True), ("5m", False)):
        loaded = http.post("/api/generate", json={"model": CHAT, "keep_alive": keep_alive}).json()
        assert (loaded["done"], loaded["done_reason"]) == (True, "load")
        assert (resident(http)["expires_at"] > "2200") == for_ever
