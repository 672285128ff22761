"""Ollama's requests, as they are read: options, durations, names, hosts, formats."""

import math
from datetime import UTC, datetime

import pytest

from deploy.local.runtime.errors import (
    InvalidFormatError,
    MalformedBodyError,
    MissingBodyError,
    OptionTypeError,
)
from deploy.local.runtime.wire.durations import keep_alive_s
from deploy.local.runtime.wire.hosts import allowed_host
from deploy.local.runtime.wire.names import full_name
from deploy.local.runtime.wire.options import parse_options
from deploy.local.runtime.wire.replies import ChatReply, Message, encode
from deploy.local.runtime.wire.requests import ChatRequest, GenerateRequest, parse
from deploy.local.runtime.wire.vectors import unit


def test_options_get_ollamas_defaults_and_llamas_names() -> None:
    assert parse_options({"num_predict": 5, "top_k": 3.7, "stop": ["x"]}).sampling(context_length=100) == {
        "n_keep": 4,
        "seed": -1,
        "n_predict": 5,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.0,
        "typical_p": 1.0,
        "repeat_last_n": 64,
        "temperature": 0.8,
        "repeat_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop": ["x"],
    }


@pytest.mark.parametrize(
    ("wanted", "bounded"), [(None, 1000), (-1, 1000), (-2, 1000), (7, 7), (5000, 1000), (0, 0)]
)
def test_every_completion_ends(wanted: int | None, bounded: int) -> None:
    assert parse_options({"num_predict": wanted}).sampling(context_length=100)["n_predict"] == bounded


@pytest.mark.parametrize(("given", "length"), [({}, None), ({"num_ctx": 512}, 512), ({"num_ctx": 0}, None)])
def test_the_context_length_is_the_models_unless_given(given: dict[str, object], length: int | None) -> None:
    assert parse_options(given).context_length == length


def test_unknown_options_and_nulls_are_left_out() -> None:
    options = parse_options({"mirostat": "x", "seed": None, "use_mmap": True, "num_gpu": 9})
    assert options.numbers == {"num_gpu": 9}


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("seed", "1", 'option "seed" must be of type integer'),
        ("seed", True, 'option "seed" must be of type integer'),
        ("temperature", [], 'option "temperature" must be of type float32'),
        ("use_mmap", 1, 'option "use_mmap" must be of type boolean'),
        ("stop", "x", 'option "stop" must be of type array'),
        ("stop", [1], 'option "stop" must be of an array of strings'),
    ],
)
def test_a_wrong_type_is_named(name: str, value: object, text: str) -> None:
    with pytest.raises(OptionTypeError) as refusal:
        parse_options({name: value})
    assert str(refusal.value) == text


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (0, 0),
        (2.5, 2.5),
        (-1, math.inf),
        ("0", 0),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("300ms", 0.3),
        ("1us", 1e-6),
        ("+2s", 2),
        ("-1m", math.inf),
        ("-1s", math.inf),
    ],
)
def test_durations_are_gos(given: float | str, seconds: float) -> None:
    assert keep_alive_s(given) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("", 'time: invalid duration ""'),
        ("300", 'time: missing unit in duration "300"'),
        ("soon", 'time: invalid duration "soon"'),
        ("5m3", 'time: invalid duration "5m3"'),
        ("5 m", 'time: invalid duration "5 m"'),
        ("5d", 'time: unknown unit "d" in duration "5d"'),
    ],
)
def test_what_is_no_duration_is_refused(given: str, text: str) -> None:
    with pytest.raises(MalformedBodyError) as refusal:
        keep_alive_s(given)
    assert str(refusal.value) == text


@pytest.mark.parametrize(
    ("given", "full"), [("smollm2", "smollm2:latest"), ("SmolLM2:135M", "smollm2:135m"), ("a/b:c", "a/b:c")]
)
def test_names_are_completed(given: str, full: str) -> None:
    assert full_name(given) == full


@pytest.mark.parametrize(
    ("host", "fine"),
    [
        ("127.0.0.1:11434", True),
        ("[::1]:11434", True),
        ("10.1.2.3", True),
        ("localhost", True),
        ("ollama:11434", True),
        ("my.laptop.local", True),
        ("LOCALHOST:1", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example:80", False),
        ("localhost.evil.example", False),
    ],
)
def test_hosts_that_could_be_somebody_elses_are_refused(host: str, fine: bool) -> None:  # noqa: FBT001
    assert allowed_host(host) is fine


def test_formats() -> None:
    for nothing in (b"{}", b'{"format": null}', b'{"format": ""}'):
        assert parse(nothing, ChatRequest).schema is None
    assert parse(b'{"format": "json"}', GenerateRequest).schema == {"type": "object"}
    assert parse(b'{"format": {"type": "integer"}}', GenerateRequest).schema == {"type": "integer"}
    with pytest.raises(InvalidFormatError):
        _ = parse(b'{"format": 3}', GenerateRequest).schema


def test_streams_unless_told_not_to() -> None:
    assert [
        parse(body, ChatRequest).streamed for body in (b"{}", b'{"stream": null}', b'{"stream": false}')
    ] == [
        True,
        True,
        False,
    ]


def test_bodies() -> None:
    with pytest.raises(MissingBodyError):
        parse(b" \n", ChatRequest)
    with pytest.raises(MalformedBodyError):
        parse(b"[" * 100_000, ChatRequest)
    request = parse(b'{"model": "m", "unknown": 1, "messages": [{"role": "user"}]}', ChatRequest)
    assert (request.model, (request.messages or [])[0].text) == ("m", "")


def test_a_reply_leaves_out_what_go_would() -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    reply = ChatReply(model="m", created_at=at, message=Message(role="assistant", content=""), done=False)
    assert encode(reply) == (
        b'{"model":"m","created_at":"2026-01-02T00:00:00Z","done":false,'
        b'"message":{"role":"assistant","content":""}}'
    )


def test_vectors_are_shortened_and_of_length_one() -> None:
    assert unit([3.0, 4.0]) == [0.6, 0.8]
    assert unit([3.0, 4.0, 9.0], dimensions=2) == [0.6, 0.8]
    assert unit([3.0, 4.0], dimensions=9) == [0.6, 0.8]
    assert unit([0.0, 0.0]) == [0.0, 0.0]
