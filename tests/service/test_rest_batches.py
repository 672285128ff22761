"""Batches and files over REST: the unmodified `openai` client is the judge, through a real Envoy."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from services.inference.rest import openai_batch_servicer
from tests.fakes.fake_ollama import FakeOllama, Hang
from tests.service.inference_app import asked, left
from tests.service.rest_app import Rest, one_fake
from tests.stack import Database

WITHIN_S = 60.0


@asynccontextmanager
async def place(
    database: Database, **more: Any
) -> AsyncIterator[tuple[Rest, FakeOllama, openai.AsyncOpenAI]]:
    settings = {"DATABASE_URL": database("inference"), "batch_sweep_every_s": 0.1, **more}
    async with one_fake(**settings) as (rest, fake), client_of(rest) as client:
        yield rest, fake, client


def client_of(rest: Rest, **who: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{rest.url}/v1", api_key=rest.token(**who), max_retries=0)


def line(
    custom_id: str, text: str = "hello big world", *, url: str = "/v1/chat/completions", **body: Any
) -> str:
    usual = {"model": "tiny", "messages": [{"role": "user", "content": text}]}
    made = {"custom_id": custom_id, "method": "POST", "url": url, "body": {**usual, **body}}
    return json.dumps(made)


async def upload(client: openai.AsyncOpenAI, lines: Sequence[str]) -> Any:
    content = "\n".join(lines).encode()
    return await client.files.create(file=("input.jsonl", content), purpose="batch")


async def create(client: openai.AsyncOpenAI, lines: Sequence[str], **more: Any) -> Any:
    usual: dict[str, Any] = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    source = await upload(client, lines)
    return await client.batches.create(input_file_id=source.id, **{**usual, **more})


async def until_ended(client: openai.AsyncOpenAI, batch_id: str) -> Any:
    patient = client.with_options(max_retries=3)  # As any caller's that polls: a refusal may say "try again".
    async with asyncio.timeout(WITHIN_S):
        while (found := await patient.batches.retrieve(batch_id)).status in {"validating", "in_progress"}:
            await asyncio.sleep(0.05)
    return found


async def lines_of(client: openai.AsyncOpenAI, file_id: str) -> list[Any]:
    content = await client.files.content(file_id)
    return [json.loads(one) for one in content.text.splitlines()]


async def test_a_batch_goes_from_file_to_file(database: Database) -> None:
    async with place(database) as (_, fake, client):
        lines = [line(f"id-{number}", f"say {number}", max_tokens=20) for number in range(10)]
        lines.insert(5, line("absent", model="absent"))
        made = await create(client, [*lines, ""], metadata={"who": "me"})
        assert (made.object, made.endpoint, made.metadata) == ("batch", "/v1/chat/completions", {"who": "me"})
        ended = await until_ended(client, made.id)
        assert ended.status == "completed"
        counts = ended.request_counts
        assert (counts.total, counts.completed, counts.failed) == (11, 10, 1)
        assert ended.created_at <= ended.in_progress_at <= ended.completed_at <= ended.expires_at
        output = await lines_of(client, ended.output_file_id)
        assert {one["custom_id"] for one in output} == {f"id-{number}" for number in range(10)}
        for one in output:
            assert (one["response"]["status_code"], one["error"]) == (200, None)
            whole = openai.types.chat.ChatCompletion.model_validate(one["response"]["body"])
            assert whole.choices[0].message.content == f"say {one['custom_id'].removeprefix('id-')}"
            assert (whole.choices[0].finish_reason, whole.model) == ("stop", "tiny:latest")
            assert whole.usage is not None
            assert whole.usage.completion_tokens == 2
        (failed,) = await lines_of(client, ended.error_file_id)
        assert failed["custom_id"] == "absent"
        assert failed["response"]["status_code"] == 404
        assert failed["response"]["body"]["error"]["code"] == "model_not_found"
        about = await client.files.retrieve(ended.output_file_id)
        content = await client.files.content(ended.output_file_id)
        assert (about.purpose, about.bytes) == ("batch_output", len(content.content))
        assert len(fake.asked("/api/chat")) == 10


async def test_texts_are_completed_too(database: Database) -> None:
    async with place(database) as (_, _, client):
        body = {"custom_id": "a", "method": "POST", "url": "/v1/completions"}
        lines = [json.dumps({**body, "body": {"model": "tiny", "prompt": "go on"}})]
        made = await create(client, lines, endpoint="/v1/completions")
        ended = await until_ended(client, made.id)
        (one,) = await lines_of(client, ended.output_file_id)
        whole = openai.types.Completion.model_validate(one["response"]["body"])
        assert whole.choices[0].text == "go on"
        assert ended.error_file_id is None


async def test_files_are_kept_listed_and_deleted(database: Database) -> None:
    async with place(database) as (rest, _, client):
        content = "\n".join([line("a", "é" * 500), line("b")])
        made = [await upload(client, [content]) for _ in range(3)]
        assert (made[0].bytes, made[0].filename, made[0].purpose) == (
            len(content.encode()),
            "input.jsonl",
            "batch",
        )
        assert (await client.files.content(made[0].id)).content == content.encode()
        assert await client.files.retrieve(made[0].id) == made[0]
        for limit in (2, 10_000):  # The latter is OpenAI's largest.
            found = [one.id async for one in await client.files.list(limit=limit)]
            assert found == [one.id for one in made[::-1]]
        assert (await client.files.delete(made[1].id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(made[1].id)
        async with client_of(rest, org="org-2") as stranger:
            for asking in (
                stranger.files.retrieve(made[0].id),
                stranger.files.content(made[0].id),
                stranger.files.delete(made[0].id),
                stranger.batches.create(
                    input_file_id=made[0].id, endpoint="/v1/chat/completions", completion_window="24h"
                ),
            ):
                with pytest.raises(openai.NotFoundError):
                    await asking
            assert [one async for one in await stranger.files.list()] == []


async def test_batches_are_listed_and_cancelled(database: Database) -> None:
    async with place(database, batch_workers=1) as (rest, fake, client):
        fake.script("a", Hang())
        made = [await create(client, [line("a"), line("b")]) for _ in range(3)]
        running = await asked(fake)
        found = [one.id async for one in await client.batches.list(limit=2)]
        assert found == [one.id for one in made[::-1]]
        async with client_of(rest, org="org-2") as stranger:
            with pytest.raises(openai.NotFoundError):
                await stranger.batches.cancel(made[0].id)
        ended = await client.batches.cancel(made[0].id)
        assert (ended.status, ended.output_file_id) == ("cancelled", None)
        assert ended.cancelled_at is not None
        assert await left(running)
        assert (await until_ended(client, made[2].id)).status == "completed"


async def test_what_is_wrong_with_a_file_is_said_with_its_line(database: Database) -> None:
    async with place(database) as (_, fake, client):
        cases = [
            ([line("a"), "{"], "line 2: the body is not valid JSON"),
            ([line("a"), line("a")], "line 2: custom_id: is that of an earlier line"),
            ([line("a", url="/v1/completions")], "line 1: url: must be /v1/chat/completions"),
            ([line("a"), "", line("b", n=2)], "line 3: n: only 1 is supported here"),
            ([line("a"), line("b", stream=True)], "line 2: stream: is not possible in a batch"),
            ([line("a"), line("b", temperature=1.5)], "line 2: temperature: "),
            ([line("a"), line("b", "x" * 10_001)], "line 2: messages[0].content: "),
            ([line("x" * 257)], "line 1: custom_id: "),
            ([""], "items: are missing"),
        ]
        for lines, message in cases:
            with pytest.raises(openai.BadRequestError) as refusal:
                await create(client, lines)
            assert message in str(refusal.value), lines
        assert [one async for one in await client.batches.list()] == []
        assert fake.asked("/api/chat") == []


async def test_what_is_not_served_is_refused(database: Database) -> None:
    async with place(database) as (_, _, client):
        source = await upload(client, [line("a")])
        wrongs: list[dict[str, Any]] = [
            {"endpoint": "/v1/embeddings"},
            {"completion_window": "48h"},
            {"metadata": {"x" * 65: "y"}},
        ]
        for more in wrongs:
            usual: dict[str, Any] = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
            with pytest.raises(openai.BadRequestError):
                await client.batches.create(input_file_id=source.id, **{**usual, **more})
        with pytest.raises(openai.BadRequestError):
            await client.files.create(file=("x.jsonl", b"{}"), purpose="fine-tune")
        with pytest.raises(openai.NotFoundError):
            await client.batches.retrieve("batch_nonsense")
        with pytest.raises(openai.NotFoundError):
            await client.files.content("file-nonsense")


async def test_large_files_pass_and_larger_ones_do_not(database: Database) -> None:
    async with place(database, batch_bytes_max=24 * 2**20, batch_workers=0) as (_, _, client):
        filler = "x" * 9000
        lines = [line(str(number), f"{number} {filler}") for number in range(2200)]  # 20 MB.
        source = await upload(client, lines)
        assert source.bytes == len("\n".join(lines))
        made = await client.batches.create(
            input_file_id=source.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        assert made.request_counts is not None
        assert made.request_counts.total == 2200
        with pytest.raises(openai.APIStatusError) as refusal:
            await upload(client, [*lines, *lines])
        assert refusal.value.status_code == 400
        assert "is larger than" in str(refusal.value)


async def test_an_upload_that_stops_is_given_up(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_batch_servicer, "UPLOAD_S_MAX", 0.2)

    async def stops() -> AsyncIterator[bytes]:
        yield b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nbegun'
        await asyncio.Event().wait()

    async with place(database) as (rest, _, _), asyncio.timeout(WITHIN_S):
        headers = {**rest.bearer(), "content-type": "multipart/form-data; boundary=XX"}
        async with rest.stack.http.post(f"{rest.url}/v1/files", data=stops(), headers=headers) as answer:
            assert answer.status == 400
            error = (await answer.json())["error"]
    assert (error["param"], error["message"]) == ("file", "file: took too long to arrive")


async def test_without_a_database_there_are_none() -> None:
    async with one_fake() as (rest, _), client_of(rest) as client:
        with pytest.raises(openai.APIStatusError) as refusal:
            await client.batches.retrieve("batch_1")
        assert refusal.value.status_code == 501
