"""The judges: `ollama` and `openai` as they come, sync and async, through a real Envoy."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ollama
import openai
import pytest
import pytest_asyncio
from pydantic import BaseModel

from tests.fakes.fake_ollama import Call, Fail, FakeOllama, Think, fake_model
from tests.service.rest_app import Rest, one_fake

pytestmark = pytest.mark.asyncio(loop_scope="module")

Place = tuple[Rest, FakeOllama]
Result = TypeVar("Result")
USER: Any = [{"role": "user", "content": "hello big world"}]
TOOL: Any = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}


class Person(BaseModel):
    name: str
    age: int


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncIterator[Place]:
    async with one_fake() as found:
        yield found


@contextmanager
def ollama_client(rest: Rest, **who: str) -> Iterator[ollama.Client]:
    client = ollama.Client(host=rest.url, headers=rest.bearer(**who))
    try:
        yield client
    finally:
        closing: Any = client  # Whose types are incomplete.
        closing.close()


def ollama_async(rest: Rest) -> Any:
    return ollama.AsyncClient(host=rest.url, headers=rest.bearer())


def openai_client(rest: Rest) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{rest.url}/v1", api_key=rest.token(), max_retries=0)


def openai_async(rest: Rest) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{rest.url}/v1", api_key=rest.token(), max_retries=0)


async def with_ollama(rest: Rest, work: Callable[[ollama.Client], Result]) -> Result:
    """Have a client that blocks work in a thread of its own: the service is on this loop."""

    def run() -> Result:
        with ollama_client(rest) as client:
            return work(client)

    return await asyncio.to_thread(run)


async def with_openai(rest: Rest, work: Callable[[openai.OpenAI], Result]) -> Result:
    def run() -> Result:
        with openai_client(rest) as client:
            return work(client)

    return await asyncio.to_thread(run)


# Ollama's


async def test_ollama_chats(place: Place) -> None:
    rest, _ = place

    def work(client: ollama.Client) -> tuple[ollama.ChatResponse, str]:
        streamed = client.chat("tiny", messages=USER, stream=True)
        return client.chat("tiny", messages=USER), "".join(part.message.content or "" for part in streamed)

    whole, streamed = await with_ollama(rest, work)
    assert whole.message.content == streamed == "hello big world"
    assert whole.done
    assert whole.done_reason == "stop"
    assert (whole.eval_count, type(whole.total_duration)) == (3, int)


async def test_ollama_chats_async(place: Place) -> None:
    rest, _ = place
    async with ollama_async(rest) as client:
        whole = await client.chat("tiny", messages=USER, think=True)
        parts = [part async for part in await client.chat("tiny", messages=USER, stream=True)]
    assert whole.message.content == "".join(part.message.content or "" for part in parts) == "hello big world"
    assert [part.done for part in parts] == [*(False for _ in parts[1:]), True]


async def test_ollama_generates_embeds_and_lists(place: Place) -> None:
    rest, _ = place

    def work(client: ollama.Client) -> None:
        generated = client.generate("tiny", "hello big world", options={"num_predict": 2})
        assert (generated.response, generated.done_reason) == ("hello big", "length")
        assert generated.context
        again = client.generate("tiny", "and", context=generated.context)
        assert again.response == "and"
        assert "".join(part.response or "" for part in client.generate("tiny", "a b", stream=True)) == "a b"
        vectors = client.embed("vectors", ["a", "b"])
        assert len(vectors.embeddings) == 2
        assert list(client.embeddings("vectors", "a").embedding) == pytest.approx(list(vectors.embeddings[0]))
        assert {model.model for model in client.list().models} == {"tiny:latest", "vectors:latest"}
        assert {model.model for model in client.ps().models} == {"tiny:latest", "vectors:latest"}
        shown = client.show("tiny")
        assert shown.details is not None
        assert set(shown.capabilities or ()) >= {"completion", "tools"}

    await with_ollama(rest, work)


async def test_ollama_calls_tools_and_fills_schemas(place: Place) -> None:
    rest, fake = place
    fake.script(Think("Hm."), Call("look", {"at": 1}))

    def work(client: ollama.Client) -> None:
        called = client.chat("tiny", messages=USER, tools=[TOOL], think=True)
        assert called.message.tool_calls
        (call,) = called.message.tool_calls
        assert (call.function.name, call.function.arguments) == ("look", {"at": 1})
        assert called.message.thinking == "Hm."
        answer: dict[str, Any] = {"role": "tool", "content": "seen", "tool_name": "look"}
        said = client.chat("tiny", messages=[*USER, called.message, answer])
        assert said.message.content
        filled = client.chat("tiny", messages=USER, format=Person.model_json_schema())
        assert Person.model_validate_json(filled.message.content or "").name == "hello big world"

    await with_ollama(rest, work)


async def test_ollama_raises_what_was_refused_and_what_broke(place: Place) -> None:
    rest, fake = place

    def work(client: ollama.Client) -> None:
        asks: list[Callable[[], object]] = [
            lambda: client.chat("nope", messages=USER),
            lambda: list(client.chat("nope", messages=USER, stream=True)),
        ]
        for ask in asks:
            with pytest.raises(ollama.ResponseError) as refused:
                ask()
            assert (refused.value.status_code, refused.value.error) == (404, "model 'nope' not found")
        with pytest.raises(ollama.ResponseError) as hot:
            client.chat("tiny", messages=USER, options={"temperature": 1.5})
        assert hot.value.status_code == 400
        with pytest.raises(ollama.ResponseError) as pushed:
            client.push("tiny")
        assert pushed.value.status_code == 403
        fake.script("a", "b", Fail("boom"))
        with pytest.raises(ollama.ResponseError, match="the instance was lost"):
            list(client.chat("tiny", messages=USER, stream=True))

    await with_ollama(rest, work)
    nobody: Any = ollama.AsyncClient(host=rest.url)
    with pytest.raises(ollama.ResponseError) as stranger:
        await nobody.list()
    assert stranger.value.status_code == 401
    await nobody.close()


# OpenAI's


async def test_openai_chats(place: Place) -> None:
    rest, _ = place

    def work(client: openai.OpenAI) -> None:
        whole = client.chat.completions.create(model="tiny", messages=USER)
        assert whole.choices[0].message.content == "hello big world"
        assert whole.choices[0].finish_reason == "stop"
        assert whole.usage
        assert whole.usage.total_tokens == 6
        stream = client.chat.completions.create(
            model="tiny",
            messages=USER,
            stream=True,
            stream_options={"include_usage": True},
        )
        parts = list(stream)
        assert "".join(part.choices[0].delta.content or "" for part in parts[:-1]) == "hello big world"
        assert parts[-1].usage == whole.usage
        assert {part.id for part in parts} == {parts[0].id}

    await with_openai(rest, work)


async def test_openai_chats_async(place: Place) -> None:
    rest, _ = place
    async with openai_async(rest) as client:
        whole = await client.chat.completions.create(model="tiny", messages=USER, max_tokens=2)
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("hello big", "length")
        stream = await client.chat.completions.create(model="tiny", messages=USER, stream=True)
        text = "".join([part.choices[0].delta.content or "" async for part in stream])
        async with client.chat.completions.stream(model="tiny", messages=USER) as events:
            final = await events.get_final_completion()
    assert text == final.choices[0].message.content == "hello big world"


async def test_openai_completes_embeds_and_lists(place: Place) -> None:
    rest, _ = place

    def work(client: openai.OpenAI) -> None:
        assert client.completions.create(model="tiny", prompt="a b").choices[0].text == "a b"
        parts = client.completions.create(model="tiny", prompt="a b", stream=True)
        assert "".join(part.choices[0].text for part in parts) == "a b"
        coded = client.embeddings.create(model="vectors", input=["a", "b"])  # As base64, unasked.
        plain = client.embeddings.create(model="vectors", input="a", encoding_format="float")
        assert len(coded.data) == 2
        assert coded.data[0].embedding == pytest.approx(plain.data[0].embedding, rel=1e-6)
        assert [model.id for model in client.models.list()] == ["tiny:latest", "vectors:latest"]
        assert client.models.retrieve("tiny:latest").owned_by == "library"

    await with_openai(rest, work)


async def test_openai_calls_tools_and_fills_schemas(place: Place) -> None:
    rest, fake = place

    def work(client: openai.OpenAI) -> None:
        choice: Any
        for streamed in (False, True):
            fake.script(Call("look", {"at": 1}))
            if streamed:
                with client.chat.completions.stream(model="tiny", messages=USER, tools=[TOOL]) as events:
                    choice = events.get_final_completion().choices[0]
            else:
                choice = client.chat.completions.create(model="tiny", messages=USER, tools=[TOOL]).choices[0]
            assert choice.finish_reason == "tool_calls"
            (call,) = choice.message.tool_calls
            assert call.type == "function"
            assert (call.function.name, call.function.arguments) == ("look", '{"at":1}')
        filled = client.chat.completions.parse(model="tiny", messages=USER, response_format=Person)
        assert filled.choices[0].message.parsed
        assert filled.choices[0].message.parsed.name == "hello big world"

    await with_openai(rest, work)


async def test_openai_raises_what_was_refused_and_what_broke(place: Place) -> None:
    rest, fake = place
    asked: dict[str, Any] = {"model": "tiny", "messages": USER}

    def work(client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(**asked | {"model": "nope"})
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as many:
            client.chat.completions.create(**asked, n=2)
        assert (many.value.param, many.value.code) == ("n", "unsupported_value")
        with pytest.raises(openai.BadRequestError) as hot:
            client.chat.completions.create(**asked, temperature=1.5, stream=True)
        assert hot.value.param == "temperature"
        fake.script("a", "b", Fail("boom"))
        with pytest.raises(openai.APIError) as lost:
            list(client.chat.completions.create(**asked, stream=True))
        assert lost.value.code == "instance_lost"
        with pytest.raises(openai.AuthenticationError) as stranger:
            client.with_options(api_key="sk-nothing").models.list()
        assert stranger.value.code == "invalid_api_key"

    await with_openai(rest, work)


async def test_images_go_as_data_urls_and_as_base64() -> None:

    picture = b"\x89PNG not really"
    coded = base64.b64encode(picture).decode()
    async with one_fake(fake_model("eyes:latest", "completion", "vision")) as (rest, fake):
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{coded}"}}
        text = {"type": "text", "text": "what?"}
        async with openai_async(rest) as client:
            message: Any = {"role": "user", "content": [text, part]}
            await client.chat.completions.create(model="eyes", messages=[message])
        async with ollama_async(rest) as other:
            await other.chat("eyes", messages=[{"role": "user", "content": "what?", "images": [picture]}])
        sent = [request.body["messages"] for request in fake.asked("/api/chat")]
        assert sent == [[{"role": "user", "content": "what?", "images": [coded]}]] * 2
