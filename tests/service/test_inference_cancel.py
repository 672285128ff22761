"""Who leaves, or has no time left, frees what it holds, in whichever phase; and nobody is sent to a slot that an
instance is still busy with.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import grpc
import pytest
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest

from tests.fakes.fake_ollama import FakeOllama, Hang, Outcome, Recorded
from tests.service.inference_app import (
    BRISK,
    TIMEOUT_S,
    TINY,
    Call,
    Service,
    asked,
    events_of,
    left,
    one_instance,
    one_machine,
    refused,
    serving,
    until,
    until_event,
)

Code = grpc.StatusCode
PHASES = ("queued", "loading", "prefill", "decode")
# Reads a prompt of PROMPT_WORDS for a third of a second.
READING = replace(BRISK, prefill_tokens_per_s=3000)
PROMPT_WORDS = 1000


def prompt(word: str) -> str:
    """A token to the machine is a word; to the gateway, which guesses, a little less than one."""
    return " ".join([word] * PROMPT_WORDS)


async def learned(service: Service, fake: FakeOllama) -> None:
    """Let the gateway see how fast prompts are read; and they are read to the end, whoever leaves."""
    await events_of(service.chat(prompt("first")))
    assert fake.machine.deaf_in_prefill, "as Ollama is"


def said(requests: list[Recorded]) -> list[str]:
    """The first words of all that was asked."""
    return [str(request.body["messages"]).split("'content': '")[1][:5].strip(" '}]") for request in requests]


@dataclass(frozen=True, slots=True)
class Scene:
    service: Service
    fake: FakeOllama
    call: Call
    phase: str
    holder: Call | None  # Of the only slot, where the call waits for it.

    async def is_over(self) -> None:
        """The call holds nothing any more, and what it was sent for has ended; so the next one is served."""
        if self.phase in {"queued", "loading"}:
            await self.service.until_fleet(lambda fleet: not fleet.queues)
            self.fake.let_load()
            if self.holder is not None:
                self.holder.cancel()
        else:
            assert await left(self.fake.asked("/api/chat")[-1])
        await self.service.until_idle()
        assert (await events_of(self.service.chat("after")))[-1].HasField("finished")
        sent = {"queued": ["first", "holde"], "loading": []}.get(self.phase, ["first", "call"])
        assert said(self.fake.asked("/api/chat")) == [*sent, "after"]


@asynccontextmanager
async def during(phase: str, *, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Scene]:
    """A call in a phase that does not end by itself, on an instance with one slot."""
    async with FakeOllama(TINY) as fake, serving(fake.url, instance_slots=1) as service:
        holder = None
        if phase == "loading":
            fake.hold_loads()
        else:
            await events_of(service.chat("first"))
        if phase == "queued":
            fake.script("a", Hang())
            await until_event(holder := service.chat("holder"), "delta")
        if phase in {"prefill", "decode"}:
            fake.script(*["a"] * (phase == "decode"), Hang())
        call = service.chat("call", timeout_s=timeout_s)
        if phase in {"queued", "loading"}:
            await until_event(call, "queued")
        elif phase == "prefill":
            await asked(fake, 2)
        else:
            await until_event(call, "delta")
        yield Scene(service, fake, call, phase, holder)


@pytest.mark.parametrize("phase", PHASES)
async def test_leaving_frees_what_a_call_holds(phase: str) -> None:
    async with during(phase) as scene:
        scene.call.cancel()
        await scene.is_over()


@pytest.mark.parametrize("phase", PHASES)
async def test_a_deadline_that_passes_frees_what_a_call_holds(phase: str) -> None:
    async with during(phase, timeout_s=1.0) as scene:
        assert (await refused(scene.call)).code is Code.DEADLINE_EXCEEDED
        await scene.is_over()


async def test_what_takes_longer_than_policy_allows_is_ended_with_all_that_came() -> None:
    policy = '{"user": {"timeout_s_min": 0, "timeout_s_max": 0.5}}'
    async with one_instance(instance_slots=1, policy=policy) as (service, fake):
        fake.script("a", Hang())
        call = service.chat()
        last_sequence = (await until_event(call, "delta")).sequence
        answer = await refused(call)
        assert await left(fake.asked("/api/chat")[0])
        await service.until_idle()
        assert (await events_of(service.chat()))[-1].HasField("finished")
    assert (answer.code, answer.reason) == (Code.DEADLINE_EXCEEDED, "TIME_EXCEEDED")
    assert answer.facts["last_sequence"] == str(last_sequence)


# An instance that does not notice


async def test_nobody_is_sent_to_a_slot_where_a_prompt_is_read_for_nobody() -> None:
    async with one_machine(READING) as (service, fake):
        await learned(service, fake)
        leaving = service.chat(prompt("deaf"))
        request = await asked(fake, 2)
        leaving.cancel()
        assert await left(request)
        staying = service.chat("next")
        await until_event(staying, "queued")
        assert fake.busy_count == 1, "the prompt is still being read"
        await asked(fake, 3)
        (probe,) = fake.asked("/api/generate")
        assert probe.outcome is Outcome.ANSWERED
        await until_event(staying, "finished")
        await service.until_idle()
        assert fake.waited_inside_count == 0
        assert fake.load_count == 1


async def test_other_slots_are_used_meanwhile() -> None:
    async with one_machine(READING, parallel=2) as (service, fake):
        await learned(service, fake)
        leaving = service.chat(prompt("deaf"))
        await asked(fake, 2)
        leaving.cancel()
        await service.until_fleet(lambda fleet: fleet.instances[0].busy_slot_count == 1)
        await events_of(service.chat("other"))
        assert fake.busy_count == 1, "the prompt is still being read"
        await until_both(service, fake)
        assert fake.waited_inside_count == 0
        assert fake.busy_peaks["tiny:latest"] == 2


async def until_both(service: Service, fake: FakeOllama) -> None:
    """Fill both slots again."""
    calls = [service.chat("[write 20]") for _ in range(3)]
    for call in calls:
        await events_of(call)
    await service.until_idle()
    await until(lambda: fake.busy_count == 0)


async def test_an_instance_that_was_never_measured_is_asked_whether_it_is_idle() -> None:
    """The probe waits in the caller's stead."""
    async with one_machine(READING) as (service, fake):
        leaving = service.chat(prompt("deaf"))
        await asked(fake)
        leaving.cancel()
        staying = service.chat("next")
        await asked(fake, 2)
        (probe,) = fake.asked("/api/generate")
        assert probe.outcome is Outcome.ANSWERED
        await until_event(staying, "finished")
        assert fake.waited_inside_count == 1


async def test_leaving_an_answer_ends_it_at_the_next_token() -> None:
    async with one_machine(BRISK) as (service, fake):
        fake.script("a", Hang())
        leaving = service.chat()
        await until_event(leaving, "delta")
        leaving.cancel()
        assert await left(fake.asked("/api/chat")[0])
        await service.until_idle()
        await until(lambda: fake.busy_count == 0)
        assert not fake.asked("/api/generate"), "nothing is to be found out"


async def test_leaving_an_embedding_is_like_leaving_a_prompt() -> None:
    async with one_machine(READING) as (service, fake):
        embedding = service.call("Embed", EmbedRequest(model="tiny", input=["[read 1000]"]))
        request = await asked(fake, path="/api/embed")
        embedding.cancel()
        assert await left(request)
        await service.until_idle()
        assert fake.busy_count == 0


async def test_leaving_while_an_instance_is_slow_to_load_costs_the_others_nothing() -> None:
    """Nobody waits for a load but those who want the model; what was begun for one serves the next."""
    async with one_machine(BRISK, replace(BRISK, name="small:latest", vram_bytes=1 << 30)) as (service, fake):
        fake.machine.load_factor = 10
        leaving = service.chat(model="small")
        await until_event(leaving, "queued")
        leaving.cancel()
        assert (await events_of(service.chat(priority=pb.PRIORITY_BATCH)))[-1].HasField("finished")
        await events_of(service.chat(model="small"))
        assert fake.load_count == 2
