"""The fake with a machine: on real sockets it does what the virtual machine does, and counts what matters."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from services.inference.simulation.machine import Machine
from services.inference.simulation.parts import Finished, Request
from tests.fakes.fake_ollama import FakeOllama, Hang, MachineSpec, ModelSpec, fake_model

GIB = 2**30
TINY = ModelSpec(
    name="tiny:latest",
    vram_bytes=4 * GIB,
    load_s=0.02,
    prefill_tokens_per_s=10_000,
    token_s=0.002,
    batch_cost=0.25,
)
SPECS = {
    spec.name: spec
    for spec in (
        TINY,
        replace(TINY, name="other:latest", token_s=0.003),
        replace(TINY, name="large:latest", vram_bytes=9 * GIB),
        replace(TINY, name="words:latest"),
    )
}
SPEC = MachineSpec(name="gpu", vram_bytes=10 * GIB, parallel=2)
CARDS = [
    fake_model(name, "embedding" if name == "words:latest" else "completion", size_bytes=spec.vram_bytes)
    for name, spec in SPECS.items()
]


@dataclass
class Caller:
    fake: FakeOllama
    http: httpx.AsyncClient

    async def post(self, path: str, **body: object) -> httpx.Response:
        return await self.http.post(f"/api/{path}", json=body)

    async def chat(self, text: str, model: str = "tiny", **body: object) -> dict[str, Any]:
        messages = body.pop("messages", None) or [{"role": "user", "content": text}]
        reply = await self.post("chat", model=model, messages=messages, stream=False, **body)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer

    async def resident(self, model: str = "tiny") -> dict[str, Any]:
        models = (await self.http.get("/api/ps")).json()["models"]
        return next((shown for shown in models if shown["model"] == f"{model}:latest"), {})


@asynccontextmanager
async def calling(**changes: object) -> AsyncIterator[Caller]:
    spec = replace(SPEC, **changes)  # type: ignore[arg-type]
    async with (
        FakeOllama(*CARDS, machine=spec, specs=SPECS) as fake,
        httpx.AsyncClient(
            base_url=fake.url, timeout=30, limits=httpx.Limits(max_keepalive_connections=0)
        ) as http,
    ):
        yield Caller(fake, http)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.001)


def left(caller: Caller) -> int:
    return sum(request.outcome == "left" for request in caller.fake.requests)


# The same as in virtual time


async def test_alone_a_request_takes_exactly_what_the_virtual_machine_says() -> None:
    """Its own durations are the model's, however late the event loop is."""
    async with calling() as caller:
        cold = await caller.chat("[read 500] [write 10]")
        warm = await caller.chat("[read 500] [write 10]")
        grown = await caller.chat(
            "more",
            messages=[
                {"role": "user", "content": "[read 500] [write 10]"},
                {"role": "assistant", "content": " ".join(["word"] * 10)},
                {"role": "user", "content": "[read 90] [write 5]"},
            ],
        )
    for reply, load_s, read, prompt_count, out in (
        (cold, 0.02, 500, 500, 10),
        (warm, 0.0, 1, 500, 10),
        (grown, 0.0, 90, 600, 5),
    ):
        assert reply["load_duration"] == pytest.approx(load_s * 1e9, abs=1e4)
        assert reply["prompt_eval_duration"] == pytest.approx(read / 10_000 * 1e9, abs=1e4)
        assert reply["eval_duration"] == pytest.approx(out * 0.002 * 1e9, abs=1e4)
        assert (reply["prompt_eval_count"], reply["eval_count"]) == (prompt_count, out)
        assert reply["done_reason"] == "stop"


async def test_a_crowd_is_served_as_in_virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was offered, and when, gives the same order and the same durations without a socket."""
    offered: list[tuple[Request, float]] = []
    async with calling(keep_alive_s=-1) as caller:
        really = caller.fake.machine.offer

        def offer(request: Request, now_s: float) -> None:
            offered.append((request, now_s))
            really(request, now_s)

        monkeypatch.setattr(caller.fake.machine, "offer", offer)
        texts = [f"[read {100 + 10 * place}] [write {5 + place % 7}]" for place in range(24)]
        models = [("tiny", "other", "large", "tiny")[place % 4] for place in range(24)]
        replies = await asyncio.gather(*map(caller.chat, texts, models))
        counters = (caller.fake.load_count, caller.fake.reload_count, caller.fake.waited_inside_count)
        peaks = dict(caller.fake.busy_peaks)

    machine = Machine(replace(SPEC, keep_alive_s=-1), SPECS)
    for request, at_s in offered:
        machine.offer(request, at_s)
    events = machine.advance(offered[-1][1] + 1000)
    ends = [event for event in events if isinstance(event, Finished)]
    keys = {request.id: request.prompt[0].key.removeprefix("user ") for request, _ in offered}
    by_text = {keys[end.id]: end for end in ends}
    for text, reply in zip(texts, replies, strict=True):
        end = by_text[text]
        assert reply["load_duration"] == pytest.approx(end.load_s * 1e9, abs=1e4)
        assert reply["prompt_eval_duration"] == pytest.approx(end.prompt_s * 1e9, abs=1e4)
        assert reply["eval_duration"] == pytest.approx(end.output_s * 1e9, abs=1e4)
    assert (machine.load_count, machine.reload_count, machine.waited_inside_count) == counters
    assert dict(machine.busy_peaks) == peaks
    ended = sorted(zip(texts, replies, strict=True), key=lambda pair: pair[1]["created_at"])
    assert [text for text, _ in ended] == [keys[end.id] for end in ends]
    assert machine.load_count >= 3


async def test_tokens_come_one_after_the_other_and_none_too_early() -> None:
    async with calling() as caller:
        await caller.post("generate", model="tiny")
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        body = {"model": "tiny", "prompt": "[read 1] [write 20]", "stream": True}
        async with caller.http.stream("POST", "/api/generate", json=body) as reply:
            arrived_s = [
                loop.time() - began_s async for line in reply.aiter_lines() if not json.loads(line)["done"]
            ]
    assert len(arrived_s) == 20
    assert all(at_s >= 0.002 * place for place, at_s in enumerate(arrived_s, start=1))


# What it counts


async def test_nothing_waits_inside_while_there_are_slots() -> None:
    async with calling() as caller:
        await caller.post("generate", model="tiny")
        for _ in range(3):
            await asyncio.gather(caller.chat("a b c"), caller.chat("d e f"))
        assert (caller.fake.waited_inside_count, caller.fake.load_count) == (0, 1)
        assert caller.fake.busy_peaks == {"tiny:latest": 2}
        await asyncio.gather(*(caller.chat(f"[write 9] {place}") for place in range(4)))
        assert caller.fake.waited_inside_count >= 1
        assert caller.fake.busy_peaks == {"tiny:latest": 2}
        counters = (await caller.http.get("/fake")).json()
        assert counters["waited_inside_count"] == caller.fake.waited_inside_count
        assert counters["busy_peak tiny:latest"] == 2


async def test_other_runner_options_reload_and_sampling_options_do_not() -> None:
    async with calling() as caller:
        await caller.chat("a")
        await caller.chat("a", options={"temperature": 0.5, "seed": 1, "num_ctx": 4096})
        assert caller.fake.reload_count == 0
        await caller.chat("a", options={"num_ctx": 2048})
        await caller.chat("a", options={"num_ctx": 2048, "num_gpu": 99})
        assert (caller.fake.reload_count, caller.fake.load_count) == (2, 3)
        assert (await caller.resident())["context_length"] == 2048


async def test_ps_shows_vram_expiry_and_what_is_being_loaded() -> None:
    async with calling() as caller:
        caller.fake.hold_loads()
        loading = asyncio.create_task(caller.post("generate", model="tiny", keep_alive=-1))
        await until(lambda: bool(caller.fake.loaded))
        shown = await caller.resident()
        assert (shown["size_vram"], shown["expires_at"] > "2200") == (4 * GIB, True)
        assert not loading.done()
        caller.fake.let_load()
        assert (await loading).json()["done_reason"] == "load"
        gone = await caller.post("generate", model="tiny", keep_alive=0)
        assert (gone.json()["done_reason"], await caller.resident()) == ("unload", {})


async def test_an_embedding_model_is_loaded_by_nothing_to_embed() -> None:
    async with calling() as caller:
        assert (await caller.post("embed", model="words", input=[])).json()["embeddings"] == []
        assert await caller.resident("words")
        assert (await caller.post("generate", model="words", keep_alive=0)).json()["done_reason"] == "unload"
        assert not await caller.resident("words")
        reply = (await caller.post("embed", model="words", input=["a b c", "d"])).json()
        assert (len(reply["embeddings"]), reply["prompt_eval_count"]) == (2, 4)


async def test_too_many_that_need_a_load_are_refused() -> None:
    async with calling(max_queue=0) as caller:
        caller.fake.hold_loads()
        first = asyncio.create_task(caller.chat("a"))
        await until(lambda: bool(caller.fake.loaded))
        refused = await caller.post("generate", model="other")
        text = "server busy, please try again.  maximum pending requests exceeded"
        assert (refused.status_code, refused.json()) == (503, {"error": text})
        caller.fake.let_load()
        assert (await first)["done"]


async def test_a_thousand_tokens_are_as_many_as_were_asked_for() -> None:
    async with calling() as caller:
        caller.fake.machine.load_factor = 0.0
        reply = await caller.chat("[write 1000]", options={"num_predict": 30})
        assert (reply["eval_count"], reply["done_reason"]) == (30, "length")
        assert len(reply["message"]["content"].split()) == 30


# Callers that leave


async def test_a_caller_that_leaves_while_writing_frees_the_slot() -> None:
    async with calling(parallel=1) as caller:
        caller.fake.script("one", Hang())
        asking = asyncio.create_task(caller.chat("a"))
        await until(lambda: caller.fake.busy_count == 1)
        asking.cancel()
        await until(lambda: caller.fake.busy_count == 0)
        assert (await caller.chat("b"))["done"]


@pytest.mark.parametrize("deaf", [True, False])
async def test_a_caller_that_leaves_while_its_prompt_is_read(*, deaf: bool) -> None:
    async with calling(parallel=1) as caller:
        caller.fake.machine.deaf_in_prefill = deaf
        asking = asyncio.create_task(caller.chat("[read 1000000]"))  # For a hundred seconds.
        await until(lambda: caller.fake.busy_count == 1)
        asking.cancel()
        await until(lambda: left(caller) == 1)
        assert caller.fake.busy_count == (1 if deaf else 0)


async def test_a_caller_may_leave_while_it_waits_inside() -> None:
    async with calling(parallel=1) as caller:
        caller.fake.script(Hang())
        first = asyncio.create_task(caller.chat("a"))
        await until(lambda: caller.fake.busy_count == 1)
        second = asyncio.create_task(caller.chat("b"))
        await until(lambda: caller.fake.waited_inside_count == 2)  # The first, for its load.
        second.cancel()
        await until(lambda: left(caller) == 1)
        first.cancel()
        await until(lambda: caller.fake.busy_count == 0)
        assert (await caller.chat("c"))["done"]
