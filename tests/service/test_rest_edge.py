"""What holds of REST whichever the dialect: who is let in, failures early and late, and readers that leave."""

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from tests.fakes.fake_ollama import Fail, FakeOllama, Outcome
from tests.service.inference_app import WITHIN_S, asked, left
from tests.service.rest_app import Rest, edge_before, next_line, one_fake

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = [{"role": "user", "content": "hello"}]
CHATS = ("/api/chat", "/v1/chat/completions")
Place = tuple[Rest, FakeOllama]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncIterator[Place]:
    async with one_fake() as found:
        yield found


def error_of(path: str, body: object) -> tuple[str, str | None]:
    """Text and code, after a look at the shape."""
    assert isinstance(body, dict)
    assert set(body) == {"error"}
    if path.startswith("/api/"):
        assert isinstance(body["error"], str)
        return body["error"], None
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]["message"], body["error"]["code"]


async def test_ollama_is_running(place: Place) -> None:
    rest, _ = place
    for headers in ({}, rest.bearer()):
        root = await rest.get("/", headers=headers)
        assert (root.status, root.body) == (200, b"Ollama is running")
        head = await rest.ask("HEAD", "/", headers=headers)
        assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize("path", ["/api/tags", "/v1/models", *CHATS])
async def test_strangers_are_told_so_by_the_edge(place: Place, path: str) -> None:
    rest, fake = place
    fake.requests.clear()
    method = "POST" if path in CHATS else "GET"
    expired = f"Bearer {rest.service.identity.token(ttl_s=-120)}"
    elsewhere = f"Bearer {rest.service.identity.token(aud=['agent'])}"
    for headers, said in (
        ({}, "the access token is missing or not valid here"),
        ({"authorization": "Bearer nonsense"}, "the access token is missing or not valid here"),
        ({"authorization": "Basic YTpi"}, "the access token is missing or not valid here"),
        ({"authorization": elsewhere}, "the access token is missing or not valid here"),
        ({"authorization": expired}, "the access token has expired"),
    ):
        answer = await rest.ask(
            method, path, {"model": "tiny"} if method == "POST" else None, headers=headers
        )
        assert answer.status == 401
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.headers["www-authenticate"] == 'Bearer realm="ollamesh"'
        text, code = error_of(path, answer.json)
        assert text == said
        assert code == (None if path.startswith("/api/") else "invalid_api_key")
    assert fake.asked("/api/chat") == []


async def test_a_stranger_is_refused_before_the_body_has_come(place: Place) -> None:
    rest, _ = place
    for path in CHATS:
        reader, writer = await asyncio.open_connection("127.0.0.1", rest.stack.port)
        writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n".encode())
        async with asyncio.timeout(WITHIN_S):
            assert b"401" in await reader.readline()
        writer.close()


@pytest.mark.parametrize("path", ["/api/nothing", "/api/chat/x", "/v1/nothing", "/v1/chat"])
async def test_unknown_paths(place: Place, path: str) -> None:
    rest, _ = place
    for method in ("GET", "POST", "PUT"):
        answer = await rest.ask(method, path)
        assert answer.status == 404
        error_of(path, answer.json)


async def test_head_has_no_body_whoever_answers(place: Place) -> None:
    """One would be read as the beginning of the next answer: each of these is asked on one connection."""
    rest, _ = place
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as http:
        for who in ({}, rest.bearer(), {"authorization": "Bearer x"}):
            url = f"{rest.url}/api/blobs/sha256:{'a' * 64}"
            async with http.head(url, headers=who) as answer:
                assert answer.status in {401, 403}
                assert await answer.read() == b""
            async with http.get(f"{rest.url}/", headers=who) as root:
                assert await root.read() == b"Ollama is running"


async def test_bodies_may_be_large_but_not_any_size(place: Place) -> None:
    rest, _ = place
    for path in CHATS:
        large = await rest.post(path, {"model": "tiny", "messages": HELLO, "padding": "a" * 2**23})
        assert large.status == 200
        larger = await rest.post(path, {"model": "tiny", "padding": "a" * 2**24})
        assert larger.status == 413
        error_of(path, larger.json)


async def test_a_failure_before_the_first_byte_is_a_status() -> None:
    async with FakeOllama() as fake:
        gate = asyncio.Event()
        async with edge_before(fake.url, queue_max=1, instance_slots=1) as rest:
            body = {"model": "smollm2:135m", "messages": HELLO, "stream": True}
            fake.script(gate, "a")
            running = asyncio.create_task(rest.post("/api/chat", body))
            await asked(fake)
            waiting = asyncio.create_task(rest.post("/api/chat", body))
            await rest.service.until_fleet(lambda fleet: bool(fleet.queues))
            for path in CHATS:
                answer = await rest.post(path, body)
                assert (answer.status, answer.headers["retry-after"]) in {(429, "1"), (429, "2")}
                text, code = error_of(path, answer.json)
                assert text
                assert code == (None if path.startswith("/api/") else "queue_full")
            gate.set()
            assert {(await running).status, (await waiting).status} == {200}
            await fake.refuse()
            await rest.service.until_fleet(lambda fleet: fleet.instances[0].state != 1)
            for path in CHATS:
                answer = await rest.post(path, body)
                assert (answer.status, answer.headers["retry-after"]) == (503, "2")
                error_of(path, answer.json)


async def test_a_failure_after_it_is_told_in_the_stream() -> None:
    async with one_fake() as (rest, fake):
        for path in CHATS:
            fake.script("a", "b", Fail("boom"))
            answer = await rest.post(path, {"model": "tiny", "messages": HELLO, "stream": True})
            assert answer.status == 200
            last = answer.body.decode().strip().splitlines()[-1].removeprefix("data: ")
            text, code = error_of(path, json.loads(last))
            assert text == "the instance was lost during the answer"
            assert code == (None if path.startswith("/api/") else "instance_lost")
            assert b"[DONE]" not in answer.body
            assert b'"done":true' not in answer.body


async def test_a_failure_of_an_answer_that_is_not_streamed_is_a_status() -> None:
    async with one_fake() as (rest, fake):
        for path in CHATS:
            fake.script("a", "b", Fail("boom"))
            answer = await rest.post(path, {"model": "tiny", "messages": HELLO, "stream": False})
            assert answer.status == 500
            assert error_of(path, answer.json)[0] == "the instance was lost during the answer"


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("path", CHATS)
async def test_who_leaves_ends_the_work_at_once(place: Place, path: str, streamed: bool) -> None:  # noqa: FBT001
    rest, fake = place
    fake.requests.clear()
    gate = asyncio.Event()
    fake.script("a", gate, "b")
    body = {"model": "tiny", "messages": HELLO, "stream": streamed}
    if streamed:
        async with rest.stack.http.post(f"{rest.url}{path}", json=body, headers=rest.bearer()) as answer:
            assert await next_line(answer)
            answer.close()
    else:
        asking = asyncio.create_task(rest.post(path, body))
        await asked(fake)
        asking.cancel()
    assert await left(await asked(fake))
    assert fake.asked("/api/chat")[0].outcome is Outcome.LEFT
    await rest.service.until_idle()


@pytest.mark.parametrize("path", CHATS)
async def test_each_token_comes_when_it_is_there(place: Place, path: str) -> None:
    rest, fake = place
    gates = [asyncio.Event() for _ in range(3)]
    fake.script("a", gates[0], "b", gates[1], "c", gates[2], "d")
    body = {"model": "tiny", "messages": HELLO, "stream": True}
    async with rest.stack.http.post(f"{rest.url}{path}", json=body, headers=rest.bearer()) as answer:
        for text, gate in zip("abc", gates, strict=True):
            async with asyncio.timeout(WITHIN_S):
                while f'"content":"{text}"'.encode() not in await answer.content.readline():
                    pass
            gate.set()
        assert b'"content":"d"' in await answer.read()


async def test_headers_say_where_an_answer_comes_from(place: Place) -> None:
    rest, _ = place
    for path in CHATS:
        answer = await rest.post(path, {"model": "tiny", "messages": HELLO})
        assert answer.headers["x-ollamesh-cache"] in {"hit", "miss", "join", "bypass"}
        assert len(answer.headers["x-ollamesh-stream"]) == 32
        assert not {
            "x-http-status",
            "grpc-status",
            "grpc-accept-encoding",
            "x-envoy-upstream-service-time",
        } & set(answer.headers)
