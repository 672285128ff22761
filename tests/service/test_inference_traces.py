"""What the gateway does for a request, as spans: the wait, the instance, the stores; and nothing that was said."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio
import httpx
import pytest

from deploy.local.ports import free_ports
from services.common.tracing import export
from tests.fakes.fake_ollama import Cut, FakeOllama, Hang
from tests.fakes.otlp_collector import Collector, Seen, collecting
from tests.service.inference_app import (
    PROCESSES,
    Service,
    events_of,
    one_instance,
    refused,
    until_event,
)
from tests.service.test_inference_cached_answers import COLD, cached
from tests.service.test_inference_embed import KEYS, embed
from tests.service.test_inference_usage import since
from tests.stack import Database

SECRET = "the cake recipe"
CHAT, EMBED = (f"ollamesh.inference.v1.InferenceService/{name}" for name in ("Chat", "Embed"))
pytestmark = pytest.mark.skipif(PROCESSES > 1, reason="another process's exporter waits a second")


@pytest.fixture(autouse=True)
def _sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "EVERY_S", 0.01)


@dataclass(frozen=True, slots=True)
class World:
    service: Service
    fake: FakeOllama
    collector: Collector

    async def trace(self, method: str, count: int = 1) -> tuple[Seen, list[Seen]]:
        """The span of the last of so many calls, and what is in it. All of that has ended before it did."""
        await self.collector.until(lambda: len(self.collector.named(method)) >= count)
        call = self.collector.named(method)[count - 1]
        return call, [one for one in self.collector.seen if one.trace_id == call.trace_id and one is not call]


@asynccontextmanager
async def world(**settings: object) -> AsyncIterator[World]:
    async with (
        collecting() as collector,
        one_instance(otlp_target=collector.target, **settings) as (service, fake),
    ):
        yield World(service, fake, collector)


def one(spans: list[Seen], name: str) -> Seen:
    (found,) = [span for span in spans if span.name == name]
    return found


async def test_a_chat_is_its_wait_and_what_the_instance_made_of_it() -> None:
    async with world() as here:
        here.fake.script("Hel", "lo")
        await events_of(here.service.chat(SECRET))
        call, within = await here.trace(CHAT)
        generation, http = (one(within, name) for name in ("chat tiny:latest", "POST /api/chat"))
        assert SECRET not in here.collector.text()
    assert [generation.parent_id, http.parent_id] == [call.span_id, generation.span_id]
    assert (generation.kind, http.kind) == ("CLIENT", "CLIENT")
    told = generation.attributes
    assert told.pop("gen_ai.response.time_to_first_chunk") >= 0
    assert told.pop("server.port") > 0
    assert {key: value for key, value in told.items() if not key.startswith("ollamesh.")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ollama",
        "gen_ai.request.model": "tiny:latest",
        "gen_ai.response.model": "tiny:latest",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.response.finish_reasons": ["stop"],
        "server.address": "127.0.0.1",
    }
    assert generation.events == ["first_token"]
    assert http.attributes["http.response.status_code"] == 200


async def test_a_wait_for_a_slot_is_told() -> None:
    async with world(instance_slots=1) as here:
        gate = asyncio.Event()
        here.fake.script("Hel", gate, "lo")
        first = here.service.chat("first")
        await until_event(first, "delta")
        second = here.service.chat("second")
        await until_event(second, "queued")
        gate.set()
        while await second.read() is not grpc.aio.EOF:
            pass
        while await first.read() is not grpc.aio.EOF:
            pass
        await here.trace(CHAT, 2)
        (wait,) = here.collector.named("queue")
        placed = {
            span.parent_id: span.attributes["ollamesh.queue_s"]
            for span in here.collector.named("chat tiny:latest")
        }
    assert max(placed, key=lambda call: placed[call]) == wait.parent_id
    assert placed[wait.parent_id] >= 0.001


async def test_a_caller_who_leaves_is_no_failure() -> None:
    async with world() as here:
        here.fake.script("Hel", Hang())
        call = here.service.chat()
        await until_event(call, "delta")
        call.cancel()
        told, _ = await here.trace(CHAT)
        await here.collector.one("chat tiny:latest")
        generation = here.collector.named("chat tiny:latest")[0]
    assert told.attributes["rpc.grpc.status_code"] == 1
    assert generation.attributes["error.type"] == "CANCELLED"
    assert not generation.failed


async def test_what_fails_says_why_in_a_word() -> None:
    async with world() as here:
        here.fake.script("Hel", Cut())
        await refused(here.service.chat(SECRET))
        call, within = await here.trace(CHAT)
        generation = one(within, "chat tiny:latest")
        assert SECRET not in here.collector.text()
    assert (call.attributes["rpc.grpc.status_code"], call.attributes["error.type"]) == (10, "INSTANCE_LOST")
    assert generation.failed
    assert generation.span.status.message == generation.attributes["error.type"] == "UNREACHABLE"


async def test_an_answer_from_the_cache_says_so_and_asks_redis_alone(redis_url: str) -> None:
    async with world(REDIS_URL=redis_url, **KEYS) as here:
        await cached(here.service, SECRET)
        await here.collector.until(
            lambda: any("cache_hit" in call.events for call in here.collector.named(CHAT))
        )
        (hit, *_) = [call for call in here.collector.named(CHAT) if "cache_hit" in call.events]
        within = [span for span in here.collector.seen if span.parent_id == hit.span_id]
        assert SECRET not in here.collector.text()
    assert {span.attributes.get("db.system.name") for span in within} == {"redis"}
    assert all(set(span.attributes) <= REDIS_SAYS for span in within)


REDIS_SAYS = {"db.system.name", "db.operation.name", "db.operation.batch.size"}


async def test_who_joins_an_answer_is_linked_to_whom_it_is_made_for() -> None:
    async with world() as here:
        gate = asyncio.Event()
        here.fake.script("Hel", gate, "lo")
        first = here.service.chat(SECRET, options=COLD)
        await until_event(first, "delta")
        second = here.service.chat(SECRET, options=COLD)
        await until_event(second, "delta")
        gate.set()
        for stream in (first, second):
            while await stream.read() is not grpc.aio.EOF:
                pass
        await here.trace(CHAT, 2)
        (joined,) = [call for call in here.collector.named(CHAT) if "joined" in call.events]
        (made,) = [call for call in here.collector.named(CHAT) if call is not joined]
    assert [link.span_id.hex() for link in joined.span.links] == [made.span_id]


async def test_texts_that_are_embedded_together_are_one_use_of_an_instance() -> None:
    async with world(embed_batch_delay_s=0.3) as here:
        await asyncio.gather(*(embed(here.service, text) for text in ("a", "b", "c")))
        await here.trace(EMBED, 3)
        made = here.collector.named("embeddings tiny:latest")
        calls = here.collector.named(EMBED)
    asked_by = {made[0].parent_id, *(link.span_id.hex() for span in made for link in span.span.links)}
    asked_by |= {span.parent_id for span in made}
    assert asked_by == {call.span_id for call in calls}
    assert made[0].attributes["gen_ai.operation.name"] == "embeddings"


async def test_statements_are_told_by_name_and_without_values(database: Database) -> None:
    async with world(DATABASE_URL=database("inference")) as here:
        await here.service.call("GetUsage", since(), org="org-hunter2")
        _, within = await here.trace("ollamesh.inference.v1.InferenceService/GetUsage")
        assert "org-hunter2" not in here.collector.text()
    statements = [span for span in within if span.attributes.get("db.system.name") == "postgresql"]
    assert "SELECT usage_entries" in {span.name for span in statements}
    assert "BEGIN" not in {span.name for span in statements}
    assert all("db.query.text" not in span.attributes for span in statements)


async def test_the_histograms_of_generation_lead_to_its_trace() -> None:
    metrics_port = free_ports(1)[0]
    async with world(inference_metrics_port=metrics_port) as here:
        here.fake.script("Hel", "lo")
        await events_of(here.service.chat())
        call, _ = await here.trace(CHAT)
        await here.service.until_idle()  # Then it has been counted.
        async with httpx.AsyncClient() as http:
            accept = {"accept": "application/openmetrics-text; version=1.0.0"}
            shown = (await http.get(f"http://127.0.0.1:{metrics_port}/metrics", headers=accept)).text
    marked = f'# {{span_id="{call.span_id}",trace_id="{call.trace_id}"}}'
    for name in ("time_to_first_token", "time_per_output_token", "request_duration"):
        lines = [
            line for line in shown.splitlines() if line.startswith(f"gen_ai_server_{name}_seconds_bucket")
        ]
        assert any(marked in line for line in lines), name
