"""What Ollama refuses, with which status and in which words; and what it lets pass."""

import json

import httpx
import ollama
import pytest

from tests.contract.ollama_servers import CHAT, EMBEDDING, HELLO, SHORT

REFUSALS = [
    ("/api/chat", {"messages": HELLO}, 400, "model is required"),
    ("/api/chat", {"model": "nope", "messages": HELLO}, 404, "model 'nope' not found"),
    ("/api/generate", {"prompt": "hi"}, 404, "model '' not found"),
    ("/api/generate", {"model": "nope:1b", "prompt": "hi"}, 404, "model 'nope:1b' not found"),
    ("/api/embed", {"model": "nope", "input": "hi"}, 404, "model 'nope' not found"),
    ("/api/embeddings", {"prompt": "hi"}, 400, "model is required"),
    ("/api/show", {}, 400, "model is required"),
    ("/api/show", {"model": "nope"}, 404, "model 'nope' not found"),
    ("/api/chat", {"model": EMBEDDING, "messages": HELLO}, 400, '"all-minilm" does not support chat'),
    ("/api/generate", {"model": EMBEDDING, "prompt": "hi"}, 400, '"all-minilm" does not support generate'),
    (
        "/api/chat",
        {"model": CHAT, "messages": HELLO, "think": True},
        400,
        '"smollm2:135m" does not support thinking',
    ),
    (
        "/api/generate",
        {"model": CHAT, "prompt": "a", "suffix": "b"},
        400,
        "smollm2:135m does not support insert",
    ),
    (
        "/api/generate",
        {"model": CHAT, "prompt": "a", "raw": True, "system": "b"},
        400,
        "raw mode does not support template, system, or context",
    ),
    (
        "/api/chat",
        {"model": CHAT, "messages": HELLO, "options": {"temperature": "hot"}},
        500,
        'option "temperature" must be of type float32',
    ),
    (
        "/api/chat",
        {"model": CHAT, "messages": HELLO, "options": {"top_k": True}},
        500,
        'option "top_k" must be of type integer',
    ),
    (
        "/api/chat",
        {"model": CHAT, "messages": HELLO, "options": {"stop": "word"}},
        500,
        'option "stop" must be of type array',
    ),
    (
        "/api/chat",
        {"model": CHAT, "messages": HELLO, "format": "xml"},
        500,
        'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object',
    ),
    (
        "/api/chat",
        {"model": CHAT, "messages": HELLO, "keep_alive": "300"},
        400,
        'time: missing unit in duration "300"',
    ),
    ("/api/embed", {"model": EMBEDDING, "input": [1, 2]}, 400, "invalid input type"),
    ("/api/embed", {"model": EMBEDDING, "input": {"text": "hi"}}, 400, "invalid input type"),
    ("/api/pull", {"model": "nope", "stream": False}, 500, "pull model manifest: file does not exist"),
    ("/api/copy", {"source": "nope", "destination": "x"}, 404, "model 'nope' not found"),
    ("/api/copy", {"source": "", "destination": "x"}, 400, 'source "" is invalid'),
]


@pytest.mark.parametrize(("path", "body", "status", "text"), REFUSALS)
def test_a_refusal_has_its_status_and_words(
    http: httpx.Client, path: str, body: dict[str, object], status: int, text: str
) -> None:
    reply = http.post(path, json=body)
    assert (reply.status_code, reply.json()) == (status, {"error": text})


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/api/show", "/api/pull"])
def test_a_body_must_be_json(http: httpx.Client, path: str) -> None:
    empty = http.post(path, content=b"")
    assert (empty.status_code, empty.json()) == (400, {"error": "missing request body"})
    for broken in (b"{bad", b"[]", b'{"model": 1}', b"\xff\xfe", b"[" * 100_000):
        reply = http.post(path, content=broken)
        assert reply.status_code == 400
        assert reply.json()["error"]


def test_a_refused_stream_is_no_stream(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as refusal:
        list(client.chat("nope", HELLO, stream=True))
    assert (refusal.value.status_code, refusal.value.error) == (404, "model 'nope' not found")


def test_a_pull_succeeds_or_fails_on_its_stream(client: ollama.Client) -> None:
    statuses = [progress.status for progress in client.pull(CHAT, stream=True)]
    assert (statuses[0], statuses[-1]) == ("pulling manifest", "success")
    assert client.pull(CHAT).status == "success"
    with pytest.raises(ollama.ResponseError, match="file does not exist"):
        list(client.pull("nope", stream=True))


def test_what_is_not_there_cannot_be_deleted(http: httpx.Client) -> None:
    delete = http.request("DELETE", "/api/delete", json={"model": "nope"})
    assert (delete.status_code, delete.json()) == (404, {"error": "model 'nope' not found"})
    assert http.head(f"/api/blobs/sha256:{'0' * 64}").status_code == 404
    assert http.post("/api/blobs/sha256:0", content=b"x").json() == {"error": "invalid digest format"}


def test_other_paths_and_methods_do_not_exist(http: httpx.Client) -> None:
    assert http.get("/api/nothing").status_code == 404
    assert http.get("/api/chat").status_code == 405


def test_a_web_page_cannot_rebind_its_name_to_us(http: httpx.Client) -> None:
    assert http.get("/api/tags", headers={"Host": "evil.example"}).status_code == 403
    for fine in ("localhost:11434", "127.0.0.1", "[::1]:11434", "box.local", "ollama"):
        assert http.get("/api/tags", headers={"Host": fine}).status_code == 200


def test_credentials_and_strange_text_are_taken(http: httpx.Client) -> None:
    content = "Gr\u00fc\u00dfe \U0001f980 \u202e\x00 <|im_end|>"
    body = {"model": CHAT, "messages": [{"role": "user", "content": content}], "options": SHORT}
    reply = http.post("/api/chat", json={**body, "stream": False}, headers={"Authorization": "Bearer x"})
    assert reply.json()["done"]


def test_a_null_is_nothing(http: httpx.Client) -> None:
    body = {"model": CHAT, "messages": HELLO, "options": {**SHORT, "top_p": None}, "format": None}
    extras = {"tools": None, "keep_alive": None, "think": None, "stream": False}
    assert http.post("/api/chat", content=json.dumps({**body, **extras})).json()["done"]
