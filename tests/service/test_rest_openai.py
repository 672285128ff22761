"""OpenAI's API through the edge: bytes, statuses, what is refused and what is ignored."""

import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes.fake_ollama import Call, FakeOllama, Think
from tests.service.rest_app import Rest, one_fake

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT, TEXT, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
HELLO = [{"role": "user", "content": "hello big world"}]
FUNCTION = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}
OTHER = {"type": "function", "function": {"name": "other"}}
PIXEL = base64.b64encode(b"\x89PNG").decode()
Place = tuple[Rest, FakeOllama]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncIterator[Place]:
    async with one_fake() as found:
        yield found


async def test_a_whole_answer(place: Place) -> None:
    rest, fake = place
    answer = await rest.post(CHAT, {"model": "tiny", "messages": HELLO})
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    digest = next(model.card.digest for model in fake.loaded if model.card.name == "tiny:latest")
    body = answer.json
    assert body == {
        "id": f"chatcmpl-{answer.headers['x-ollamesh-stream']}",
        "object": "chat.completion",
        "created": body["created"],
        "model": "tiny",
        "system_fingerprint": f"fp_{digest[:10]}",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello big world", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
    }
    assert isinstance(body["created"], int)


async def test_a_stream(place: Place) -> None:
    rest, _ = place
    answer = await rest.post(CHAT, {"model": "tiny", "messages": HELLO, "stream": True})
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
    first, *pieces, last = answer.events
    common = {key: first[key] for key in ("id", "object", "created", "model", "system_fingerprint")}
    assert common["object"] == "chat.completion.chunk"
    assert all({**common, "choices": chunk["choices"]} == chunk for chunk in answer.events)
    (opening,) = first["choices"]
    assert opening == {
        "index": 0,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in pieces) == "hello big world"
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]


async def test_usage_comes_last_if_it_is_asked_for(place: Place) -> None:
    rest, _ = place
    asked = {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 2}
    for path, body in ((CHAT, {"messages": HELLO}), (TEXT, {"prompt": "hello big world"})):
        *others, last = (await rest.post(path, {**asked, **body})).events
        assert all(chunk["usage"] is None for chunk in others)
        assert others[-1]["choices"][0]["finish_reason"] == "length"
        assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 2)


async def test_tools_are_called_and_answered(place: Place) -> None:
    rest, fake = place
    script = (Think("Hm."), Call("look", {"at": 1}), Call("look", {"at": 2}))
    fake.script(*script)
    body = {"model": "tiny", "messages": HELLO, "tools": [TOOL]}
    (choice,) = (await rest.post(CHAT, body)).json["choices"]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert (message["content"], message["reasoning"]) == (None, "Hm.")
    first, second = message["tool_calls"]
    assert first["type"] == "function"
    assert first["function"] == {"name": "look", "arguments": '{"at":1}'}
    assert first["id"] != second["id"]

    fake.script(*script)
    chunks = (await rest.post(CHAT, {**body, "stream": True})).events
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert [(call["index"], call["function"]["arguments"]) for call in calls] == [
        (0, '{"at":1}'),
        (1, '{"at":2}'),
    ]
    assert "".join(chunk["choices"][0]["delta"].get("reasoning", "") for chunk in chunks) == "Hm."
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"

    result = {"role": "tool", "content": "one", "tool_call_id": first["id"]}
    asked = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [first]}, result]
    await rest.post(CHAT, {**body, "messages": asked})
    sent = fake.asked("/api/chat")[-1].body["messages"]
    assert isinstance(sent, list)
    assert sent[1]["tool_calls"] == [
        {"id": first["id"], "function": {"name": "look", "arguments": {"at": 1}}}
    ]
    assert sent[2] == {**result, "tool_name": "look"}


@pytest.mark.parametrize(
    ("choice", "offered"),
    [
        ("none", None),
        ("auto", ["look", "other"]),
        ("required", ["look", "other"]),
        ({"type": "function", "function": {"name": "other"}}, ["other"]),
    ],
)
async def test_the_choice_of_a_tool_is_what_is_offered(
    place: Place, choice: object, offered: list[str] | None
) -> None:
    rest, fake = place
    asked = {"model": "tiny", "messages": HELLO, "tools": [TOOL, OTHER], "tool_choice": choice}
    assert (await rest.post(CHAT, asked)).status == 200
    sent: Any = fake.asked("/api/chat")[-1].body.get("tools")
    assert (sent and [tool["function"]["name"] for tool in sent]) == offered


async def test_all_that_a_chat_can_say_reaches_the_instance(place: Place) -> None:
    rest, fake = place
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
    answer = await rest.post(
        CHAT,
        {
            "model": "tiny",
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": ""},
                {"role": "user", "content": "c", "name": "ann"},
            ],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": schema, "strict": True},
            },
            "reasoning_effort": "none",
            "temperature": 0.5,
            "top_p": 0.25,
            "seed": 7,
            "max_completion_tokens": 9,
            "max_tokens": 10,
            "presence_penalty": 0.5,
            "frequency_penalty": 0.25,
            "stop": "END",
            "n": 1,
            "user": "ann",
            "metadata": {"a": "b"},
            "logit_bias": {},
            "logprobs": True,
            "top_logprobs": 3,
            "parallel_tool_calls": True,
            "store": False,
        },
    )
    assert answer.status == 200, answer.body
    sent = fake.asked("/api/chat")[-1].body
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a\nb"},
        {"role": "user", "content": "c"},
    ]
    assert (sent["format"], sent["think"], sent["logprobs"], sent["top_logprobs"]) == (schema, False, True, 3)
    assert sent["options"] == {
        "temperature": 0.5, "top_p": 0.25, "seed": 7, "num_predict": 9,
        "presence_penalty": 0.5, "frequency_penalty": 0.25, "stop": ["END"],
    }  # fmt: skip


async def test_what_is_not_said_is_openais_default(place: Place) -> None:
    rest, fake = place
    await rest.post(CHAT, {"model": "tiny", "messages": HELLO, "response_format": {"type": "json_object"}})
    sent = fake.asked("/api/chat")[-1].body
    assert (sent["options"], sent["format"]) == ({"temperature": 1, "top_p": 1, "num_predict": 8192}, "json")


async def test_texts_are_completed(place: Place) -> None:
    rest, fake = place
    for prompt in ("hello big world", ["hello big world"]):
        answer = (await rest.post(TEXT, {"model": "tiny", "prompt": prompt, "stop": ["x"]})).json
        assert answer["object"] == "text_completion"
        assert answer["id"].startswith("cmpl-")
        assert answer["choices"] == [
            {"text": "hello big world", "index": 0, "logprobs": None, "finish_reason": "stop"}
        ]
    assert fake.asked("/api/generate")[-1].body["prompt"] == "hello big world"
    chunks = (await rest.post(TEXT, {"model": "tiny", "prompt": "hello big world", "stream": True})).events
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "hello big world"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_vectors_in_both_encodings(place: Place) -> None:
    rest, _ = place
    asked = {"model": "vectors", "input": ["a b", "c"], "dimensions": 8}
    plain = (await rest.post(VECTORS, asked)).json
    assert [item["index"] for item in plain["data"]] == [0, 1]
    assert {item["object"] for item in plain["data"]} == {"embedding"}
    assert plain["object"] == "list"
    assert plain["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    coded = (await rest.post(VECTORS, {**asked, "encoding_format": "base64"})).json
    for item, same in zip(coded["data"], plain["data"], strict=True):
        numbers = struct.unpack("<8f", base64.b64decode(item["embedding"]))
        assert numbers == pytest.approx(same["embedding"], rel=1e-6)


async def test_models_are_listed(place: Place) -> None:
    rest, _ = place
    listed = (await rest.get("/v1/models")).json
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["tiny:latest", "vectors:latest"]
    one = await rest.get("/v1/models/tiny:latest")
    assert one.json == listed["data"][0]
    assert one.json == {"id": "tiny:latest", "object": "model", "created": 1767225600, "owned_by": "library"}
    assert (await rest.get("/v1/models/some/where/else:x")).json["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"model": ""}, "model", None),
        ({"n": 2}, "n", "unsupported_value"),
        ({"logit_bias": {"50256": -100}}, "logit_bias", "unsupported_parameter"),
        ({"functions": [FUNCTION]}, "functions", "unsupported_parameter"),
        ({"function_call": "auto"}, "function_call", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_value"),
        ({"audio": {"voice": "alloy"}}, "audio", "unsupported_parameter"),
        ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"temperature": 1.5}, "temperature", None),
        ({"temperature": "hot"}, "temperature", None),
        ({"top_p": 2}, "top_p", None),
        ({"max_tokens": 9000}, "max_tokens", None),
        ({"max_completion_tokens": 0}, "max_completion_tokens", None),
        ({"max_tokens": 2**40}, "max_tokens", "integer_out_of_range"),
        ({"top_logprobs": 3}, "top_logprobs", None),
        ({"reasoning_effort": "so so"}, "reasoning_effort", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
         "response_format.json_schema.schema", "missing_required_parameter"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}},
         "response_format.json_schema.schema", None),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "unsupported_value"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", None),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "no"}}},
         "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "unsupported_value"),
        ({"messages": []}, "messages", None),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0]", None),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]},
         "messages[1].tool_call_id", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
         "messages[0].content[0].type", "unsupported_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url",
                                                     "image_url": {"url": "https://example.org/a.png"}}]}]},
         "messages[0].content[0].image_url", "invalid_value"),
        ({"messages": [{"role": "assistant", "content": ""}, {"role": "user", "content": "a" * 10_001}]},
         "messages[1].content", None),
        ({"messages": [{"role": "assistant", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "look", "arguments": "[1"}}]}]},
         "messages[0].tool_calls[0].function.arguments", None),
    ],
)  # fmt: skip
async def test_refusals_name_the_parameter(
    place: Place, more: dict[str, Any], param: str, code: str | None
) -> None:
    rest, _ = place
    answer = await rest.post(CHAT, {"model": "tiny", "messages": HELLO, **more})
    assert answer.status == 400, answer.body
    error = answer.json["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code), error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (TEXT, {"prompt": ["a", "b"]}, "prompt"),
        (TEXT, {"prompt": [1, 2]}, "prompt"),
        (TEXT, {}, "prompt"),
        (TEXT, {"prompt": "a", "echo": True}, "echo"),
        (TEXT, {"prompt": "a", "best_of": 2}, "best_of"),
        (VECTORS, {"input": [1, 2]}, "input"),
        (VECTORS, {"input": [[1, 2]]}, "input"),
        (VECTORS, {"input": []}, "input"),
        (VECTORS, {"input": [""]}, "input[0]"),
        (VECTORS, {"input": "a", "encoding_format": "int8"}, "encoding_format"),
        (VECTORS, {"input": "a", "dimensions": 0}, "dimensions"),
    ],
)
async def test_refusals_of_the_others(place: Place, path: str, body: dict[str, Any], param: str) -> None:
    rest, _ = place
    answer = await rest.post(path, {"model": "tiny", **body})
    assert (answer.status, answer.json["error"]["param"]) == (400, param), answer.body


async def test_models_that_are_not_there_or_cannot(place: Place) -> None:
    rest, _ = place
    missing = await rest.post(CHAT, {"model": "nope", "messages": HELLO})
    assert (missing.status, missing.json["error"]["code"]) == (404, "model_not_found")
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    blind = await rest.post(CHAT, {"model": "tiny", "messages": [{"role": "user", "content": [image]}]})
    assert (blind.status, blind.json["error"]["code"]) == (400, "model_unsuitable")
