"""One model has one key, however it is spelt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ollamesh.inference.v1.completion_pb2 import ChatRequest

from services.inference.core.endpoints import parse_endpoint
from services.inference.core.names import GRAMMAR, is_name, key


@pytest.mark.parametrize(
    "spelling",
    [
        "mistral",
        "mistral:latest",
        "Mistral:Latest",
        "library/mistral",
        "library/mistral:latest",
        "registry.ollama.ai/library/mistral",
        "registry.ollama.ai/library/mistral:latest",
    ],
)
def test_spellings_of_one_model(spelling: str) -> None:
    assert key(spelling) == "mistral:latest"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3.2:3b", "llama3.2:3b"),
        ("someone/llama3.2", "someone/llama3.2:latest"),
        ("registry.ollama.ai/someone/llama3.2", "someone/llama3.2:latest"),
        (
            "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
            "hf.co/bartowski/llama-3.2-1b-instruct-gguf:q4_k_m",
        ),
        ("localhost:5000/library/mistral", "localhost:5000/library/mistral:latest"),
    ],
)
def test_what_differs_stays_apart(name: str, expected: str) -> None:
    assert key(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "mistral",
        "llama3.2:3b",
        "Qwen2.5-Coder:7b-instruct-q4_K_M",
        "someone/llama3.2",
        "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
        "localhost:5000/library/mistral:latest",
    ],
)
def test_names_of_models(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "two words",
        "a/b/c/d",
        "../etc/passwd",
        "a..b",
        ":latest",
        "mistral:",
        "mistral\n",
        "mistrál",
        "a" * 600,
    ],
)
def test_what_is_no_name(name: str) -> None:
    assert not is_name(name)


def test_configuration_and_requests_know_one_grammar() -> None:
    options = str(ChatRequest.DESCRIPTOR.fields_by_name["model"].GetOptions())
    assert f'pattern: "{GRAMMAR}"' in options.replace("\\\\", "\\")


@given(st.text())
def test_every_text_has_a_key_and_a_key_is_its_own(name: str) -> None:
    assert key(key(name)) == key(name)


@pytest.mark.parametrize(
    ("text", "name", "secure"),
    [
        ("http://127.0.0.1:11434", "127.0.0.1:11434", False),
        ("127.0.0.1", "127.0.0.1:11434", False),
        ("gpu-1:8080", "gpu-1:8080", False),
        ("http://gpu-1", "gpu-1:80", False),
        ("https://ollama.example", "ollama.example:443", True),
        ("HTTPS://ollama.example/gpu/", "ollama.example:443/gpu", True),
        ("[::1]:11434", "[::1]:11434", False),
    ],
)
def test_where_an_instance_is(text: str, name: str, *, secure: bool) -> None:
    endpoint = parse_endpoint(text)
    assert endpoint is not None
    assert (endpoint.name, endpoint.secure) == (name, secure)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://gpu-1",
        "http://",
        "http://gpu-1:0",
        "http://gpu-1:port",
        "http://gpu-1:99999",
        "http://user:secret@gpu-1",
        "http://gpu-1?x=1",
        "http://[::1",
        "http://gpu\r\nx-1",
        "http://gpu 1",
        "http://a..b",
        f"http://{'a' * 64}.example",
        f"http://{'a.' * 127}",
    ],
)
def test_what_is_no_instance(text: str) -> None:
    assert parse_endpoint(text) is None
