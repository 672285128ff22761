"""Answers from the tenant's cache, through the wire: who gets them, what they look like, and when they are not served."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from ollamesh.inference.v1 import completion_pb2 as pb

from tests.fakes.fake_ollama import FakeOllama
from tests.service.inference_app import (
    TIMEOUT_S,
    TINY,
    Call,
    Service,
    events_of,
    grammar,
    one_instance,
    preload,
    refused,
    serving,
)
from tests.service.inference_backend import Backend
from tests.service.test_inference_embed import KEYS, purge, until_digest

COLD = pb.Options(temperature=0)


async def ask(service: Service, text: str = "hello wide world", **more: Any) -> list[pb.CompletionEvent]:
    call: Call = service.chat(text, **{"options": COLD, **more})
    return await events_of(call)


def source(events: list[pb.CompletionEvent]) -> pb.AnswerSource:
    (started,) = (event.started for event in events if event.HasField("started"))
    return started.source


def said(events: list[pb.CompletionEvent]) -> str:
    return "".join(event.delta.text for event in events)


async def cached(service: Service, text: str = "hello wide world", **more: Any) -> list[pb.CompletionEvent]:
    """Ask until the answer comes from the cache; it gets there behind everybody's back."""
    async with asyncio.timeout(TIMEOUT_S):
        while source(events := await ask(service, text, **more)) != pb.ANSWER_SOURCE_CACHE:
            await asyncio.sleep(0.01)
    return events


async def never_cached(service: Service, text: str, **more: Any) -> None:
    """Ask three times, with one between that is kept after whatever of the first could have been."""
    for number in range(3):
        assert source(await ask(service, text, **more)) == pb.ANSWER_SOURCE_MODEL
        await cached(service, f"mark {text} {number} {len(more)}")


@asynccontextmanager
async def one(redis_url: str, **settings: object) -> AsyncIterator[tuple[Service, FakeOllama]]:
    async with one_instance(REDIS_URL=redis_url, **KEYS, **settings) as found:
        yield found


async def test_an_answer_is_generated_once(redis_url: str) -> None:
    async with one(redis_url) as (service, fake):
        first = await ask(service)
        again = await cached(service)
        asked_count = len(fake.asked("/api/chat"))
        more = await ask(service)
        assert source(first) == pb.ANSWER_SOURCE_MODEL
        for events in (again, more):
            assert source(events) == pb.ANSWER_SOURCE_CACHE
            assert grammar(events) == "OSDF"  # One delta: nothing is waited for.
            assert said(events) == said(first)
            assert events[-1].finished.usage == first[-1].finished.usage
            assert events[-1].finished.reason == pb.FINISH_REASON_STOP
        assert len({events[0].opened.stream_id for events in (first, again, more)}) == 3
        assert len(fake.asked("/api/chat")) == asked_count
        assert sum(event.delta.token_count for event in more) == sum(
            event.delta.token_count for event in first
        )


async def test_each_token_by_itself_also_from_the_cache(redis_url: str) -> None:
    async with one(redis_url) as (service, _):
        events = await cached(service, delta_per_token=True)
        assert grammar(events) == "OSDDDF"
        assert [event.delta.text for event in events[2:-1]] == ["hello", " wide", " world"]
        assert grammar(await cached(service)) == "OSDF"


async def test_an_answer_can_be_told_at_a_pace(redis_url: str) -> None:
    async with one(redis_url, cache_replay_tokens_per_s=100) as (service, _):
        text = " ".join(["word"] * 30)
        first = await ask(service, text, delta_per_token=True)
        await cached(service, text, delta_per_token=True)
        began_s = time.monotonic()
        events = await ask(service, text, delta_per_token=True)
        assert time.monotonic() - began_s >= 0.3
        assert said(events) == said(first)
        assert grammar(events) == f"OS{'D' * 30}F"


async def test_another_replica_gives_it_too_and_sees_a_purge_at_once(redis_url: str) -> None:
    async with FakeOllama(TINY, parallel=8) as fake:
        await preload(fake, TINY)
        async with serving(fake.url, REDIS_URL=redis_url, **KEYS) as here:
            await cached(here)
            async with serving(fake.url, REDIS_URL=redis_url, **KEYS) as there:
                assert source(await ask(there)) == pb.ANSWER_SOURCE_CACHE
                for model in ("", "tiny"):
                    await purge(here, model)
                    assert source(await ask(there)) == pb.ANSWER_SOURCE_MODEL
                    await cached(there)
                await purge(here, org="org-2")
                await purge(here, "other")
                assert source(await ask(there)) == pb.ANSWER_SOURCE_CACHE


async def test_another_tenant_gets_none_of_it(redis_url: str) -> None:
    async with one(redis_url) as (service, fake):
        await cached(service)
        count = len(fake.asked("/api/chat"))
        assert source(await ask(service, org="org-2")) == pb.ANSWER_SOURCE_MODEL
        assert len(fake.asked("/api/chat")) == count + 1


async def test_what_is_sampled_is_cached_for_those_who_want_it_so(redis_url: str) -> None:
    warm = {"options": pb.Options(temperature=0.5)}
    async with one(redis_url) as (service, _):
        await never_cached(service, "a b", **warm)
        await cached(service, "a b", cache_policy=pb.CACHE_POLICY_ALWAYS, **warm)
        await cached(service, "c d", options=pb.Options(temperature=0.5, seed=1))


@pytest.mark.parametrize(
    "more",
    [
        {"cache_policy": pb.CACHE_POLICY_NEVER},
        {"tools": [pb.Tool(name="clock", parameters_json_schema="{}")]},
        {"tools": [pb.Tool(name="clock")], "cache_policy": pb.CACHE_POLICY_ALWAYS},
        {"logprobs": True},
        {"options": pb.Options(temperature=0, output_token_count_max=2)},
    ],
    ids=["never", "tools", "tools always", "logprobs", "length"],
)
async def test_some_are_always_generated(redis_url: str, more: dict[str, Any]) -> None:
    async with one(redis_url) as (service, _):
        await never_cached(service, "a b c d", **more)


async def test_an_answer_that_was_cut_short_is_not_kept(redis_url: str) -> None:
    backend = Backend("tiny:latest", residents=("tiny:latest",))
    async with backend.serving(), serving(backend.url, REDIS_URL=redis_url, **KEYS) as service:
        lost = asyncio.ensure_future(refused(service.chat("hello wide world", options=COLD)))
        exchange = await backend.asked()
        exchange.token("half")
        exchange.cut()
        assert (await lost).reason == "INSTANCE_LOST"
        await service.until_ready(1)
        again = asyncio.ensure_future(ask(service))
        exchange = await backend.asked()
        exchange.token("whole")
        exchange.done()
        assert said(await again) == "whole"


async def test_new_weights_give_new_answers(redis_url: str) -> None:
    backend = Backend("tiny:latest", residents=("tiny:latest",))
    async with backend.serving(), serving(backend.url, REDIS_URL=redis_url, **KEYS) as service:
        for digest in ("digest of tiny:latest", "new"):
            backend.models[0]["digest"] = digest
            await until_digest(service, backend, digest)
            call = asyncio.ensure_future(ask(service))
            exchange = await backend.asked()
            exchange.token(digest)
            exchange.done()
            assert said(await call) == digest


async def test_continuations_are_cached_too(redis_url: str) -> None:
    request = pb.GenerateRequest(model="tiny", prompt="once upon a time", options=COLD)
    async with one(redis_url) as (service, _):
        first = await events_of(service.call("Generate", request))
        async with asyncio.timeout(TIMEOUT_S):
            while (
                source(events := await events_of(service.call("Generate", request))) != pb.ANSWER_SOURCE_CACHE
            ):
                await asyncio.sleep(0.01)
        assert said(events) == said(first)
        assert events[-1].finished.context == first[-1].finished.context
