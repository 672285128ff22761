"""Ollama's API, as its unmodified clients see it, kept alike by the suite's fake and the embedded runtime.

Nothing here knows what the model says, only what every Ollama does with it; so other tests may trust the
fake, and the inference service may know Ollama alone.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import httpx
import ollama
import pytest

from tests.contract.ollama_servers import CHAT, EMBEDDING, HELLO, SHORT, eventually, resident

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            # Free text might use up all tokens before the call is whole.
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_says_that_it_runs(http: httpx.Client) -> None:
    assert http.get("/").text == "Ollama is running"
    assert http.head("/").status_code == 200
    assert http.head("/api/tags").status_code == 200
    assert isinstance(http.get("/api/version").json()["version"], str)


def test_lists_and_shows_its_models(client: ollama.Client) -> None:
    listed = {model.model: model for model in client.list().models}
    assert {"smollm2:135m", "all-minilm:latest"} <= listed.keys()
    for model in listed.values():
        assert model.size
        assert model.digest
        assert len(model.digest) == 64
        assert model.modified_at
        assert model.details
        assert model.details.format == "gguf"
        assert model.details.quantization_level
    assert client.show(CHAT).capabilities == ["completion", "tools"]
    assert client.show(EMBEDDING).capabilities == ["embedding"]
    shown = client.show("smollm2")  # The tag `latest` goes without saying.
    assert shown.modelinfo
    assert "general.architecture" in shown.modelinfo


def test_a_stream_is_pieces_then_exactly_one_end(http: httpx.Client) -> None:
    with http.stream("POST", "/api/chat", json={"model": CHAT, "messages": HELLO, "options": SHORT}) as reply:
        assert reply.headers["content-type"] == "application/x-ndjson"
        objects = [json.loads(line) for line in reply.iter_lines()]
    *pieces, end = objects
    assert len(pieces) > 2
    assert all(not piece["done"] and piece["message"]["role"] == "assistant" for piece in pieces)
    assert all(piece["message"]["content"] and piece["model"] == CHAT for piece in pieces)
    assert end["done"]
    assert end["done_reason"] == "length"
    assert end["message"]["content"] == ""
    assert end["eval_count"] == 8
    assert end["prompt_eval_count"] > 8
    assert end["eval_duration"] > 0
    assert end["prompt_eval_duration"] > 0
    assert end["total_duration"] >= end["load_duration"] > 0


def test_streamed_or_not_the_text_is_the_same(client: ollama.Client) -> None:
    whole = client.chat(CHAT, HELLO, options=SHORT)
    pieces = list(client.chat(CHAT, HELLO, options=SHORT, stream=True))
    assert whole.message.content == "".join(piece.message.content or "" for piece in pieces) != ""
    assert whole.done
    assert whole.eval_count == pieces[-1].eval_count


def test_generate_is_chat_with_one_message(client: ollama.Client) -> None:
    reply = client.generate(CHAT, HELLO[0]["content"], system="Be kind.", options=SHORT)
    assert reply.response
    assert reply.done
    assert reply.done_reason == "length"
    assert reply.eval_count == 8


def test_raw_prompts_get_no_template_and_no_context(client: ollama.Client) -> None:
    templated = client.generate(CHAT, "The capital of France is", options=SHORT)
    raw = client.generate(CHAT, "The capital of France is", raw=True, options=SHORT)
    assert raw.response
    assert raw.eval_count == 8
    assert not raw.context
    assert (raw.prompt_eval_count or 0) <= (templated.prompt_eval_count or 0)


def test_a_context_carries_the_conversation_on(client: ollama.Client) -> None:
    first = client.generate(CHAT, "My name is Ada.", options=SHORT)
    assert first.context
    assert all(isinstance(token, int) for token in first.context)
    second = client.generate(CHAT, "What is my name?", context=first.context, options=SHORT)
    assert (second.prompt_eval_count or 0) > len(first.context)


def test_the_same_seed_gives_the_same_text(client: ollama.Client) -> None:
    warm = {**SHORT, "temperature": 0.9}
    texts = {client.chat(CHAT, HELLO, options=warm).message.content for _ in range(2)}
    assert len(texts) == 1


def test_stop_words_and_unknown_options_are_taken(http: httpx.Client) -> None:
    body = {"model": CHAT, "messages": HELLO, "options": {**SHORT, "stop": ["zzz"], "no_such_option": {}}}
    assert http.post("/api/chat", json={**body, "stream": False}).json()["done"]


def test_an_empty_request_loads_and_keep_alive_zero_unloads(http: httpx.Client) -> None:
    loaded = http.post("/api/generate", json={"model": CHAT}).json()
    assert (loaded["done"], loaded["done_reason"], loaded["response"]) == (True, "load", "")
    assert resident(http)["context_length"] == 4096
    unloaded = http.post("/api/chat", json={"model": CHAT, "messages": [], "keep_alive": 0}).json()
    assert (unloaded["done"], unloaded["done_reason"]) == (True, "unload")
    assert resident(http) == {}


def test_keep_alive_is_a_deadline_that_holds(http: httpx.Client) -> None:
    http.post("/api/generate", json={"model": EMBEDDING, "keep_alive": -1})
    http.post("/api/embed", json={"model": EMBEDDING, "keep_alive": -1})
    assert resident(http, "all-minilm:latest")["expires_at"] > "2200"
    http.post("/api/embed", json={"model": EMBEDDING, "keep_alive": "200ms"})
    eventually(lambda: resident(http, "all-minilm:latest") == {})


def test_another_context_length_reloads(http: httpx.Client) -> None:
    for wanted in (2048, 4096):
        http.post("/api/generate", json={"model": CHAT, "options": {"num_ctx": wanted}})
        assert resident(http)["context_length"] == wanted


def test_a_schema_is_kept(client: ollama.Client) -> None:
    options = {"temperature": 0, "num_predict": 60}
    ask = [{"role": "user", "content": "Invent a person."}]
    reply = client.chat(CHAT, ask, format=PERSON, options=options)
    person = json.loads(reply.message.content or "")
    assert person.keys() == {"name", "age"}
    assert isinstance(person["age"], int)
    again = client.generate(CHAT, "Invent a person.", format=PERSON, options=options)
    assert json.loads(again.response or "").keys() == {"name", "age"}
    anything = client.chat(CHAT, ask, format="json", stream=True, options={**options, "num_predict": 3})
    assert "".join(piece.message.content or "" for piece in anything).lstrip().startswith("{")


def test_a_tool_is_called_and_its_answer_is_answered(client: ollama.Client) -> None:
    asked: list[Any] = [{"role": "user", "content": "How is the weather in Paris?"}]
    options = {"temperature": 0, "num_predict": 60}
    called = client.chat(CHAT, asked, tools=[WEATHER], options=options)
    (call,) = called.message.tool_calls or []
    assert call.function.name == "get_weather"
    assert call.function.arguments.keys() == {"city"}
    assert called.message.content == ""
    *pieces, end = client.chat(CHAT, asked, tools=[WEATHER], options=options, stream=True)
    assert pieces == []
    assert end.done
    assert end.message.tool_calls
    asked += [called.message, {"role": "tool", "tool_name": "get_weather", "content": "11 degrees, rain"}]
    answered = client.chat(CHAT, asked, tools=[WEATHER], options=options)
    assert answered.message.content
    assert not answered.message.tool_calls


def test_the_call_names_one_of_several_tools(http: httpx.Client) -> None:
    other = json.loads(json.dumps(WEATHER).replace("get_weather", "get_time"))
    body = {"model": CHAT, "messages": HELLO, "tools": [WEATHER, other], "stream": False}
    message = http.post("/api/chat", json={**body, "options": {"num_predict": 80}}).json()["message"]
    (call,) = message["tool_calls"]
    assert call["function"]["name"] in {"get_weather", "get_time"}
    assert call["function"]["index"] == 0
    assert isinstance(call["function"]["arguments"], dict)
    assert call["id"].startswith("call_")


def test_embeddings_are_unit_vectors_in_order(client: ollama.Client) -> None:
    texts = ["the cat sat", "interest rates rose", "the cat sat"]
    reply = client.embed(EMBEDDING, texts)
    first, second, third = reply.embeddings
    assert len(first) == 384
    assert reply.prompt_eval_count
    assert reply.total_duration
    assert all(math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-6) for vector in reply.embeddings)
    assert _dot(first, third) > 0.999
    assert _dot(first, second) < 0.6
    assert client.embed(EMBEDDING, texts[0]).embeddings[0] == pytest.approx(first, abs=1e-3)
    (short,) = client.embed(EMBEDDING, texts[0], dimensions=64).embeddings
    assert len(short) == 64
    assert math.isclose(math.hypot(*short), 1.0, abs_tol=1e-6)
    assert len(client.embeddings(EMBEDDING, texts[0]).embedding) == 384


def test_nothing_to_embed_is_no_error(http: httpx.Client) -> None:
    nothings: list[object] = [[], "", None]
    for nothing in nothings:
        reply = http.post("/api/embed", json={"model": EMBEDDING, "input": nothing}).json()
        assert reply == {"model": EMBEDDING, "embeddings": []}
    assert http.post("/api/embeddings", json={"model": EMBEDDING}).json() == {"embedding": []}


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))
