"""Fixtures of the contract tests that more than one file uses."""

import contextlib
from collections.abc import Iterator

import httpx
import ollama
import pytest

from tests.contract.ollama_servers import OllamaServer, fake_server, machine_server, runtime_server


@pytest.fixture(scope="session")
def fake_ollama() -> Iterator[OllamaServer]:
    with fake_server() as server:
        yield server


@pytest.fixture(scope="session")
def runtime() -> Iterator[OllamaServer]:
    with runtime_server() as server:
        yield server


@pytest.fixture(scope="session")
def fake_machine() -> Iterator[OllamaServer]:
    with machine_server() as server:
        yield server


@pytest.fixture(params=["fake_ollama", "fake_machine", "runtime"])
def server(request: pytest.FixtureRequest) -> OllamaServer:
    """Any of those that keep Ollama's contract."""
    chosen: OllamaServer = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def client(server: OllamaServer) -> Iterator[ollama.Client]:
    with contextlib.closing(ollama.Client(host=server.url, timeout=60)) as client:
        yield client


@pytest.fixture
def http(server: OllamaServer) -> Iterator[httpx.Client]:
    with server.client() as http:
        yield http
