"""What there is, changed over REST by the unmodified `ollama` client: pulled, copied, made, deleted, by admins alone."""

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import ollama
import pytest

from services.common.grpc.client import MESSAGE_BYTES_MAX
from tests.fakes.fake_ollama import Fail, FakeOllama, Hang, fake_model
from tests.service.inference_app import TINY, WITHIN_S, asked, left, preload
from tests.service.rest_app import Rest, edge_before, next_line, one_fake

NEW = fake_model("new:latest", "completion", size_bytes=100)


def client(rest: Rest) -> Any:
    return ollama.AsyncClient(host=rest.url, headers=rest.bearer(role="admin"))


async def steps_of(admin: Any, model: str) -> list[Any]:
    return [step async for step in await admin.pull(model, stream=True)]


async def names(rest: Rest) -> set[str]:
    return {model["name"] for model in (await rest.get("/api/tags")).json["models"]}


async def test_a_pull_tells_how_far_it_is() -> None:
    async with one_fake(TINY) as (rest, fake), client(rest) as admin:
        gate = asyncio.Event()
        fake.offer(NEW, 40, gate)
        steps = []
        async for step in await admin.pull("new", stream=True):
            steps.append(step)
            if step.completed == 40:
                assert (step.digest, step.total) == (f"sha256:{NEW.digest}", 100)
                gate.set()
        assert gate.is_set()
        assert [step.status for step in steps].count("success") == 1
        assert steps[-1].status == "success"
        assert await names(rest) == {"tiny:latest", "new:latest"}  # When it says success, it is there.
        assert (await admin.pull("new")).status == "success"


async def test_a_pull_that_cannot_be() -> None:
    async with one_fake(TINY) as (rest, fake), client(rest) as admin:
        with pytest.raises(ollama.ResponseError, match="'nowhere' not found") as missing:
            await admin.pull("nowhere")
        assert missing.value.status_code == 404
        with pytest.raises(ollama.ResponseError, match="'nowhere' not found"):
            await steps_of(admin, "nowhere")
        fake.offer(NEW, 40, Fail("boom"))
        with pytest.raises(ollama.ResponseError, match="instance"):
            await steps_of(admin, "new")
        bad = await rest.post("/api/pull", {"model": "no/such/../name"}, headers=rest.bearer(role="admin"))
        assert (bad.status, bad.json) == (400, {"error": "model: is no model's name"})


async def test_who_leaves_a_pull_ends_it() -> None:
    async with one_fake(TINY) as (rest, fake):
        fake.offer(NEW, 40, Hang())
        request = rest.stack.http.post(
            f"{rest.url}/api/pull", json={"model": "new"}, headers=rest.bearer(role="admin")
        )
        async with request as answer:
            while b'"completed":40' not in await next_line(answer):
                pass
            answer.close()
        assert await left(await asked(fake, path="/api/pull"))


async def test_models_are_copied_and_deleted() -> None:
    async with one_fake(TINY) as (rest, _), client(rest) as admin:
        assert (await admin.copy("tiny", "mine")).status == "success"
        assert await names(rest) == {"tiny:latest", "mine:latest"}
        assert (await admin.delete("mine")).status == "success"
        assert await names(rest) == {"tiny:latest"}
        with pytest.raises(ollama.ResponseError) as gone:
            await admin.delete("mine")
        assert gone.value.status_code == 404
        with pytest.raises(ollama.ResponseError) as nothing:
            await admin.copy("nope", "mine")
        assert nothing.value.status_code == 404


async def test_models_are_made_of_others_and_of_files(tmp_path: Path) -> None:
    file = tmp_path / "weights.gguf"
    file.write_bytes(b"w" * (3 * MESSAGE_BYTES_MAX // 2))  # More than any one message may hold.
    digest = f"sha256:{sha256(file.read_bytes()).hexdigest()}"
    async with one_fake(TINY) as (rest, fake), client(rest) as admin:
        headers = rest.bearer(role="admin")
        assert (await rest.ask("HEAD", f"/api/blobs/{digest}", headers=headers)).status == 404
        assert await admin.create_blob(file) == digest
        assert fake.blobs[digest] == file.read_bytes()
        assert (await rest.ask("HEAD", f"/api/blobs/{digest}", headers=headers)).status == 200
        forged = f"sha256:{sha256(b'this').hexdigest()}"
        assert (await rest.ask("POST", f"/api/blobs/{forged}", b"that", headers=headers)).status == 400
        assert forged not in fake.blobs
        assert (await admin.create("made", files={"weights.gguf": digest})).status == "success"
        steps = [
            step async for step in await admin.create("son", from_="tiny", system="Be brief.", stream=True)
        ]
        assert steps[-1].status == "success"
        assert await names(rest) == {"tiny:latest", "made:latest", "son:latest"}
        sent = [request.body for request in fake.asked("/api/create")]
        assert sent == [
            {"model": "made", "files": {"weights.gguf": digest}, "stream": True},
            {"model": "son", "from": "tiny", "system": "Be brief.", "stream": True},
        ]


async def test_a_blob_is_refused_early_and_for_its_name() -> None:
    async with one_fake(TINY) as (rest, fake):
        headers = rest.bearer(role="admin")
        wrong = await rest.ask("POST", "/api/blobs/sha256:abc", b"x", headers=headers)
        assert (wrong.status, "digest" in wrong.json["error"]) == (400, True)
        assert (await rest.ask("HEAD", "/api/blobs/sha256:abc", headers=headers)).status == 400
        assert fake.blobs == {}


async def test_an_admin_unloads_and_a_user_does_not() -> None:
    async with one_fake(TINY) as (rest, fake):
        gone = {"model": "tiny", "keep_alive": 0}
        assert (await rest.post("/api/generate", gone)).json["done_reason"] == "unload"
        assert fake.loaded
        answer = await rest.post("/api/generate", gone, headers=rest.bearer(role="admin"))
        assert answer.json["done_reason"] == "unload"
        async with asyncio.timeout(WITHIN_S):
            while fake.loaded:
                await asyncio.sleep(0.01)
        assert (await rest.get("/api/ps")).json["models"] == []
        # Anybody has it loaded by using it, and says so by an empty request.
        assert (await rest.post("/api/chat", {"model": "tiny"})).json["done_reason"] == "load"
        assert fake.loaded


async def test_a_model_in_two_places_is_listed_once() -> None:
    async with FakeOllama(TINY) as one, FakeOllama(TINY) as two:
        await preload(one, TINY)
        await preload(two, TINY)
        async with edge_before(one.url, two.url) as rest:
            assert await names(rest) == {"tiny:latest"}
            assert [model["name"] for model in (await rest.get("/api/ps")).json["models"]] == ["tiny:latest"]


async def test_those_who_may_not_use_a_model_do_not_see_it() -> None:
    other = fake_model("other:latest", "completion")
    policy = '{"user": {"models": ["tiny:*"]}}'
    async with one_fake(TINY, other, policy=policy) as (rest, _):
        assert await names(rest) == {"tiny:latest"}
        assert [model["id"] for model in (await rest.get("/v1/models")).json["data"]] == ["tiny:latest"]
        assert {model["name"] for model in (await rest.get("/api/ps")).json["models"]} == {"tiny:latest"}
        assert (await rest.get("/v1/models/other:latest")).status == 404
        assert (await rest.post("/api/show", {"model": "other"})).status == 404
        messages = [{"role": "user", "content": "hello"}]
        for path in ("/api/chat", "/v1/chat/completions"):
            assert (await rest.post(path, {"model": "other", "messages": messages})).status == 403


async def test_show_is_the_instances_own() -> None:
    async with one_fake(TINY) as (rest, fake), aiohttp.ClientSession() as http:
        async with http.post(f"{fake.url}/api/show", json={"model": "tiny"}) as answer:
            theirs = await answer.json()
        for body in ({"model": "tiny"}, {"name": "tiny:latest", "verbose": True}):
            assert (await rest.post("/api/show", body)).json == theirs
