"""What Ollama lets a client change on its disk, which the fake lets too and the embedded runtime does not."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256

import httpx
import ollama
import pytest

from tests.fakes.fake_ollama import CHAT_MODEL, Cut, Fail, FakeOllama, Outcome, fake_model

CHAT = CHAT_MODEL.name
NEW = fake_model("new:latest", "completion", size_bytes=100)


@pytest.fixture
async def fake() -> AsyncIterator[FakeOllama]:
    async with FakeOllama() as fake:
        yield fake


@pytest.fixture
async def client(fake: FakeOllama) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(host=fake.url, timeout=10) as client:
        yield client


@pytest.fixture
async def http(fake: FakeOllama) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=fake.url, timeout=10) as http:
        yield http


async def test_a_copy_is_a_model_of_its_own(fake: FakeOllama, client: ollama.AsyncClient) -> None:
    await client.copy(CHAT, "mine")
    assert (await client.show("mine")).modelinfo
    await client.delete(CHAT)
    assert fake.models == ["all-minilm:latest", "mine:latest"]
    with pytest.raises(ollama.ResponseError, match="not found"):
        await client.show(CHAT)


async def test_a_pull_says_how_far_it_is(fake: FakeOllama, client: ollama.AsyncClient) -> None:
    fake.offer(NEW, 10, 60)
    told = [each async for each in await client.pull("new", stream=True)]
    assert [each.completed for each in told if each.total] == [10, 60, 100]
    assert {each.digest for each in told if each.total} == {f"sha256:{NEW.digest}"}
    assert (told[0].status, told[-1].status) == ("pulling manifest", "success")
    assert "new:latest" in fake.models


async def test_a_pull_that_was_left_goes_on_where_it_stopped(
    fake: FakeOllama, client: ollama.AsyncClient, http: httpx.AsyncClient
) -> None:
    gate = asyncio.Event()
    fake.offer(NEW, 10, 60, gate, 90)
    async with http.stream("POST", "/api/pull", json={"model": "new"}) as reply:
        async for line in reply.aiter_lines():
            if '"completed":60' in line:
                break
    (left,) = fake.asked("/api/pull")
    await asyncio.wait_for(left.ended.wait(), 10)
    assert left.outcome is Outcome.LEFT
    gate.set()
    told = [each.completed async for each in await client.pull("new", stream=True) if each.total]
    assert told == [60, 90, 100]


async def test_a_pull_fails_on_its_stream(fake: FakeOllama, client: ollama.AsyncClient) -> None:
    fake.offer(NEW, 10, Fail("max retries exceeded"))
    with pytest.raises(ollama.ResponseError, match="max retries"):
        _ = [each async for each in await client.pull("new", stream=True)]
    fake.offer(NEW, 10, Cut())
    with pytest.raises(httpx.RemoteProtocolError):
        _ = [each async for each in await client.pull("new", stream=True)]
    assert "new:latest" not in fake.models


async def test_a_model_is_made_of_another_or_of_files(
    fake: FakeOllama, client: ollama.AsyncClient, http: httpx.AsyncClient
) -> None:
    assert (await client.create("mine", from_=CHAT)).status == "success"
    data = b"weights" * 10_000
    digest = f"sha256:{sha256(data).hexdigest()}"
    assert (await http.head(f"/api/blobs/{digest}")).status_code == 404
    assert (await http.post(f"/api/blobs/{digest}", content=data)).status_code == 201
    assert (await http.head(f"/api/blobs/{digest}")).status_code == 200
    assert (await http.post(f"/api/blobs/{digest}", content=data)).status_code == 200
    wrong = await http.post(f"/api/blobs/sha256:{'0' * 64}", content=data)
    assert (wrong.status_code, "digest mismatch" in wrong.json()["error"]) == (400, True)
    assert (await client.create("filed", files={"a.gguf": digest})).status == "success"
    assert fake.models[-2:] == ["mine:latest", "filed:latest"]
    with pytest.raises(ollama.ResponseError, match="specified"):
        await client.create("nothing")
