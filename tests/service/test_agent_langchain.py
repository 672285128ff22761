"""LangChain's own tests of chat models, for the agent's model over the gRPC that it uses.

As in test_rest_langchain.py twice: before the fake, which is as able as these tests want, so that what fails is the
wire's; and before the embedded model. What its 135 million parameters are too few for is named in `BEYOND`.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import grpc
import grpc.aio
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from pydantic import SecretStr

from services.agent.adapters.chat_model import MeshChatModel
from tests.contract.ollama_servers import CHAT, fake_server, runtime_server
from tests.service.rest_thread import Edge, direct, in_thread
from tests.service.test_rest_langchain import BEYOND

pytestmark = [
    pytest.mark.timeout(180),
    # Of LangChain and its libraries among themselves.
    pytest.mark.filterwarnings(
        "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning"
    ),
]

ANSWER_TOKENS_MAX = 64
LASTS_S = 150.0


class PerLoop:
    """A stub that can be called from any event loop: a channel of grpc.aio belongs to one."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._stubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()

    def Chat(self, *args: Any, **options: Any) -> Any:
        loop = asyncio.get_running_loop()
        if loop not in self._stubs:
            self._stubs[loop] = InferenceServiceStub(grpc.aio.insecure_channel(self._target))
        return self._stubs[loop].Chat(*args, **options)


def params(edge: Edge) -> dict[str, Any]:
    return {
        "model": CHAT,
        "temperature": 0,
        "output_token_count_max": ANSWER_TOKENS_MAX,
        "deadline_s": time.monotonic() + LASTS_S,
        "token": SecretStr(edge.token),
        "stub": PerLoop(edge.url),
        "blocking_stub": InferenceServiceStub(grpc.insecure_channel(edge.url)),
    }


class MeshChat(ChatModelIntegrationTests):
    edge: ClassVar[Edge]

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return MeshChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return params(self.edge)

    @property
    def has_tool_choice(self) -> bool:
        return False  # Ollama has none.

    @property
    def supports_json_mode(self) -> bool:
        return True


@contextlib.contextmanager
def before(server: Any) -> Iterator[Edge]:
    with server() as running, in_thread(lambda: direct(running.url)) as edge:
        yield edge


@pytest.fixture(scope="module")
def before_the_fake() -> Iterator[Edge]:
    with before(fake_server) as edge:
        yield edge


@pytest.fixture(scope="module")
def before_the_model() -> Iterator[Edge]:
    with before(runtime_server) as edge:
        yield edge


class TestUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return MeshChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return params(Edge(url="127.0.0.1:1", token="token"))

    @property
    def has_tool_choice(self) -> bool:
        return False


class TestBeforeTheFake(MeshChat):
    @pytest.fixture(autouse=True)
    def _edge(self, before_the_fake: Edge, request: pytest.FixtureRequest) -> None:
        request.cls.edge = before_the_fake


class TestBeforeTheModel(MeshChat):
    @pytest.fixture(autouse=True)
    def _edge(self, before_the_model: Edge, request: pytest.FixtureRequest) -> None:
        request.cls.edge = before_the_model
        if wanted := BEYOND.get(request.node.originalname):
            request.applymarker(pytest.mark.xfail(reason=f"needs a larger model, to {wanted}", strict=False))
