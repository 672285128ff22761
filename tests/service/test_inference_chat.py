"""Streams through the whole service, over real sockets: their grammar, their pace, their end."""

import asyncio

import grpc
import grpc.aio
import pytest
from ollamesh.inference.v1 import completion_pb2 as pb

from tests.fakes.fake_ollama import Call, FakeOllama, Hang, Think
from tests.service.inference_app import (
    TINY,
    WITHIN_S,
    asked,
    events_of,
    grammar,
    left,
    next_event,
    one_instance,
    refused,
    serving,
    until_event,
)


async def test_a_stream_has_its_events_in_order() -> None:
    gate = asyncio.Event()
    async with one_instance() as (service, fake):
        fake.script("Hel", gate, "lo")
        call = service.chat("say hello", options=pb.Options(temperature=0.5, output_token_count_max=5))
        opened, started, first = [await next_event(call) for _ in range(3)]
        gate.set()
        second, finished = [await next_event(call) for _ in range(2)]
        assert await call.read() is grpc.aio.EOF
        assert (await asked(fake)).body == {
            "model": "tiny:latest",
            "messages": [{"role": "user", "content": "say hello"}],
            "options": {"temperature": 0.5, "num_predict": 5},
            "keep_alive": 300,
            "stream": True,
        }
        (instance,) = (await service.fleet()).instances

    assert grammar([opened, started, first, second, finished]) == "OSDDF"
    assert len(opened.opened.stream_id) == 32
    assert opened.opened.durability == pb.STREAM_DURABILITY_GATEWAY, "nothing is shared here"
    assert started.started.model == "tiny:latest"
    assert len(started.started.model_digest) == 64
    assert (started.started.instance, started.started.source) == (instance.name, pb.ANSWER_SOURCE_MODEL)
    assert [(event.delta.text, event.delta.token_count) for event in (first, second)] == [
        ("Hel", 1),
        ("lo", 1),
    ]
    assert finished.finished.reason == pb.FINISH_REASON_STOP
    assert finished.finished.usage == pb.TokenUsage(prompt_token_count=2, output_token_count=2)
    assert finished.finished.timings.output.ToNanoseconds() > 0
    assert finished.finished.timings.total.ToNanoseconds() > 0


async def test_tools_thoughts_and_their_results_go_through() -> None:
    async with one_instance() as (service, fake):
        fake.script(Think("Hm."), "Let me look.", Call("look", {"at": [1, 2]}))
        tool = pb.Tool(name="look", description="Looks.", parameters_json_schema='{"type":"object"}')
        events = await events_of(service.chat(tools=[tool], thinking=pb.THINKING_ON))
        (look,) = [call for event in events for call in event.delta.tool_calls]
        after = [
            pb.Message(role=pb.ROLE_USER, content="What is there?"),
            pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[look]),
            pb.Message(role=pb.ROLE_TOOL, content="a cat", tool_name="look", tool_call_id=look.id),
        ]
        answer = await events_of(service.chat(messages=after, tools=[tool]))
    assert "".join(event.delta.thinking for event in events) == "Hm."
    assert "".join(event.delta.text for event in events) == "Let me look."
    assert (look.name, look.arguments_json, bool(look.id)) == ("look", '{"at":[1,2]}', True)
    assert events[-1].finished.reason == pb.FINISH_REASON_TOOL_CALLS
    assert "".join(event.delta.text for event in answer) == "look returned: a cat"


async def test_a_format_shapes_the_answer() -> None:
    schema = '{"type":"object","properties":{"age":{"type":"integer","minimum":7}},"required":["age"]}'
    async with one_instance() as (service, _):
        events = await events_of(service.chat(format=pb.OutputFormat(json_schema=schema)))
    assert "".join(event.delta.text for event in events) == '{"age":7}'


async def test_generate_is_the_same_stream() -> None:
    async with one_instance() as (service, fake):
        fake.script(" upon", " a", " time")
        options = pb.Options(output_token_count_max=2)
        request = pb.GenerateRequest(model="tiny", prompt="Once", system="Be brief.", options=options)
        events = await events_of(service.call("Generate", request))
        assert (await asked(fake, path="/api/generate")).body["system"] == "Be brief."
    assert "".join(event.delta.text for event in events) == " upon a"
    assert events[-1].finished.reason == pb.FINISH_REASON_LENGTH
    assert len(events[-1].finished.context) > 0


async def test_no_request_reloads_the_model() -> None:
    async with one_instance(context_tokens=2048) as (service, fake):
        for context_token_count in (None, 1, 2048):
            options = pb.Options(context_token_count=context_token_count)
            await events_of(service.chat(options=options))
        assert fake.load_count == 1
        assert fake.loaded[0].context_length == 2048


# Waiting


async def test_who_waits_is_told_its_place_as_it_improves() -> None:
    gate = asyncio.Event()
    async with one_instance(instance_slots=1) as (service, fake):
        fake.script(gate)
        service.chat()
        await asked(fake)
        second, third = service.chat(), service.chat()
        assert (await until_event(second, "queued")).queued.ahead_count == 0
        assert (await until_event(third, "queued")).queued.ahead_count == 1
        fake.script(gate2 := asyncio.Event())
        gate.set()
        await asked(fake, 2)
        assert (await until_event(third, "queued")).queued.ahead_count == 0
        gate2.set()
        for call in (second, third):
            assert (await until_event(call, "finished")).finished.reason == pb.FINISH_REASON_STOP


async def test_an_urgent_request_goes_before_those_that_can_wait() -> None:
    gate = asyncio.Event()
    async with one_instance(instance_slots=1) as (service, fake):
        fake.script(gate)
        service.chat("first")
        await asked(fake)
        for text, priority in (
            ("batch", pb.PRIORITY_BATCH),
            ("default", pb.PRIORITY_UNSPECIFIED),
            ("urgent", pb.PRIORITY_INTERACTIVE),
        ):
            await until_event(service.chat(text, priority=priority), "queued")
        gate.set()
        await asked(fake, 4)
        served = [request.body["messages"] for request in fake.asked("/api/chat")]
    order = ["first", "urgent", "default", "batch"]
    assert served == [[{"role": "user", "content": text}] for text in order]


async def test_tenants_take_turns() -> None:
    gate = asyncio.Event()
    async with one_instance(instance_slots=1) as (service, fake):
        fake.script(gate)
        service.chat("running")
        await asked(fake)
        for org, text in (("greedy", "g1"), ("greedy", "g2"), ("greedy", "g3"), ("light", "l1")):
            await until_event(service.chat(text, org=org), "queued")
        gate.set()
        await asked(fake, 5)
        served = [str(request.body["messages"]) for request in fake.asked("/api/chat")[1:]]
    assert [next(text for text in ("g1", "g2", "g3", "l1") if text in said) for said in served] == [
        "g1",
        "l1",
        "g2",
        "g3",
    ]


# Leaving


async def test_leaving_the_queue_frees_the_place() -> None:
    async with one_instance(instance_slots=1, queue_max=1) as (service, fake):
        fake.script(Hang())
        service.chat()
        await asked(fake)
        waiting = service.chat()
        await until_event(waiting, "queued")
        waiting.cancel()
        await service.until_fleet(lambda fleet: not fleet.queues)
        await until_event(service.chat(), "queued")
        assert len(fake.asked("/api/chat")) == 1


async def test_leaving_while_the_model_loads_frees_the_place_and_the_load_goes_on() -> None:
    async with FakeOllama(TINY) as fake, serving(fake.url, instance_slots=1, queue_max=1) as service:
        fake.hold_loads()
        call = service.chat("given up")
        loading = await asked(fake, path="/api/generate")
        await until_event(call, "queued")
        call.cancel()
        await service.until_fleet(lambda fleet: not fleet.queues)
        staying = service.chat("next")
        await until_event(staying, "queued")
        fake.let_load()
        await until_event(staying, "finished")
        assert not await left(loading)
        assert fake.load_count == 1
        (request,) = fake.asked("/api/chat")
    assert request.body["messages"] == [{"role": "user", "content": "next"}]


async def test_leaving_before_the_first_token_reaches_the_instance_and_frees_the_slot() -> None:
    async with one_instance(instance_slots=1) as (service, fake):
        fake.script(Hang())
        call = service.chat()
        request = await asked(fake)
        call.cancel()
        assert await left(request)
        await service.until_idle()


async def test_leaving_during_the_answer_reaches_the_instance_and_frees_the_slot() -> None:
    async with one_instance(instance_slots=1) as (service, fake):
        fake.script("a", Hang())
        call = service.chat()
        await until_event(call, "delta")
        call.cancel()
        assert await left(await asked(fake))
        await service.until_idle()


async def test_a_deadline_ends_the_work_like_a_caller_that_leaves() -> None:
    async with one_instance() as (service, fake):
        fake.script("a", Hang())
        answer = await refused(service.chat(timeout_s=0.3))
        assert await left(await asked(fake))
        await service.until_idle()
    assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_stop_lets_answers_in_flight_end() -> None:
    gate = asyncio.Event()
    async with one_instance(grace_s=20) as (service, fake):
        fake.script("a", gate, "b")
        call = service.chat()
        await until_event(call, "delta")
        service.stop.set()
        gate.set()
        assert (await until_event(call, "finished")).finished.reason == pb.FINISH_REASON_STOP


# Paces


async def test_a_slow_reader_gets_fewer_longer_deltas_and_holds_no_slot() -> None:
    tokens = [f"{number:>1023} " for number in range(1000)]
    async with one_instance(reader_buffer_bytes=4 << 20) as (service, fake):
        fake.script(*tokens)
        call = service.chat()
        assert not await left(await asked(fake))
        await service.until_idle()  # The instance is done, and nothing was read yet.
        events = await events_of(call)
    deltas = [event.delta for event in events if event.HasField("delta")]
    assert "".join(delta.text for delta in deltas) == "".join(tokens)
    assert sum(delta.token_count for delta in deltas) == len(tokens)
    assert len(deltas) < len(tokens) / 2


@pytest.mark.parametrize("method", ["Chat", "Generate"])
async def test_who_asks_for_each_token_gets_a_delta_for_each_however_late(method: str) -> None:
    tokens = [f"{number} " for number in range(200)]
    async with one_instance() as (service, fake):
        fake.script(*tokens)
        if method == "Chat":
            call = service.chat(delta_per_token=True)
        else:
            call = service.call(
                "Generate", pb.GenerateRequest(model="tiny", prompt="x", delta_per_token=True)
            )
        await asked(fake, path=f"/api/{method.lower()}")
        await service.until_idle()  # All has arrived before the first is read.
        deltas = [event.delta for event in await events_of(call) if event.HasField("delta")]
    assert [delta.text for delta in deltas] == tokens
    assert {delta.token_count for delta in deltas} == {1}


async def test_a_reader_that_never_reads_is_ended_and_its_instance_freed() -> None:
    async with one_instance(reader_buffer_bytes=16 << 10) as (service, fake):
        fake.script(*["x" * 1023] * 4000, Hang())
        call = service.chat()
        assert await left(await asked(fake))
        await service.until_idle()
        last_sequence = 0
        async with asyncio.timeout(WITHIN_S):
            try:
                while True:
                    last_sequence = (await next_event(call)).sequence
            except grpc.aio.AioRpcError:
                answer = await refused(call)
    assert (answer.code, answer.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "READER_TOO_SLOW")
    assert answer.facts["last_sequence"] == str(last_sequence)
    assert len(answer.facts["stream_id"]) == 32


async def test_a_stalled_reader_costs_the_others_nothing() -> None:
    async with one_instance(reader_buffer_bytes=64 << 20) as (service, fake):
        fake.script(*["x" * 1000] * 2000, Hang())
        service.chat("stalled")
        await asked(fake)
        for _ in range(10):
            assert grammar(await events_of(service.chat("brisk"))).startswith("OSD")
