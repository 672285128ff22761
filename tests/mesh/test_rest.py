"""REST on the whole stack: a real model, real tokens, the vendors' own clients."""

from typing import Any

import ollama
import openai
import pytest

from tests.mesh.edge import MODEL, Edge

COUNT: Any = [{"role": "user", "content": "Count to ten."}]


async def test_both_dialects_say_the_same_and_the_same_again(edge: Edge) -> None:
    """Deterministic, so one generation answers all: made for the first, kept or shared for the others."""
    token = edge.token()
    headers = {"Authorization": f"Bearer {token}"}
    native: Any = ollama.AsyncClient(host=edge.url, headers=headers)
    other = openai.AsyncOpenAI(base_url=f"{edge.url}/v1", api_key=token, max_retries=0)
    options = {"temperature": 0, "num_predict": 24, "top_p": 1.0}
    async with native, other:
        whole = await native.chat(MODEL, messages=COUNT, options=options)
        parts = [
            part.message.content
            async for part in await native.chat(MODEL, messages=COUNT, options=options, stream=True)
        ]
        said = await other.chat.completions.create(model=MODEL, messages=COUNT, temperature=0, max_tokens=24)
    assert whole.message.content
    assert "".join(parts) == whole.message.content == said.choices[0].message.content
    assert (whole.done_reason, said.choices[0].finish_reason) in {("length", "length"), ("stop", "stop")}
    assert said.usage
    assert said.usage.completion_tokens == whole.eval_count > 0


async def test_models_are_listed_and_embed(edge: Edge) -> None:
    async with openai.AsyncOpenAI(base_url=f"{edge.url}/v1", api_key=edge.token(role="user")) as client:
        names = [model.id async for model in client.models.list()]
        vectors = await client.embeddings.create(model="all-minilm", input=["one", "two"])
    assert MODEL in names
    assert [len(item.embedding) for item in vectors.data] == [384, 384]


async def test_strangers_are_told_so(edge: Edge) -> None:
    async with openai.AsyncOpenAI(base_url=f"{edge.url}/v1", api_key="sk-nobody", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
