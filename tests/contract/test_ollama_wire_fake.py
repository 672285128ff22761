"""What the fake does on cue, which no test could wait for a real Ollama to do."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import ollama
import pytest

from tests.fakes.fake_ollama import (
    CHAT_MODEL,
    Call,
    Cut,
    End,
    Fail,
    FakeOllama,
    Hang,
    Malformed,
    Outcome,
    Refuse,
    Think,
    fake_model,
)

CHAT = CHAT_MODEL.name
HELLO = [{"role": "user", "content": "hello there"}]
BODY = {"model": CHAT, "messages": HELLO}


@pytest.fixture
async def fake() -> AsyncIterator[FakeOllama]:
    async with FakeOllama() as fake:
        yield fake


@pytest.fixture
async def http(fake: FakeOllama) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=fake.url, timeout=10) as http:
        yield http


async def lines(http: httpx.AsyncClient) -> list[str]:
    async with http.stream("POST", "/api/chat", json=BODY) as reply:
        return [line async for line in reply.aiter_lines()]


async def test_says_the_script_then_echoes(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    fake.script("Hel", "lo", Call("run_python", {"code": "1"}))
    scripted = (await http.post("/api/chat", json={**BODY, "stream": False})).json()
    assert scripted["message"]["content"] == "Hello"
    assert scripted["message"]["tool_calls"][0]["function"]["arguments"] == {"code": "1"}
    echoed = (await http.post("/api/chat", json={**BODY, "stream": False})).json()
    assert echoed["message"]["content"] == "hello there"


async def test_remembers_what_was_asked(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    await http.post("/api/chat", json=BODY, headers={"Authorization": "Bearer key"})
    (recorded,) = fake.asked("/api/chat")
    assert (recorded.body, recorded.authorization, recorded.outcome) == (BODY, "Bearer key", Outcome.ANSWERED)


async def test_waits_for_an_event_between_tokens(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    gate = asyncio.Event()
    fake.script("one", gate, "two")
    async with http.stream("POST", "/api/chat", json=BODY) as reply:
        arriving = reply.aiter_lines()
        assert '"one"' in await anext(arriving)
        assert fake.requests[0].outcome is Outcome.OPEN
        gate.set()
        assert '"two"' in await anext(arriving)
        assert '"done":true' in await anext(arriving)


async def test_refuses_with_any_status(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    fake.script(Refuse(503, "server busy"))
    reply = await http.post("/api/chat", json=BODY)
    assert (reply.status_code, reply.json()) == (503, {"error": "server busy"})


async def test_fails_before_or_within_the_stream(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    fake.script(Fail("out of memory"))
    assert (await http.post("/api/chat", json=BODY)).status_code == 500
    fake.script("one", Fail("out of memory"))
    one, error = await lines(http)
    assert '"one"' in one
    assert error == '{"error":"out of memory"}'


async def test_breaks_a_line(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    fake.script("one", Malformed(b"{nonsense\n"), "two")
    assert [line for line in await lines(http) if line.startswith("{n")] == ["{nonsense"]


async def test_ends_without_the_last_object(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    fake.script("one", End())
    (one,) = await lines(http)
    assert '"done":false' in one


@pytest.mark.parametrize("before", [(), ("one",)])
async def test_cuts_the_connection(
    fake: FakeOllama, http: httpx.AsyncClient, before: tuple[str, ...]
) -> None:
    fake.script(*before, Cut())
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await lines(http)
    await asyncio.wait_for(fake.requests[0].ended.wait(), 10)
    assert fake.requests[0].outcome is Outcome.LEFT


@pytest.mark.parametrize("before", [(), ("one",)])
async def test_hangs_until_the_caller_leaves(
    fake: FakeOllama, http: httpx.AsyncClient, before: tuple[str, ...]
) -> None:
    fake.script(*before, Hang())
    asking = asyncio.create_task(lines(http))
    while not fake.requests:
        await asyncio.sleep(0)
    assert not fake.requests[0].ended.is_set()
    asking.cancel()
    await asyncio.wait([asking])
    await asyncio.wait_for(fake.requests[0].ended.wait(), 10)
    assert fake.requests[0].outcome is Outcome.LEFT


async def test_holds_a_load_back(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    fake.hold_loads()
    asking = asyncio.create_task(lines(http))
    await asyncio.wait([asking], timeout=0.05)
    assert not asking.done()
    assert (fake.load_count, fake.loaded) == (0, [])
    fake.let_load()
    assert '"done":true' in (await asking)[-1]
    assert (fake.load_count, len(fake.loaded)) == (1, 1)


async def test_plays_any_model() -> None:
    async with FakeOllama(fake_model("thinker:8b", "completion", "thinking")) as fake:
        fake.script(Think("hmm"), "yes")
        client = ollama.AsyncClient(host=fake.url, headers={"Connection": "close"})
        reply = await client.chat("thinker:8b", HELLO, think=True)
        assert (reply.message.thinking, reply.message.content) == ("hmm", "yes")


async def test_two_scripts_are_played_in_the_order_of_the_calls(
    fake: FakeOllama, http: httpx.AsyncClient
) -> None:
    fake.script("first")
    fake.script("second")
    replies = [(await http.post("/api/chat", json={**BODY, "stream": False})).json() for _ in range(2)]
    assert [reply["message"]["content"] for reply in replies] == ["first", "second"]
