"""REST's bytes and words, without a service: what is put together by hand is what the libraries would have made."""

import inspect
import json
from typing import Any

import pytest
from google.api.httpbody_pb2 import HttpBody
from hypothesis import given
from hypothesis import strategies as st
from ollamesh.inference.v1 import completion_pb2 as pb

from services.common import errors as common_errors
from services.common.errors import InvalidRequest, Kind, MeshError, Violation
from services.inference import errors
from services.inference.rest import ollama_errors, ollama_requests, openai_errors, openai_replies
from services.inference.rest.bodies import first_part, part
from services.inference.rest.durations import seconds
from services.inference.rest.ollama_replies import Lines
from services.inference.rest.ollama_requests import ChatCall
from services.inference.rest.refusals import STATUSES
from services.inference.rest.wire import messages_at, renamed

FACTS: dict[str, Any] = {
    "model": "m",
    "capability": "tools",
    "asked_token_count": 2,
    "allowed_token_count": 1,
    "quota": "project.tokens_per_day",
}
FAILURES = [
    value
    for module in (errors, common_errors)
    for _, value in inspect.getmembers(module, inspect.isclass)
    if issubclass(value, MeshError) and hasattr(value, "reason") and not issubclass(value, InvalidRequest)
]


def delta(**values: object) -> pb.CompletionEvent:
    return pb.CompletionEvent(sequence=3, delta=pb.CompletionEvent.Delta(**values))  # type: ignore[arg-type]


class _Answer:
    """What Chunks needs of an answer."""

    stream_id, model_digest = "5" * 32, "abcdef0123456789"


def chunks(*, chat: bool, usage: bool = False) -> openai_replies.Chunks:
    return openai_replies.Chunks(_Answer(), 'a "model"', chat=chat, usage=usage)


@given(st.binary(max_size=400), st.text(max_size=200))
def test_parts_are_what_protobuf_would_make(data: bytes, kind: str) -> None:
    assert HttpBody.FromString(part(data)) == HttpBody(data=data)
    assert HttpBody.FromString(first_part(kind, data)) == HttpBody(content_type=kind, data=data)


@given(st.text(min_size=1))
def test_a_line_of_text_is_the_object_that_it_stands_for(text: str) -> None:
    for is_chat in (True, False):
        lines = Lines('a "model"', chat=is_chat)
        plain = json.loads(lines.line(delta(text=text)))
        rich = json.loads(lines.line(delta(text=text, thinking="x")))
        del rich["message" if is_chat else "thinking"], plain["created_at"], rich["created_at"]
        if is_chat:
            assert plain.pop("message") == {"role": "assistant", "content": text}
        assert plain == rich


@given(st.text(min_size=1))
def test_an_event_of_text_is_the_object_that_it_stands_for(text: str) -> None:
    for is_chat in (True, False):
        for usage in (True, False):
            found = chunks(chat=is_chat, usage=usage).events(delta(text=text)).decode()
            chunk = json.loads(found.removeprefix("data: ").removesuffix("\n\n"))
            (choice,) = chunk.pop("choices")
            assert choice.pop("delta" if is_chat else "text") == ({"content": text} if is_chat else text)
            assert choice == {"index": 0, "logprobs": None, "finish_reason": None}
            assert ("usage" in chunk) == usage
            assert (chunk["model"], chunk["system_fingerprint"]) == ('a "model"', "fp_abcdef0123")


def test_probabilities_in_each_vendors_shape() -> None:
    top = [pb.TopLogprob(token="b", logprob=-2.5, token_bytes=b"b")]
    told = delta(text="a", logprobs=[pb.TokenLogprob(token="a", logprob=-0.5, token_bytes=b"a", top=top)])
    line = json.loads(Lines("m", chat=True).line(told))
    one, other = (
        {"token": "a", "logprob": -0.5, "bytes": [97]},
        {"token": "b", "logprob": -2.5, "bytes": [98]},
    )
    assert line["logprobs"] == [{**one, "top_logprobs": [other]}]
    event = json.loads(chunks(chat=True).events(told).decode().removeprefix("data: "))
    assert event["choices"][0]["logprobs"] == {"content": [{**one, "top_logprobs": [other]}], "refusal": None}
    text = chunks(chat=False)
    assert text.events(delta(text="xyz"))
    legacy = json.loads(text.events(told).decode().removeprefix("data: "))
    assert legacy["choices"][0]["logprobs"] == {
        "tokens": ["a"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"b": -2.5}],
        "text_offset": [3],
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("5m", 300), ("1h30m", 5400), ("1.5h", 5400), ("250ms", 0.25), ("0", 0), ("0s", 0), ("-1m", -1),
        (0, 0), (-1, -1), (90, 90), (2.5, 2.5), ("99999h", 31_536_000), (1e300, 31_536_000),
    ],
)  # fmt: skip
def test_durations_are_gos(value: float | str, expected: float) -> None:
    assert seconds(value, field="keep_alive") == expected


@pytest.mark.parametrize(
    ("value", "problem"),
    [("5", "missing unit in"), ("", "invalid"), ("m", "invalid"), ("5 m", "invalid"), ("5y", "unknown unit"),
     ("1" * 100 + "s", "invalid")],
)  # fmt: skip
def test_what_is_no_duration_is_said_as_go_says_it(value: str, problem: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        seconds(value, field="keep_alive")
    (broken,) = caught.value.violations
    assert (broken.field, problem in broken.description) == ("keep_alive", True)


def test_every_kind_of_failure_has_a_status() -> None:
    assert set(STATUSES) == set(Kind)


@pytest.mark.parametrize("failure", FAILURES)
def test_every_failure_has_words_in_both_dialects(failure: type[MeshError]) -> None:
    error = failure(**FACTS)
    told = json.loads(ollama_errors.refusal(error))
    assert set(told) == {"error"}
    assert told["error"]
    assert ollama_errors.line(error).endswith(b"}\n")
    (body,) = json.loads(openai_errors.refusal(error)).values()
    assert set(body) == {"message", "type", "param", "code"}
    assert body["message"]
    assert body["code"]
    assert openai_errors.event(error).startswith(b"data: {")


def test_complaints_are_renamed() -> None:
    broken = [
        Violation("options.output_token_count_max", "too many"),
        Violation("messages[1].tool_calls[0].arguments_json", "no object"),
        Violation("tools[2].parameters_json_schema", "no object"),
    ]
    names = [*messages_at([0, 5]), *ollama_requests.NAMES]
    assert [one.field for one in renamed(InvalidRequest(broken), names).violations] == [
        "options.num_predict",
        "messages[5].tool_calls[0].function.arguments",
        "tools[2].function.parameters",
    ]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[{"role":"user","content":"a"}],"format":{"\xff":1}}',
        b'{"model":"m","messages":[{"role":"user"}],"tools":[{"function":{"name":"f","parameters":{"a":"\xff"}}}]}',
        b'{"model":"m","messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":{"a":"\xff"}}}]}]}',
        b'{"model":"m","messages":[{"role":"user"}],"options":{"temperature":1%s}}' % (b"0" * 400),
        b'{"model":"m","messages":[{"role":"user"}],"options":{"num_ctx":1%s}}' % (b"0" * 400),
    ],
)
def test_what_python_cannot_read_is_the_callers_mistake(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        ollama_requests.chat(ollama_requests.read(body, ChatCall))
