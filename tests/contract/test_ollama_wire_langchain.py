"""LangChain's own Ollama classes, unmodified, on either server."""

from typing import Literal

import ollama
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from pydantic import BaseModel, Field

from tests.contract.ollama_servers import CHAT, EMBEDDING, OllamaServer


@tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather in a city."""
    return f"Rain in {city}."


class Person(BaseModel):
    """Somebody."""

    name: str = Field(max_length=12)
    age: int


# LangChain's clients cannot be closed; this has the server do it after each reply.
CLOSING = {"headers": {"Connection": "close"}}


@pytest.fixture
def chat(server: OllamaServer) -> ChatOllama:
    return ChatOllama(
        model=CHAT,
        base_url=server.url,
        temperature=0,
        num_predict=40,
        validate_model_on_init=True,
        client_kwargs=CLOSING,
    )


def test_invoke_counts_its_tokens(chat: ChatOllama) -> None:
    reply = chat.invoke("Say hello to everybody.")
    assert reply.text
    assert reply.usage_metadata
    assert reply.usage_metadata["input_tokens"] > 0
    assert reply.usage_metadata["output_tokens"] > 0
    assert reply.response_metadata["model_name"] == CHAT
    assert reply.response_metadata["done_reason"] in {"stop", "length"}


async def test_astream_streams(chat: ChatOllama) -> None:
    pieces = [piece async for piece in chat.astream("Say hello to everybody.")]
    assert sum(bool(piece.text) for piece in pieces) > 2
    assert pieces[-1].chunk_position == "last" or pieces[-1].response_metadata.get("done")


def test_a_tool_is_called_and_its_result_is_answered(chat: ChatOllama) -> None:
    able = chat.bind_tools([get_weather])
    asked = HumanMessage("How is the weather in Paris?")
    called = able.invoke([asked])
    assert isinstance(called, AIMessage)
    (call,) = called.tool_calls
    assert call["name"] == "get_weather"
    assert call["args"]["city"] in {"Paris", "Rome"}
    result = ToolMessage("Rain.", tool_call_id=call["id"], name="get_weather")
    answer = able.invoke([asked, called, result])
    assert isinstance(answer, AIMessage)
    assert answer.text
    assert not answer.tool_calls


def test_structured_output_is_structured(chat: ChatOllama) -> None:
    person = chat.with_structured_output(Person, method="json_schema").invoke("Invent a person.")
    assert isinstance(person, Person)


def test_an_unknown_model_is_found_out(server: OllamaServer) -> None:
    with pytest.raises(ollama.ResponseError, match="not found"):
        ChatOllama(model="nope", base_url=server.url, client_kwargs=CLOSING).invoke("hi")
    with pytest.raises(ValueError, match="not found"):
        ChatOllama(model="nope", base_url=server.url, validate_model_on_init=True, client_kwargs=CLOSING)


async def test_embeddings(server: OllamaServer) -> None:
    embeddings = OllamaEmbeddings(model=EMBEDDING, base_url=server.url, client_kwargs=CLOSING)
    (document,) = embeddings.embed_documents(["The cat sat on the mat."])
    assert len(document) == 384
    assert await embeddings.aembed_query("The cat sat on the mat.") == pytest.approx(document, abs=1e-3)
