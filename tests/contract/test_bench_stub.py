"""What the benchmarks' stub Ollama does, in C and in Python: pacing, clocks, dialects, and what clients expect."""

import http.client
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest

from tests.bench.support import stub as support
from tests.bench.support.stub import PYTHON, C, Stub, StubError
from tests.bench.tools import build

MESSAGES = [{"role": "user", "content": 'say "model": "nothing", "stream": false'}]
TOKEN = re.compile(r"~(\d{17}) (x*)")
DIALECTS = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions")
GIVE_UP_S = 10.0
TIMER_S = 0.001  # What the timers of the Python stub are true to.


@pytest.fixture(scope="module", params=[C, PYTHON])
def server(request: pytest.FixtureRequest) -> Iterator[Stub]:
    if request.param == C and build.program("stub") is None:
        pytest.skip(build.NO_COMPILER)
    with support.stub("stub-n3", "other:7b", pure_python=request.param == PYTHON) as running:
        assert running.kind == request.param
        assert running.limit
        yield running


@pytest.fixture(scope="module")
def client(server: Stub) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=GIVE_UP_S) as client:
        yield client


def ask(path: str, model: str, **more: object) -> dict[str, object]:
    question = {"messages": MESSAGES} if "chat" in path else {"prompt": "hello"}
    return {**question, "model": model, **more}


def streamed(client: httpx.Client, path: str, model: str, **more: object) -> list[dict[str, Any]]:
    """All that a stream says, without SSE's framing and its [DONE], which must be there."""
    with client.stream("POST", path, json=ask(path, model, stream=True, **more)) as answer:
        assert answer.status_code == 200
        lines = [line for line in answer.iter_lines() if line]
    if path.startswith("/v1"):
        assert lines.pop() == "data: [DONE]"
        lines = [line.removeprefix("data: ") for line in lines]
    return [json.loads(line) for line in lines]


def text_of(piece: dict[str, Any]) -> str:
    if "choices" in piece:
        (choice,) = piece["choices"] or [{}]
        said = choice.get("delta") or choice.get("message") or {}
        return str(choice.get("text") or said.get("content") or "")
    return str(piece.get("response", "") or piece.get("message", {}).get("content", ""))


def clocks(text: str) -> list[int]:
    return [int(found[1]) for found in TOKEN.finditer(text)]


@pytest.mark.parametrize("path", DIALECTS)
def test_sends_the_tokens_that_the_name_asks_for(client: httpx.Client, path: str) -> None:
    pieces = streamed(client, path, "stub-n4-i1000-t2000-w3:latest")
    said = [text for piece in pieces if (text := text_of(piece))]
    assert len(said) == 4
    assert all(TOKEN.fullmatch(text) and text.endswith(" xxx") for text in said)
    assert {piece["model"] for piece in pieces} == {"stub-n4-i1000-t2000-w3:latest"}


def test_no_token_comes_before_it_is_due_or_from_the_future(client: httpx.Client) -> None:
    asked_ns = time.monotonic_ns()
    pieces = streamed(client, "/api/chat", "stub-n5-i4000-t8000")
    times_ns = clocks("".join(map(text_of, pieces)))
    assert times_ns == sorted(times_ns)
    assert times_ns[-1] <= time.monotonic_ns()
    for index, time_ns in enumerate(times_ns):
        assert (time_ns - asked_ns) / 1e9 >= 0.008 + index * 0.004 - TIMER_S


def test_a_name_without_a_scenario_gets_one_token(client: httpx.Client) -> None:
    assert len(clocks("".join(map(text_of, streamed(client, "/api/chat", "llama3.2:1b"))))) == 1


def test_flat_out_sends_all_in_order(client: httpx.Client) -> None:
    times_ns = clocks("".join(map(text_of, streamed(client, "/api/chat", "stub-n5000-i0"))))
    assert len(times_ns) == 5000
    assert times_ns == sorted(times_ns)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_ollamas_last_line_counts(client: httpx.Client, path: str) -> None:
    *_, last = streamed(client, path, "stub-n3-i1000-t2000")
    assert (last["done"], last["done_reason"], last["eval_count"]) == (True, "stop", 3)
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (2_000_001, 2_000_001)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_openais_last_events_count(client: httpx.Client, path: str) -> None:
    pieces = streamed(client, path, "stub-n3", stream_options={"include_usage": True})
    assert pieces[-2]["choices"][0]["finish_reason"] == "stop"
    assert pieces[-1]["usage"]["completion_tokens"] == 3
    assert "usage" not in streamed(client, path, "stub-n3")[-1]


@pytest.mark.parametrize("path", DIALECTS)
def test_answers_whole_when_no_stream_is_wanted(client: httpx.Client, path: str) -> None:
    answer = client.post(path, json=ask(path, "stub-n3-i1000", stream=False)).json()
    assert len(clocks(text_of(answer))) == 3


@pytest.mark.parametrize(("keep_alive", "reason"), [(-1, "load"), (0, "unload")])
@pytest.mark.parametrize("body", [{"prompt": ""}, {"messages": []}, {}])
def test_a_request_that_asks_nothing_loads(
    client: httpx.Client, body: dict[str, object], keep_alive: int, reason: str
) -> None:
    path = "/api/chat" if "messages" in body else "/api/generate"
    answer = client.post(path, json={"model": "stub", "keep_alive": keep_alive, "stream": False, **body})
    assert (answer.json()["done"], answer.json()["done_reason"]) == (True, reason)


def test_lists_its_models_as_resident(client: httpx.Client) -> None:
    for path in ("/api/tags", "/api/ps"):
        names = [model["name"] for model in client.get(path).json()["models"]]
        assert names == ["stub-n3:latest", "other:7b"]
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [
        "stub-n3:latest",
        "other:7b",
    ]
    assert client.get("/api/ps").json()["models"][0]["size_vram"] > 0


@pytest.mark.parametrize("path", ["/", "/health", "/api/version", "/stats"])
def test_says_that_it_is_there(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200


def test_shows_any_model(client: httpx.Client) -> None:
    assert client.post("/api/show", json={"model": "stub"}).json()["capabilities"] == ["completion"]


def test_embeds_each_input(client: httpx.Client) -> None:
    for given, count in ((["one, [two]", "three"], 2), ("one", 1), ([], 0)):
        answer = client.post("/api/embed", json={"model": "stub", "input": given}).json()
        assert len(answer["embeddings"]) == count


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [("/api/chat", b"{}", 400), ("/api/chat", b"no json", 400), ("/nowhere", b"{}", 404)],
)
def test_refuses_what_makes_no_sense(client: httpx.Client, path: str, content: bytes, status: int) -> None:
    assert client.post(path, content=content).status_code == status


def test_reads_a_chunked_request(client: httpx.Client) -> None:
    body = json.dumps(ask("/api/generate", "stub-n2", stream=False)).encode()
    answer = client.post("/api/generate", content=iter([body[:5], body[5:40], body[40:]])).json()
    assert len(clocks(text_of(answer))) == 2


def test_keeps_the_connection(server: Stub) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=GIVE_UP_S)
    connection.connect()
    socket = connection.sock
    for path in ("/api/chat", "/api/generate", "/v1/chat/completions"):
        connection.request("POST", path, json.dumps(ask(path, "stub-n2-i100", stream=True)))
        assert len(clocks(connection.getresponse().read().decode())) == 2
        assert connection.sock is socket
    connection.close()


@pytest.mark.parametrize("model", ["stub-n100000-i10000", "stub-n100000-i0-w9999", "stub-n1-t60000000"])
def test_hanging_up_ends_the_stream(client: httpx.Client, server: Stub, model: str) -> None:
    before = client.get("/stats").json()
    with (
        httpx.Client(base_url=server.url) as leaver,
        leaver.stream("POST", "/api/chat", json=ask("/api/chat", model)),
    ):
        assert client.get("/stats").json()["active"] == before["active"] + 1
    give_up_s = time.monotonic() + GIVE_UP_S
    while client.get("/stats").json()["active"] > before["active"]:
        assert time.monotonic() < give_up_s
    assert client.get("/stats").json()["requests"] == before["requests"] + 1


async def test_ollamas_own_client_streams(server: Stub) -> None:
    async with ollama.AsyncClient(host=server.url) as client:
        said = [
            part.message.content or ""
            async for part in await client.chat(
                "stub-n4-i1000", [{"role": "user", "content": "hi"}], stream=True
            )
        ]
        names = [model.model for model in (await client.list()).models]
    assert len(clocks("".join(said))) == 4
    assert names == ["stub-n3:latest", "other:7b"]


def test_a_stub_that_cannot_start_says_why() -> None:
    if build.program("stub") is None:
        pytest.skip(build.NO_COMPILER)
    with pytest.raises(StubError, match=r"\w"), support.stub(*["stub"] * 100):
        pass
