"""What callers are told when requests are wrong, queues are full, and instances fail, each in its own way."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest

from tests.service.inference_app import (
    WITHIN_S,
    Refusal,
    Service,
    events_of,
    grammar,
    next_event,
    refused,
    serving,
    until_event,
)
from tests.service.inference_backend import Backend, Exchange

Code = grpc.StatusCode

# How an instance can fail in the middle of an answer: each ends the exchange or makes the gateway end it.
CUTS: dict[str, Callable[[Exchange], None]] = {
    "broken connection": Exchange.cut,
    "no done": Exchange.end,
    "malformed line": lambda exchange: exchange.raw_line(b"{nonsense"),
    "not UTF-8": lambda exchange: exchange.raw_line(b'{"message":{"content":"\xff"}}'),
    "error line": lambda exchange: exchange.line(error="CUDA error: out of memory at /usr/lib/ollama"),
    "broken framing": lambda exchange: exchange.raw(b"zzz\r\n"),
}
# And before it.
REFUSALS: dict[str, Callable[[Exchange], None]] = {
    **CUTS,
    "500": lambda exchange: exchange.fail(500, "llama runner process has terminated"),
    "503": lambda exchange: exchange.fail(503, "server busy, please try again."),
    "401": lambda exchange: exchange.fail(401, "unauthorized"),
    "not HTTP": lambda exchange: exchange.raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
}


@asynccontextmanager
async def one_instance(**settings: object) -> AsyncIterator[tuple[Service, Backend]]:
    """The service over one instance that has `tiny:latest` in memory."""
    async with (
        Backend("tiny:latest", residents=("tiny:latest",)).serving() as backend,
        serving(backend.url, **settings) as service,
    ):
        yield service, backend


@asynccontextmanager
async def failing(backend: Backend, way: str) -> AsyncIterator[None]:
    """Fail whatever is asked of `backend`. More than once: a kept connection that breaks is replaced."""

    async def fail() -> None:
        while True:
            REFUSALS[way](await backend.asked())

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(fail())
        yield
        task.cancel()


def user(text: str) -> list[pb.Message]:
    return [pb.Message(role=pb.ROLE_USER, content=text)]


# Wrong requests

WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no messages": ({"messages": []}, ["messages"]),
    "too many messages": ({"messages": user("x") * 1025}, ["messages"]),
    "empty prompt": ({"messages": user("")}, ["messages[0]"]),
    "oversized prompt": ({"messages": user("x" * 10_001)}, ["messages[0].content"]),
    "a pile of marks": ({"messages": user("a" + "\u0301" * 31)}, ["messages[0].content"]),
    "no role": ({"messages": [pb.Message(content="x")]}, ["messages[0].role"]),
    "hot": ({"options": pb.Options(temperature=1.5)}, ["options.temperature"]),
    "hotter than the protocol allows": ({"options": pb.Options(temperature=3)}, ["options.temperature"]),
    "NaN": ({"options": pb.Options(temperature=float("nan"))}, ["options.temperature"]),
    "infinite": ({"options": pb.Options(top_p=float("inf"))}, ["options.top_p"]),
    "endless": ({"options": pb.Options(output_token_count_max=9000)}, ["options.output_token_count_max"]),
    "a path for a model": ({"model": "../../etc/passwd"}, ["model"]),
    "no model": ({"model": ""}, ["model"]),
    "no JSON": ({"format": pb.OutputFormat(json_schema="{{")}, ["format.json_schema"]),
    "several at once": (
        {"messages": user("x" * 10_001), "options": pb.Options(temperature=1.5)},
        ["messages[0].content", "options.temperature"],
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_request_is_told_which_fields(wrong: str) -> None:
    request, fields = WRONG[wrong]
    async with one_instance() as (service, backend):
        answer = await refused(service.chat(**request))
        assert backend.idle()
    assert (answer.code, answer.reason) == (Code.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert answer.fields == fields


async def test_bytes_that_are_no_text_are_refused() -> None:
    async with one_instance() as (service, _):
        chat: Any = service.channel.unary_stream("/ollamesh.inference.v1.InferenceService/Chat")
        metadata = (("authorization", f"Bearer {service.identity.token()}"),)
        answer = await refused(chat(b"\x12\x02\xff\xff", timeout=20, metadata=metadata))
    assert (answer.code, answer.reason) == (Code.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_an_unknown_model_is_refused_even_when_the_queue_is_long() -> None:
    async with one_instance(instance_slots=1) as (service, backend):
        service.chat()
        await backend.asked()
        await until_event(service.chat(), "queued")
        answer = await refused(service.chat(model="huge"))
    assert (answer.code, answer.reason) == (Code.NOT_FOUND, "MODEL_NOT_FOUND")
    assert answer.facts == {"model": "huge"}


async def test_a_model_that_cannot_is_refused() -> None:
    async with Backend("mini").serving() as backend:
        backend.models[0]["capabilities"] = ["embedding"]
        async with serving(backend.url) as service:
            answer = await refused(service.chat(model="mini"))
    assert (answer.code, answer.reason) == (Code.INVALID_ARGUMENT, "MODEL_UNSUITABLE")
    assert answer.facts == {"model": "mini", "capability": "completion"}


async def test_a_larger_context_is_refused_with_both_numbers() -> None:
    async with one_instance(context_tokens=2048) as (service, backend):
        answer = await refused(service.chat(options=pb.Options(context_token_count=4096)))
        service.chat(options=pb.Options(context_token_count=1024))
        assert (await backend.asked()).body["options"]["num_ctx"] == 2048
    assert (answer.code, answer.reason) == (Code.INVALID_ARGUMENT, "CONTEXT_TOO_LARGE")
    assert answer.facts == {"asked_token_count": "4096", "allowed_token_count": "2048"}


async def test_nobody_without_a_token_gets_anything() -> None:
    async with one_instance() as (service, backend):
        request = pb.ChatRequest(model="tiny", messages=user("x"))
        token = service.identity.token(aud=["sandbox"])
        for metadata in ((), (("authorization", f"Bearer {token}"),)):
            call: Any = service.stub.Chat(request, timeout=20, metadata=metadata)
            answer = await refused(call)
            assert (answer.code, answer.reason) == (Code.UNAUTHENTICATED, "TOKEN_INVALID")
        assert backend.idle()


# Waiting


async def test_a_full_queue_refuses_with_a_delay() -> None:
    async with one_instance(instance_slots=1, queue_max=1) as (service, backend):
        service.chat()
        await backend.asked()
        await until_event(service.chat(), "queued")
        answer = await refused(service.chat())
    assert (answer.code, answer.reason) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert answer.facts == {"waiting_max": "1"}
    assert answer.retry_after_ms is not None
    assert answer.retry_after_ms >= 1000


async def test_who_waited_too_long_is_told_that_nothing_happened() -> None:
    async with one_instance(instance_slots=1, timeout_min_s=0) as (service, backend):
        service.chat()
        await backend.asked()
        request = pb.ChatRequest(model="tiny", messages=user("x"))
        request.queue_timeout.FromMilliseconds(30)
        answer = await refused(service.call("Chat", request))
        assert backend.idle()
        await service.until_fleet(lambda fleet: not fleet.queues)
    assert (answer.code, answer.reason) == (Code.DEADLINE_EXCEEDED, "QUEUE_TIMEOUT")


# Instances that fail


def says_nothing_of_the_backend(answer: Refusal) -> bool:
    said = f"{answer.message} {answer.facts}"
    return not any(word in said for word in ("CUDA", "/usr/lib", "llama", "busy", "JSON", "Errno"))


@pytest.mark.parametrize("way", CUTS)
async def test_an_answer_cut_short_says_how_far_it_came(way: str) -> None:
    async with one_instance() as (service, backend):
        call = service.chat()
        exchange = await backend.asked()
        exchange.token("a")
        events = [await next_event(call) for _ in range(3)]
        CUTS[way](exchange)
        answer = await refused(call)
        await service.until_idle()
    assert grammar(events) == "OSD"
    assert (answer.code, answer.reason) == (Code.ABORTED, "INSTANCE_LOST")
    assert answer.facts == {"stream_id": events[0].opened.stream_id, "last_sequence": "3"}
    assert says_nothing_of_the_backend(answer)


@pytest.mark.parametrize("way", REFUSALS)
async def test_a_failure_before_the_first_token_without_another_instance(way: str) -> None:
    async with one_instance() as (service, backend):
        async with failing(backend, way):
            answer = await refused(service.chat())
        await service.until_idle()
    assert (answer.code, answer.reason) == (Code.UNAVAILABLE, "INSTANCE_FAILED")
    assert (answer.facts, answer.retry_after_ms) == ({"instance": backend.name}, 1000)
    assert says_nothing_of_the_backend(answer)


@pytest.mark.parametrize("way", REFUSALS)
async def test_a_failure_before_the_first_token_is_repeated_elsewhere(way: str) -> None:
    async with (
        Backend("tiny", residents=("tiny",)).serving() as preferred,
        Backend("tiny").serving() as other,
        serving(preferred.url, other.url) as service,
    ):
        call = service.chat()
        async with failing(preferred, way):
            exchange = await other.asked()
        exchange.token("a")
        exchange.done()
        events = await events_of(call)
        await service.until_idle()
    assert grammar(events).replace("Q", "") == "OSDF"
    (started,) = [event.started for event in events if event.HasField("started")]
    assert started.instance == other.name


async def test_a_request_is_repeated_once() -> None:
    async with (
        Backend("tiny").serving() as one,
        Backend("tiny").serving() as two,
        Backend("tiny").serving() as three,
        serving(one.url, two.url, three.url) as service,
    ):
        backends = {one, two, three}
        call = service.chat()
        for _ in range(2):
            asked = {asyncio.create_task(backend.asked()): backend for backend in backends}
            (done,), rest = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            for task in rest:
                task.cancel()
            done.result().fail(500)
            backends.remove(asked[done])
        answer = await refused(call)
        assert all(backend.idle() for backend in backends)
    assert answer.reason == "INSTANCE_FAILED"


async def test_after_the_first_token_nobody_starts_over() -> None:
    async with (
        Backend("tiny", residents=("tiny",)).serving() as preferred,
        Backend("tiny").serving() as other,
        serving(preferred.url, other.url) as service,
    ):
        call = service.chat()
        exchange = await preferred.asked()
        exchange.token("a")
        exchange.cut()
        assert (await refused(call)).reason == "INSTANCE_LOST"
        assert other.idle()


async def test_an_instance_that_falls_silent_is_given_up() -> None:
    async with one_instance(stall_timeout_s=0.05) as (service, backend):
        call = service.chat()
        exchange = await backend.asked()
        exchange.token("a")
        answer = await refused(call)
        await asyncio.wait_for(exchange.gone.wait(), WITHIN_S)
        await service.until_idle()
    assert (answer.code, answer.reason) == (Code.ABORTED, "STREAM_STALLED")
    assert answer.facts["last_sequence"] == "3"


async def test_loading_may_take_longer_than_a_stall_but_not_for_ever() -> None:
    async with one_instance(stall_timeout_s=0.05, first_token_timeout_s=0.4) as (service, backend):
        patient = service.chat()
        exchange = await backend.asked()
        await asyncio.sleep(0.15)  # Three stalls, and the model is still loading.
        exchange.token("a")
        exchange.done()
        assert grammar(await events_of(patient)) == "OSDF"
        call = service.chat()
        exchange = await backend.asked()
        answer = await refused(call)
        await asyncio.wait_for(exchange.gone.wait(), WITHIN_S)
    assert (answer.code, answer.reason) == (Code.UNAVAILABLE, "INSTANCE_FAILED")


@pytest.mark.parametrize(
    ("status", "error", "code", "reason"),
    [
        (404, "model 'tiny' not found", Code.NOT_FOUND, "MODEL_NOT_FOUND"),
        (400, '"tiny" does not support thinking', Code.INVALID_ARGUMENT, "MODEL_UNSUITABLE"),
        (400, "invalid format: /usr/lib", Code.INVALID_ARGUMENT, "INVALID_REQUEST"),
    ],
)
async def test_what_an_instance_refuses_is_the_requests_fault(
    status: int, error: str, code: grpc.StatusCode, reason: str
) -> None:
    async with one_instance() as (service, backend):
        call = service.chat()
        (await backend.asked()).fail(status, error)
        answer = await refused(call)
        embedding = service.call("Embed", EmbedRequest(model="tiny", input=["x"]))
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(refused(embedding))
        (await backend.asked()).fail(status, error)
        assert (await waiting).reason == reason
        await service.until_idle()
    assert (answer.code, answer.reason) == (code, reason)
    assert says_nothing_of_the_backend(answer)


async def test_a_connection_that_its_server_closed_is_replaced_unseen() -> None:
    async with one_instance(poll_every_s=60) as (service, backend):
        for _ in range(3):
            call = service.chat()
            (await backend.asked()).done()
            assert grammar(await events_of(call)) == "OSF"
            backend.drop_connections()
    assert backend.connection_count >= 3


async def test_an_instance_that_broke_a_connection_is_looked_at_again_at_once() -> None:
    async with one_instance(poll_every_s=60) as (service, backend):
        call = service.chat()
        exchange = await backend.asked()
        exchange.token("a")
        exchange.cut()
        assert (await refused(call)).reason == "INSTANCE_LOST"
        await service.until_ready(1)


async def test_a_connection_that_breaks_as_it_is_used_again_is_replaced_unseen() -> None:
    async with one_instance(poll_every_s=60) as (service, backend):
        call = service.chat()
        (await backend.asked()).cut()
        (await backend.asked()).done()
        assert grammar(await events_of(call)) == "OSF"


async def test_connections_are_kept_and_used_again() -> None:
    async with one_instance(poll_every_s=60) as (service, backend):
        before = backend.connection_count
        for _ in range(10):
            call = service.chat()
            (await backend.asked()).done()
            await events_of(call)
            await service.until_idle()
    assert backend.connection_count - before <= 1


async def test_a_server_that_does_not_end_its_answer_costs_its_connection_not_the_answer() -> None:
    async with one_instance(instance_slots=1) as (service, backend):
        call = service.chat()
        exchange = await backend.asked()
        exchange.line(message={"content": "a"}, done=True)
        assert grammar(await events_of(call)) == "OSDF"
        await asyncio.wait_for(exchange.gone.wait(), WITHIN_S)
        await service.until_idle()
