"""Ollama's API through the edge, beside what the instance itself answers to the same request: same keys, same types."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.fakes.fake_ollama import Call, FakeOllama, Think
from tests.service.rest_app import Answer, Rest, one_fake

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = [{"role": "user", "content": "hello big world"}]
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}},
}
# What says when, or how long: no two answers have the same.
TIMES = {
    "created_at",
    "total_duration",
    "load_duration",
    "prompt_eval_duration",
    "eval_duration",
    "expires_at",
}


@dataclass(frozen=True, slots=True)
class Place:
    rest: Rest
    fake: FakeOllama

    async def directly(self, path: str, body: object = None) -> Answer:
        """The same of the instance itself."""
        async with httpx.AsyncClient(base_url=self.fake.url) as http:
            method = "GET" if body is None else "POST"
            reply = await http.request(method, path, json=body)
            return Answer(status=reply.status_code, headers=dict(reply.headers), body=reply.content)

    async def both(
        self, path: str, body: object = None, *, script: tuple[Any, ...] = ()
    ) -> tuple[Answer, Answer]:
        """The edge's answer and the instance's, each after the same script."""
        method, answers = "GET" if body is None else "POST", []
        for ask in (partial(self.rest.ask, method), self.directly):
            if script:
                self.fake.script(*script)
            answers.append(await ask(path, body))
        return answers[0], answers[1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncIterator[Place]:
    async with one_fake() as (rest, fake):
        yield Place(rest, fake)


def timeless(value: Any) -> Any:
    """A value with times as their types."""
    match value:
        case dict():
            return {
                name: type(one).__name__ if name in TIMES else timeless(one) for name, one in value.items()
            }
        case list():
            return [timeless(one) for one in value]
        case _:
            return value


def folded(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """A stream without how its text was cut into lines."""
    *pieces, last = map(timeless, lines)
    key = "message" if "message" in last else "response"
    texts = [piece["message"]["content"] if key == "message" else piece["response"] for piece in pieces]
    assert all(
        piece["done"] is False and set(piece) == {"model", "created_at", "done", key} for piece in pieces
    )
    return {"text": "".join(texts), "last": last}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"messages": HELLO}),
        ("/api/chat", {"messages": HELLO, "options": {"num_predict": 2}}),
        ("/api/generate", {"prompt": "hello big world"}),
        ("/api/generate", {"prompt": "hello big world", "raw": True, "options": {"num_predict": 3}}),
    ],
)
async def test_answers_are_those_of_an_instance(place: Place, path: str, body: dict[str, Any]) -> None:
    whole = {"model": "tiny", **body, "stream": False}
    ours, theirs = await place.both(path, whole)
    assert ours.status == theirs.status == 200
    assert ours.headers["content-type"] == theirs.headers["content-type"] == "application/json; charset=utf-8"
    assert timeless(ours.json) == timeless(theirs.json)
    ours, theirs = await place.both(path, {"model": "tiny", **body})
    assert ours.headers["content-type"] == theirs.headers["content-type"] == "application/x-ndjson"
    assert folded(ours.lines) == folded(theirs.lines)


async def test_keys_come_in_the_same_order(place: Place) -> None:
    for path, body in (("/api/chat", {"messages": HELLO}), ("/api/generate", {"prompt": "a"})):
        ours, theirs = await place.both(path, {"model": "tiny", **body, "stream": False})
        shared = [name for name in theirs.json if name != "context"]
        assert [name for name in ours.json if name != "context"] == shared or set(ours.json) == set(
            theirs.json
        )


async def test_thoughts_and_calls_are_told_as_ollama_tells_them(place: Place) -> None:
    script = (Think("Hm."), "Look", Call("look", {"at": [1, 2.5]}))
    body = {"model": "tiny", "messages": HELLO, "think": True, "tools": [TOOL], "stream": False}
    ours, theirs = await place.both("/api/chat", body, script=script)
    whole, their_whole = ours.json, theirs.json
    (call,), (their_call,) = (one["message"].pop("tool_calls") for one in (whole, their_whole))
    assert timeless(whole) == timeless(their_whole)
    assert whole["message"] == {"role": "assistant", "content": "Look", "thinking": "Hm."}
    assert call["function"] == their_call["function"]
    assert call["function"] == {"index": 0, "name": "look", "arguments": {"at": [1, 2.5]}}
    assert whole["done_reason"] == "stop"

    place.fake.script(*script)
    streamed = (await place.rest.post("/api/chat", {**body, "stream": True})).lines
    messages = [line["message"] for line in streamed]
    assert "".join(message.get("thinking", "") for message in messages) == "Hm."
    assert "".join(message["content"] for message in messages) == "Look"
    (told,) = [message["tool_calls"] for message in messages if "tool_calls" in message]
    assert told[0]["function"] == call["function"]


@pytest.mark.parametrize("path", ["/api/tags", "/api/version"])
async def test_what_there_is_reads_like_one_instance(place: Place, path: str) -> None:
    ours, theirs = (answer.json for answer in await place.both(path))
    for model in [*ours.get("models", ()), *theirs.get("models", ())]:
        model["capabilities"].sort()
    assert sorted(ours.pop("models", ()), key=str) == sorted(theirs.pop("models", ()), key=str)
    assert ours == theirs


async def test_what_is_loaded_reads_like_one_instance(place: Place) -> None:
    ours, theirs = await place.both("/api/ps")
    by_name = [
        {model["name"]: timeless(model) for model in answer.json["models"]} for answer in (ours, theirs)
    ]
    assert by_name[0] == by_name[1]
    assert set(by_name[0]) == {"tiny:latest", "vectors:latest"}


async def test_vectors_are_those_of_an_instance(place: Place) -> None:
    ours, theirs = await place.both(
        "/api/embed", {"model": "vectors", "input": ["a b", "c"], "dimensions": 8}
    )
    assert set(ours.json) | {"load_duration"} == set(theirs.json) | {"load_duration"}
    assert (ours.json["model"], ours.json["prompt_eval_count"]) == ("vectors", 3)
    assert ours.json["embeddings"] == theirs.json["embeddings"]
    one, of_theirs = await place.both("/api/embeddings", {"model": "vectors", "prompt": "a b"})
    assert one.json.keys() == of_theirs.json.keys() == {"embedding"}
    assert one.json["embedding"] == pytest.approx(of_theirs.json["embedding"])
    alone, _ = await place.both("/api/embed", {"model": "vectors", "input": "a b"})
    assert alone.json["embeddings"] == [one.json["embedding"]]


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("/api/chat", {}, "load"),
        ("/api/chat", {"messages": []}, "load"),
        ("/api/chat", {"messages": [], "keep_alive": 0}, "unload"),
        ("/api/generate", {"keep_alive": "0s"}, "unload"),
        ("/api/generate", {"prompt": "", "keep_alive": -1}, "load"),
    ],
)
async def test_an_empty_request_loads(place: Place, path: str, body: dict[str, Any], reason: str) -> None:
    ours = await place.rest.post(path, {"model": "tiny", **body})
    assert (ours.status, ours.json["done"], ours.json["done_reason"]) == (200, True, reason)
    if reason == "load":  # An instance would really unload.
        theirs = await place.directly(path, {"model": "tiny", **body})
        assert timeless(ours.json) == timeless(theirs.json)
    assert any(model.card.name == "tiny:latest" for model in place.fake.loaded)  # Others may need it.


async def test_an_empty_embedding_loads(place: Place) -> None:
    for path, body in (("/api/embed", {"input": []}), ("/api/embeddings", {"prompt": ""})):
        ours, theirs = await place.both(path, {"model": "vectors", **body})
        assert (ours.status, ours.json) == (theirs.status, theirs.json)


async def test_all_that_a_chat_can_say_reaches_the_instance(place: Place) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
    call = {"id": "c1", "function": {"index": 0, "name": "look", "arguments": {"at": 1}}}
    await place.rest.post(
        "/api/chat",
        {
            "model": "tiny",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "assistant", "content": ""},
                {"role": "tool", "content": "1", "tool_name": "look", "tool_call_id": "c1"},
                {"role": "user", "content": "And now?"},
            ],
            "tools": [TOOL],
            "format": schema,
            "think": "high",
            "keep_alive": "10m",
            "logprobs": True,
            "top_logprobs": 2,
            "options": {
                "temperature": 0.5, "top_k": 5, "top_p": 0.5, "min_p": 0.1, "seed": 7, "num_predict": 9,
                "repeat_penalty": 1.1, "repeat_last_n": 64, "presence_penalty": 0.5, "frequency_penalty": 0.25,
                "stop": ["END"], "num_gpu": 3, "no_such_option": {}, "num_ctx": 100, "mirostat": None,
            },
        },
    )  # fmt: skip
    sent = place.fake.asked("/api/chat")[-1].body
    del call["function"]["index"]  # type: ignore[attr-defined]
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "1", "tool_name": "look", "tool_call_id": "c1"},
        {"role": "user", "content": "And now?"},
    ]
    assert (sent["tools"], sent["format"], sent["think"]) == ([TOOL], schema, "high")
    assert (sent["keep_alive"], sent["logprobs"], sent["top_logprobs"]) == (600, True, 2)
    # What a model is loaded with is the operator's: num_gpu and num_ctx are not passed on.
    assert sent["options"] == {
        "temperature": 0.5, "top_k": 5, "top_p": 0.5, "min_p": 0.1, "seed": 7, "num_predict": 9, "stop": ["END"],
        "repeat_penalty": 1.1, "repeat_last_n": 64, "presence_penalty": 0.5, "frequency_penalty": 0.25,
    }  # fmt: skip


async def test_numbers_that_mean_any_are_no_limits(place: Place) -> None:
    options = {"num_predict": -1, "seed": -1, "num_ctx": 0, "stop": None}
    await place.rest.post(
        "/api/generate", {"model": "tiny", "prompt": "a", "options": options, "format": "json"}
    )
    sent = place.fake.asked("/api/generate")[-1].body
    assert (sent["options"], sent["format"]) == ({"num_predict": 8192}, "json")


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/api/chat", b"", 400, "missing request body"),
        ("/api/chat", {}, 400, "model is required"),
        ("/api/chat", {"model": "nope", "messages": HELLO}, 404, "model 'nope' not found"),
        ("/api/generate", {"model": "nope"}, 404, "model 'nope' not found"),
        ("/api/show", {"model": "nope"}, 404, "model 'nope' not found"),
        ("/api/embed", {"model": "nope", "input": "a"}, 404, "model 'nope' not found"),
        ("/api/show", {}, 400, "model is required"),
        ("/api/chat", {"model": "vectors", "messages": HELLO}, 400, '"vectors" does not support chat'),
        (
            "/api/generate",
            {"model": "vectors", "prompt": "a"},
            400,
            '"vectors" does not support generate',
        ),
        ("/api/chat", {"model": "tiny", "keep_alive": "5"}, 400, 'time: missing unit in duration "5"'),
        (
            "/api/generate",
            {"model": "tiny", "prompt": "a", "raw": True, "system": "b"},
            400,
            "raw mode does not support template, system, or context",
        ),
    ],
)
async def test_refusals_have_ollamas_own_words(
    place: Place, path: str, body: Any, status: int, text: str
) -> None:
    ours = await place.rest.post(path, body)
    assert (ours.status, ours.headers["content-type"]) == (status, "application/json; charset=utf-8")
    assert ours.json["error"].endswith(text)
    if body and not isinstance(body, bytes):
        theirs = await place.directly(path, body)
        assert (theirs.status, theirs.json["error"]) == (status, text)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content: Expected"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages[0].role: must be"),
        ({"messages": [*HELLO, {"role": "user", "content": ""}]}, "messages[1]: a message needs content"),
        ({"messages": [{"role": "assistant"}, {"role": "user"}]}, "messages[1]: a message needs content"),
        (
            {"messages": [{"role": "user", "content": "a" * 10_001}]},
            "messages[0].content: must be at most 10000",
        ),
        ({"messages": [{"role": "user", "images": ["%"]}]}, "messages[0].images[0]: is not base64"),
        ({"options": {"temperature": 1.5}}, "options.temperature: must be between 0 and 1"),
        ({"options": {"num_predict": 8193}}, "options.num_predict: must be at most 8192"),
        ({"options": {"num_predict": 10**12}}, "options.num_predict: is out of range"),
        ({"options": {"num_ctx": 10**6}}, "options.num_ctx: the model has a context of 4096 tokens here"),
        ({"options": {"top_k": "5"}}, 'option "top_k" must be of type integer'),
        ({"options": {"stop": "a"}}, 'option "stop" must be of type array'),
        ({"format": "yaml"}, "format: invalid format"),
        ({"think": "hard"}, "think: must be"),
        ({"truncate": False}, "truncate: false is not supported here"),
        ({"tools": [{"function": {"name": "a b"}}]}, "tools[0].function.name: "),
        ({"tools": [{"function": {"name": "a", "parameters": 5}}]}, "tools[0].function.parameters: must be"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs: must be"),
    ],
)
async def test_complaints_name_the_field_as_the_caller_spells_it(
    place: Place, body: dict[str, Any], said: str
) -> None:
    ours = await place.rest.post("/api/chat", {"model": "tiny", "messages": HELLO, **body})
    assert ours.status == 400, ours.body
    assert ours.json["error"].startswith(said), ours.json


@pytest.mark.parametrize("data", [b"{", b'{"model":', b"[]", b"\xff", b"[" * 5000, b'{"model":"\\ud800"}'])
async def test_what_is_no_json_is_refused(place: Place, data: bytes) -> None:
    ours = await place.rest.post("/api/chat", data)
    assert ours.status == 400, ours.body
    assert json.loads(ours.body)["error"]


async def test_nobody_but_an_admin_changes_what_there_is(place: Place) -> None:
    for method, path in (
        ("POST", "/api/pull"), ("POST", "/api/push"), ("DELETE", "/api/delete"), ("POST", "/api/copy"),
        ("POST", "/api/create"), ("HEAD", "/api/blobs/sha256:a"), ("POST", "/api/blobs/sha256:a"),
    ):  # fmt: skip
        ours = await place.rest.ask(method, path, {"model": "tiny"} if method != "HEAD" else None)
        assert ours.status == 403, path
        assert (
            ours.body == b"" if method == "HEAD" else ours.json == {"error": "the method needs another role"}
        )
