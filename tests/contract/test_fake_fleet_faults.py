"""What goes wrong on cue, with a machine and without."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from tests.fakes.fake_ollama import (
    Cut,
    Deaf,
    Duplicate,
    DuplicateEnd,
    End,
    Fail,
    FakeOllama,
    MachineSpec,
    Malformed,
    ModelSpec,
    Outcome,
    Refuse,
)

GIB = 2**30
TINY = ModelSpec(
    name="smollm2:135m",
    vram_bytes=GIB,
    load_s=0.0,
    prefill_tokens_per_s=10_000,
    token_s=0.001,
    batch_cost=0.25,
)
BODY = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "a b c"}]}
BROKEN = (httpx.RemoteProtocolError, httpx.ReadError)


@pytest.fixture(params=["scripted", "machine"])
async def fake(request: pytest.FixtureRequest) -> AsyncIterator[FakeOllama]:
    made = (
        FakeOllama()
        if request.param == "scripted"
        else FakeOllama(machine=MachineSpec(name="gpu", vram_bytes=GIB, parallel=2), specs={TINY.name: TINY})
    )
    async with made as fake:
        yield fake


@pytest.fixture
async def http(fake: FakeOllama) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=fake.url, timeout=20) as http:
        yield http


async def lines(http: httpx.AsyncClient) -> list[str]:
    async with http.stream("POST", "/api/chat", json=BODY) as reply:
        return [line async for line in reply.aiter_lines()]


def said(line: str) -> tuple[str, bool]:
    reply = json.loads(line)
    return reply["message"]["content"], reply["done"]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.001)


async def test_a_line_twice(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    fake.script("one", Duplicate(), "two")
    got = [said(line) for line in await lines(http)]
    assert got == [("one", False), ("one", False), ("two", False), ("", True)]


async def test_the_end_twice(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    fake.script("one", DuplicateEnd())
    got = [said(line) for line in await lines(http)]
    assert got == [("one", False), ("", True), ("", True)]


async def test_errors_broken_lines_and_a_missing_end(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    fake.script("one", Fail("out of memory"))
    assert (await lines(http))[-1] == '{"error":"out of memory"}'
    fake.script("one", Malformed(b"{nonsense\n"), "two")
    assert (await lines(http))[1] == "{nonsense"
    fake.script("one", End())
    assert [said(line) for line in await lines(http)] == [("one", False)]


@pytest.mark.parametrize("status", [500, 503])
async def test_refusals(fake: FakeOllama, http: httpx.AsyncClient, status: int) -> None:
    fake.script(Refuse(status, "no"))
    reply = await http.post("/api/chat", json=BODY)
    assert (reply.status_code, reply.json()) == (status, {"error": "no"})


@pytest.mark.parametrize("before", [(), ("one",)])
async def test_cuts(fake: FakeOllama, http: httpx.AsyncClient, before: tuple[str, ...]) -> None:
    fake.script(*before, Cut())
    with pytest.raises(BROKEN):
        await lines(http)
    fake.script("fine")
    assert said((await lines(http))[0]) == ("fine", False)


async def test_it_is_deaf_until_it_is_told(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    until_then = asyncio.Event()
    fake.script(Deaf(until_then), "one")
    asking = asyncio.create_task(lines(http))
    await until(lambda: bool(fake.requests))
    (recorded,) = fake.requests
    await asyncio.wait([asking], timeout=0.05)
    asking.cancel()
    await asyncio.wait([asking])
    await http.get("/api/version")  # Its loop has gone round.
    assert not recorded.ended.is_set()
    until_then.set()
    await recorded.ended.wait()
    assert recorded.outcome is Outcome.LEFT


async def test_deafness_does_not_outlive_the_fake() -> None:
    async with FakeOllama() as fake, httpx.AsyncClient(base_url=fake.url) as http:
        fake.script(Deaf(asyncio.Event()))
        asking = asyncio.create_task(lines(http))
        await until(lambda: bool(fake.requests))
        asking.cancel()
        await asyncio.wait([asking])


async def test_wedged_until_it_is_restarted(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    await lines(http)
    fake.wedge()
    asking = asyncio.create_task(lines(http))
    await asyncio.wait([asking], timeout=0.05)
    assert not asking.done()
    assert (await http.get("/api/ps")).json()["models"]  # The server itself is well.
    fake.restart()
    with pytest.raises(BROKEN):
        await asking
    assert (await http.get("/api/ps")).json()["models"] == []
    assert said((await lines(http))[-1]) == ("", True)
    assert fake.load_count == 2


async def test_refuses_connections_and_accepts_them_again(fake: FakeOllama, http: httpx.AsyncClient) -> None:
    await http.get("/api/version")
    await fake.refuse()
    with pytest.raises(BROKEN):
        await http.get("/api/version")  # On the connection that there was.
    with pytest.raises(httpx.ConnectError):
        await http.get("/api/version")
    await fake.accept()
    assert (await http.get("/api/version")).status_code == 200
