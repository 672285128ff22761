"""LangChain's own tests of chat models and embeddings, for its own clients pointed at the edge.

Twice each: before the fake, which is as able as these tests want, so that what fails is the wire's; and before the
embedded model, whose 135 million parameters are too few for some. Those are named, with what they ask of a model, in
`BEYOND`; docs/rest.md lists them too.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests

from tests.contract.ollama_servers import CHAT, EMBEDDING, fake_server, runtime_server
from tests.service.rest_thread import Edge, before, in_thread

pytestmark = [
    pytest.mark.timeout(180),
    # Of LangChain and its libraries among themselves.
    pytest.mark.filterwarnings(
        "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning"
    ),
]

ANSWER_TOKENS_MAX = 64
# What the embedded model cannot do, by test: what it would have to. It may by chance.
BEYOND = {
    "test_tool_calling": "read an argument out of a sentence",
    "test_tool_calling_async": "read an argument out of a sentence",
    "test_bind_runnables_as_tools": "call a tool whose schema is loose",
    "test_unicode_tool_call_integration": "repeat a text in other letters",
    "test_structured_output": "end a text of its own within a schema",
    "test_structured_output_async": "end a text of its own within a schema",
    "test_structured_output_pydantic_2_v1": "end a text of its own within a schema",
    "test_structured_output_optional_param": "end a text of its own within a schema",
    "test_json_mode": "follow a description of a JSON object",
}


@contextlib.contextmanager
def fake_edge() -> Iterator[Edge]:
    with fake_server() as server, in_thread(lambda: before(server.url)) as edge:
        yield edge


@contextlib.contextmanager
def runtime_edge() -> Iterator[Edge]:
    with runtime_server() as server, in_thread(lambda: before(server.url)) as edge:
        yield edge


@pytest.fixture(scope="module")
def before_the_fake() -> Iterator[Edge]:
    with fake_edge() as edge:
        yield edge


@pytest.fixture(scope="module")
def before_the_model() -> Iterator[Edge]:
    with runtime_edge() as edge:
        yield edge


class OllamaChat(ChatModelIntegrationTests):
    """`ChatOllama` at /api/chat."""

    edge: ClassVar[Edge]

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOllama

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": CHAT,
            "base_url": self.edge.url,
            "client_kwargs": {"headers": self.edge.headers},
            "temperature": 0,
            "num_predict": ANSWER_TOKENS_MAX,
        }

    @property
    def has_tool_choice(self) -> bool:
        return False  # Ollama has none.

    @property
    def supports_json_mode(self) -> bool:
        return True


class OpenAIChat(ChatModelIntegrationTests):
    """`ChatOpenAI` at /v1/chat/completions."""

    edge: ClassVar[Edge]

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": CHAT,
            "base_url": f"{self.edge.url}/v1",
            "api_key": self.edge.token,
            "default_headers": {"Connection": "close"},
            "temperature": 0,
            "max_tokens": ANSWER_TOKENS_MAX,
            "stream_usage": True,
        }

    @property
    def supports_json_mode(self) -> bool:
        return True


class OllamaVectors(EmbeddingsIntegrationTests):
    """`OllamaEmbeddings` at /api/embed."""

    edge: ClassVar[Edge]

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OllamaEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {
            "model": EMBEDDING,
            "base_url": self.edge.url,
            "client_kwargs": {"headers": self.edge.headers},
        }


class OpenAIVectors(EmbeddingsIntegrationTests):
    """`OpenAIEmbeddings` at /v1/embeddings."""

    edge: ClassVar[Edge]

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {
            "model": EMBEDDING,
            "base_url": f"{self.edge.url}/v1",
            "api_key": self.edge.token,
            "default_headers": {"Connection": "close"},
            "check_embedding_ctx_length": False,  # Or it sends tokens of OpenAI's own models.
        }


class BeforeTheFake:
    @pytest.fixture(autouse=True)
    def _edge(self, before_the_fake: Edge, request: pytest.FixtureRequest) -> None:
        request.cls.edge = before_the_fake


class BeforeTheModel:
    @pytest.fixture(autouse=True)
    def _edge(self, before_the_model: Edge, request: pytest.FixtureRequest) -> None:
        request.cls.edge = before_the_model
        if wanted := BEYOND.get(request.node.originalname):
            request.applymarker(pytest.mark.xfail(reason=f"needs a larger model, to {wanted}", strict=False))


class TestOllamaChatBeforeTheFake(BeforeTheFake, OllamaChat):
    pass


class TestOpenAIChatBeforeTheFake(BeforeTheFake, OpenAIChat):
    pass


class TestOllamaChat(BeforeTheModel, OllamaChat):
    pass


class TestOpenAIChat(BeforeTheModel, OpenAIChat):
    pass


class TestOllamaVectorsBeforeTheFake(BeforeTheFake, OllamaVectors):
    pass


class TestOpenAIVectorsBeforeTheFake(BeforeTheFake, OpenAIVectors):
    pass


class TestOllamaVectors(BeforeTheModel, OllamaVectors):
    pass


class TestOpenAIVectors(BeforeTheModel, OpenAIVectors):
    pass
