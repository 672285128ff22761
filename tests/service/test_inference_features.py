"""What users know of Ollama reaches Ollama, and what it answers comes back, byte for byte over real sockets;
beside it what policy and configuration make of a request, and the adapter's loads, unloads and probes.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from ollamesh.inference.v1 import completion_pb2 as pb
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest
from ollamesh.inference.v1.model_pb2 import GetModelRequest, ListModelsRequest

from services.common.grpc.client import bearer
from services.inference.adapters import ollama
from services.inference.adapters.ollama import Ollama, Timeouts
from services.inference.core.endpoints import parse_endpoint
from services.inference.ports import Fault, Trouble
from tests.service.inference_app import Call, Service, events_of, grammar, refused, serving
from tests.service.inference_backend import Backend, Exchange

RUNNER = {"num_ctx": 4096, "num_gpu": 99}


@asynccontextmanager
async def adapter(backend: Backend, **timeouts_s: float) -> AsyncIterator[Ollama]:
    endpoint = parse_endpoint(backend.url)
    assert endpoint is not None
    limits = {"connect_s": 5.0, "first_token_s": 20.0, "load_s": 20.0, "stall_s": 20.0, "listing_s": 20.0}
    timeouts = Timeouts(**limits | timeouts_s)
    async with Ollama.opened(endpoint, timeouts=timeouts, connections_max=4, api_key=None) as made:
        yield made


@asynccontextmanager
async def one_instance(*models: str, **settings: object) -> AsyncIterator[tuple[Service, Backend]]:
    """The service over one instance that has `models`, or `tiny:latest`, in memory."""
    names = models or ("tiny:latest",)
    async with (
        Backend(*names, residents=names).serving() as backend,
        serving(backend.url, **settings) as service,
    ):
        yield service, backend


async def answered(call: Call, backend: Backend, **last: Any) -> tuple[Exchange, list[pb.CompletionEvent]]:
    """Answer the one request that `call` becomes with one token; return it, and what the caller got."""
    asked = await backend.asked()
    asked.token("a")
    asked.done(**last)
    return asked, await events_of(call)


# Names


async def test_every_spelling_of_a_model_is_the_one_that_the_instance_has() -> None:
    spellings = ("mistral", "mistral:latest", "registry.ollama.ai/library/mistral:latest", "library/Mistral")
    async with one_instance("mistral:latest") as (service, backend):
        for spelling in spellings:
            asked, events = await answered(service.chat(model=spelling), backend)
            assert asked.body["model"] == "mistral:latest"
            assert [event.started.model for event in events if event.HasField("started")] == [
                "mistral:latest"
            ]
            described = asyncio.create_task(_model(service, spelling))
            (shown := await backend.asked()).reply({})
            assert (shown.path, await described) == ("/api/show", "mistral:latest")


async def _model(service: Service, name: str) -> str:
    response = await service.call("GetModel", GetModelRequest(model=name))
    return str(response.model.name)


# Chat


async def test_all_that_a_chat_can_say_reaches_ollama() -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    tool = pb.Tool(name="look", description="Looks.", parameters_json_schema='{"type":"object"}')
    async with one_instance() as (service, backend):
        call = service.chat(
            messages=[
                pb.Message(role=pb.ROLE_SYSTEM, content="Be brief."),
                pb.Message(role=pb.ROLE_USER, content="Who is this?", images=[b"\x89PNG", b"\xff\xd8"]),
            ],
            tools=[tool],
            format=pb.OutputFormat(json_schema=json.dumps(schema)),
            thinking=pb.THINKING_HIGH,
            options=pb.Options(seed=7, temperature=0, stop=["\n", "END"], output_token_count_max=9, top_k=5),
            logprobs=True,
            top_logprobs=2,
        )
        asked, events = await answered(call, backend)
    function = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}
    assert asked.body == {
        "model": "tiny:latest",
        "stream": True,
        "keep_alive": 300,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who is this?", "images": ["iVBORw==", "/9g="]},
        ],
        "tools": [{"type": "function", "function": function}],
        "format": schema,
        "think": "high",
        "options": {"temperature": 0, "top_k": 5, "seed": 7, "num_predict": 9, "stop": ["\n", "END"]},
        "logprobs": True,
        "top_logprobs": 2,
    }
    assert grammar(events) == "OSDF"


async def test_any_json_is_a_format_too() -> None:
    async with one_instance() as (service, backend):
        asked, _ = await answered(service.chat(format=pb.OutputFormat(json=True)), backend)
    assert asked.body["format"] == "json"


async def test_thoughts_and_tool_calls_come_back() -> None:
    async with one_instance() as (service, backend):
        call = service.chat(thinking=pb.THINKING_ON)
        asked = await backend.asked()
        asked.line(message={"role": "assistant", "content": "", "thinking": "Hm."}, done=False)
        calls = [{"id": "c1", "function": {"index": 0, "name": "look", "arguments": {"at": [1, 2.5]}}}]
        asked.line(message={"role": "assistant", "content": "", "tool_calls": calls}, done=True)
        asked.end()
        events = await events_of(call)
    deltas = [event.delta for event in events if event.HasField("delta")]
    assert "".join(delta.thinking for delta in deltas) == "Hm."
    (look,) = [one for delta in deltas for one in delta.tool_calls]
    assert (look.id, look.name, json.loads(look.arguments_json)) == ("c1", "look", {"at": [1, 2.5]})
    assert events[-1].finished.reason == pb.FINISH_REASON_TOOL_CALLS


async def test_probabilities_come_with_their_tokens() -> None:
    top = [{"token": "a", "logprob": -0.1, "bytes": [97]}, {"token": "b", "logprob": -2.5, "bytes": [98]}]
    told = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": top}
    async with one_instance() as (service, backend):
        for request, start in (
            (pb.GenerateRequest(model="tiny", prompt="x", logprobs=True, top_logprobs=2), "Generate"),
            (_chat(logprobs=True, top_logprobs=2), "Chat"),
        ):
            call = service.call(start, request)
            asked = await backend.asked()
            body = {"response": "a"} if start == "Generate" else {"message": {"content": "a"}}
            asked.line(**body, logprobs=[told], done=False)
            asked.done()
            (delta,) = [event.delta for event in await events_of(call) if event.HasField("delta")]
            (one,) = delta.logprobs
            assert (one.token, one.logprob, one.token_bytes) == ("a", -0.1, b"a")
            assert [(other.token, other.logprob) for other in one.top] == [("a", -0.1), ("b", -2.5)]


async def test_an_instance_that_tells_no_probabilities_is_no_failure() -> None:
    async with one_instance() as (service, backend):
        _, events = await answered(service.chat(logprobs=True), backend)
        assert grammar(events) == "OSDF"
        assert not any(event.delta.logprobs for event in events)
        answer = await refused(service.chat(top_logprobs=2))
        assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


# Generate


@pytest.mark.parametrize(
    ("asked_for", "sent"),
    [
        ({"raw": True, "suffix": "}"}, {"raw": True, "suffix": "}"}),
        ({"system": "Be brief.", "context": [1, 2, 3]}, {"system": "Be brief.", "context": [1, 2, 3]}),
        ({"images": [b"png"]}, {"images": ["cG5n"]}),
        ({"thinking": pb.THINKING_OFF}, {"think": False}),
        ({"format": pb.OutputFormat(json=True)}, {"format": "json"}),
    ],
)
async def test_all_that_generate_can_say_reaches_ollama(
    asked_for: dict[str, Any], sent: dict[str, object]
) -> None:
    async with one_instance() as (service, backend):
        call = service.call("Generate", pb.GenerateRequest(model="tiny", prompt="{", **asked_for))
        asked, events = await answered(call, backend, context=[4, 5])
    usual = {"model": "tiny:latest", "stream": True, "keep_alive": 300, "options": {"num_predict": 8192}}
    assert (asked.path, asked.body) == ("/api/generate", {**usual, "prompt": "{", **sent})
    assert grammar(events) == "OSDF"
    assert list(events[-1].finished.context) == [4, 5]


# Embed


async def test_texts_are_embedded_together_and_in_order() -> None:
    async with one_instance() as (service, backend):
        call = service.call(
            "Embed", EmbedRequest(model="tiny", input=["a", "b"], truncate=False, dimension_count=2)
        )
        asked = await backend.asked()
        asked.reply({"embeddings": [[0.6, 0.8], [1.0, 0.0]], "prompt_eval_count": 2})
        response = await call
    assert asked.body == {
        "model": "tiny:latest",
        "input": ["a", "b"],
        "truncate": False,
        "dimensions": 2,
        "options": {},
        "keep_alive": 300,
    }
    assert [list(vector.values) for vector in response.embeddings] == [
        pytest.approx([0.6, 0.8]),
        pytest.approx([1.0, 0.0]),
    ]
    assert response.usage.prompt_token_count == 2


async def test_a_text_that_is_too_long_is_cut_unless_that_is_forbidden() -> None:
    async with one_instance() as (service, backend):
        call = service.call("Embed", EmbedRequest(model="tiny", input=["a"]))
        asked = await backend.asked()
        asked.reply({"embeddings": [[1.0]]})
        await call
        assert asked.body["truncate"] is True
        call = service.call("Embed", EmbedRequest(model="tiny", input=["a"], truncate=False))
        (await backend.asked()).fail(400, "the input length exceeds the context length")
        answer = await refused(call)
    assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


# What configuration and policy say


async def test_every_request_of_a_model_carries_that_models_runner_options() -> None:
    models = {"tiny": {"context_tokens": 2048, "runner": {"num_gpu": 99}}, "mini": {"keep_alive_s": 7200}}
    backend = Backend("tiny:latest", "mini:latest", residents=("tiny:latest", "mini:latest"))
    backend.residents[0]["context_length"] = 2048  # With any other it would be loaded anew.
    async with (
        backend.serving(),
        serving(backend.url, models=json.dumps(models), context_tokens=4096) as service,
    ):
        tiny, mini = {"num_ctx": 2048, "num_gpu": 99}, {"num_ctx": 4096}
        for name, runner, keep_alive in (("tiny", tiny, 300), ("mini", mini, 7200)):
            predict = {"num_predict": 8192}
            asked, _ = await answered(service.chat(model=name), backend)
            assert (asked.body["options"], asked.body["keep_alive"]) == ({**predict, **runner}, keep_alive)
            call = service.call("Generate", pb.GenerateRequest(model=name, prompt="x"))
            asked, _ = await answered(call, backend)
            assert (asked.body["options"], asked.body["keep_alive"]) == ({**predict, **runner}, keep_alive)
            embedding = service.call("Embed", EmbedRequest(model=name, input=["x"]))
            (embed := await backend.asked()).reply({"embeddings": [[1.0]]})
            await embedding
            assert (embed.body["options"], embed.body["keep_alive"]) == (runner, keep_alive)
        listed = await service.call("ListModels", ListModelsRequest())
        assert {model.name: model.context_token_count for model in listed.models} == {
            "tiny:latest": 2048,
            "mini:latest": 4096,
        }
        asked, _ = await answered(service.chat(options=pb.Options(context_token_count=2000)), backend)
        assert asked.body["options"]["num_ctx"] == 2048
        answer = await refused(service.chat(options=pb.Options(context_token_count=2049)))
        assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_TOO_LARGE")
        assert answer.facts == {"asked_token_count": "2049", "allowed_token_count": "2048"}


@pytest.mark.parametrize(("hint_s", "sent_s"), [(0, 60), (120, 120), (90_000, 3600), (-1, 3600)])
async def test_how_long_to_keep_a_model_is_a_hint_that_cannot_hurt_others(hint_s: int, sent_s: int) -> None:
    async with one_instance() as (service, backend):
        request = _chat()
        request.keep_alive.FromSeconds(hint_s)
        asked, _ = await answered(service.call("Chat", request), backend)
        embed = EmbedRequest(model="tiny", input=["x"])
        embed.keep_alive.FromSeconds(hint_s)
        call = service.call("Embed", embed)
        (vectors := await backend.asked()).reply({"embeddings": [[1.0]]})
        await call
    assert (asked.body["keep_alive"], vectors.body["keep_alive"]) == (sent_s, sent_s)


async def test_a_role_may_do_more_than_others() -> None:
    policy = '{"admin": {"temperature_max": 2, "prompt_code_points_max": 20000}}'
    async with one_instance(policy=policy) as (service, backend):
        request = _chat("x" * 15_000, options=pb.Options(temperature=1.5))
        answer = await refused(service.call("Chat", request))
        assert answer.fields == ["messages[0].content", "options.temperature"]
        admin = bearer(service.identity.token(role="admin"))
        call = service.stub.Chat(request, timeout=20, metadata=admin)
        asked, _ = await answered(call, backend)  # type: ignore[arg-type]
    assert asked.body["options"]["temperature"] == 1.5


async def test_a_timeout_that_asks_for_a_refusal_is_refused() -> None:
    async with one_instance() as (service, backend):
        request = _chat()
        request.queue_timeout.FromMilliseconds(4900)
        answer = await refused(service.call("Chat", request))
        assert (answer.code, answer.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["queue_timeout"])
        call = service.chat(timeout_s=4.9)  # What is left of a caller's own deadline may be any.
        await answered(call, backend)


async def test_policy_says_how_long_an_answer_may_take_whatever_the_deadline() -> None:
    async with one_instance(timeout_min_s=0, timeout_max_s=0.3) as (service, backend):
        call = service.chat()
        asked = await backend.asked()
        asked.token("a")
        answer = await refused(call)
        await asked.gone.wait()
        await service.until_idle()
    assert (answer.code, answer.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "TIME_EXCEEDED")
    assert answer.facts["last_sequence"] == "3"


def _chat(text: str = "hello", **more: Any) -> pb.ChatRequest:
    return pb.ChatRequest(model="tiny", messages=[pb.Message(role=pb.ROLE_USER, content=text)], **more)


# Loads, unloads, probes


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


@pytest.mark.parametrize("embeds", [False, True])
async def test_an_unload_is_over_when_the_instance_lists_the_model_no_more(*, embeds: bool) -> None:
    async with (
        Backend("tiny:latest", residents=("tiny:latest", "other:latest")).serving() as backend,
        adapter(backend) as instance,
    ):
        unloading = asyncio.create_task(instance.unload("tiny", embeds=embeds))
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
        unloading = asyncio.create_task(instance.unload("tiny:latest", embeds=False))
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
