"""Between protobuf, the domain and Ollama's JSON, nothing is lost and nothing is let through."""

import json

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from ollamesh.inference.v1.completion_pb2 import (
    PRIORITY_UNSPECIFIED,
    THINKING_HIGH,
    THINKING_LOW,
    THINKING_MAX,
    THINKING_MEDIUM,
    THINKING_OFF,
    THINKING_ON,
    ChatRequest,
    GenerateRequest,
    Message,
    Options,
    OutputFormat,
    Role,
    Thinking,
    Tool,
    ToolCall,
)
from ollamesh.inference.v1.inference_service_pb2 import EmbedRequest

from services.common.errors import InvalidRequest
from services.inference.adapters.bodies import completion_body, embed_body
from services.inference.core.admission import Order
from services.inference.core.asks import Ask, Embed
from services.inference.core.bounds import Bounds
from services.inference.core.jobs import Priority
from services.inference.core.options import canonical
from services.inference.wire import requests

SCHEMA = '{"type": "object", "properties": {"x": {"type": "integer"}}}'


def order_for(ask: Ask) -> Order:
    options = {} if isinstance(ask, Embed) else canonical(ask.options, bounds=Bounds(), runner={})
    return Order(ask=ask, model="tiny:latest", options=options, keep_alive_s=299.5)


def body_of(request: ChatRequest | GenerateRequest) -> tuple[str, dict[str, object]]:
    ask = requests.chat(request) if isinstance(request, ChatRequest) else requests.generate(request)
    path, body = completion_body(order_for(ask), "tiny:latest")
    return path, json.loads(body)


def test_a_whole_conversation_reaches_ollama() -> None:
    path, body = body_of(
        ChatRequest(
            model="tiny",
            messages=[
                Message(role=Role.ROLE_SYSTEM, content="Be brief."),
                Message(role=Role.ROLE_USER, content="What is this?", images=[b"png"]),
                Message(
                    role=Role.ROLE_ASSISTANT,
                    thinking="Hm.",
                    tool_calls=[ToolCall(id="c1", name="look", arguments_json='{"at": 1}')],
                ),
                Message(role=Role.ROLE_TOOL, content="a cat", tool_name="look", tool_call_id="c1"),
            ],
            tools=[Tool(name="look", description="Looks.", parameters_json_schema=SCHEMA), Tool(name="bare")],
            format=OutputFormat(json_schema=SCHEMA),
            options=Options(
                temperature=0.5, seed=7, output_token_count_max=9, stop=["\n"], context_token_count=5
            ),
            thinking=THINKING_HIGH,
        )
    )
    look = {"name": "look", "description": "Looks.", "parameters": json.loads(SCHEMA)}
    bare = {"name": "bare", "description": "", "parameters": {"type": "object"}}
    assert path == "/api/chat"
    assert body == {
        "model": "tiny:latest",
        "stream": True,
        "keep_alive": 300,
        "think": "high",
        "format": json.loads(SCHEMA),
        "options": {"temperature": 0.5, "seed": 7, "num_predict": 9, "stop": ["\n"]},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is this?", "images": ["cG5n"]},
            {
                "role": "assistant",
                "content": "",
                "thinking": "Hm.",
                "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": {"at": 1}}}],
            },
            {"role": "tool", "content": "a cat", "tool_name": "look", "tool_call_id": "c1"},
        ],
        "tools": [{"type": "function", "function": look}, {"type": "function", "function": bare}],
    }


def test_a_plain_request_says_no_more_than_it_must() -> None:
    _, body = body_of(ChatRequest(model="tiny", messages=[Message(role=Role.ROLE_USER, content="hi")]))
    assert body == {
        "model": "tiny:latest",
        "stream": True,
        "keep_alive": 300,
        "options": {"num_predict": 8192},
        "messages": [{"role": "user", "content": "hi"}],
    }


def test_a_continuation_reaches_ollama() -> None:
    path, body = body_of(
        GenerateRequest(
            model="tiny",
            prompt="def f():",
            suffix="return x",
            raw=True,
            images=[b"png"],
            thinking=THINKING_OFF,
            format=OutputFormat(json=True),
        )
    )
    assert path == "/api/generate"
    assert body == {
        "model": "tiny:latest",
        "stream": True,
        "keep_alive": 300,
        "think": False,
        "format": "json",
        "options": {"num_predict": 8192},
        "prompt": "def f():",
        "suffix": "return x",
        "raw": True,
        "images": ["cG5n"],
    }
    assert body_of(GenerateRequest(model="tiny", prompt="x", system="s", context=[1, 2]))[1]["context"] == [
        1,
        2,
    ]


def test_texts_to_embed_reach_ollama() -> None:
    ask = requests.embed(EmbedRequest(model="tiny", input=["a", "b"], truncate=False, dimension_count=8))
    assert json.loads(embed_body(order_for(ask), "tiny:latest")) == {
        "model": "tiny:latest",
        "input": ["a", "b"],
        "truncate": False,
        "dimensions": 8,
        "options": {},
        "keep_alive": 300,
    }
    assert requests.embed(EmbedRequest(model="tiny", input=["a"])).truncate


@pytest.mark.parametrize(
    ("thinking", "think"),
    [
        (THINKING_OFF, False),
        (THINKING_ON, True),
        (THINKING_LOW, "low"),
        (THINKING_MEDIUM, "medium"),
        (THINKING_HIGH, "high"),
        (THINKING_MAX, "max"),
    ],
)
def test_every_way_to_think_reaches_ollama(thinking: Thinking, think: object) -> None:
    for request in (ChatRequest(thinking=thinking), GenerateRequest(thinking=thinking)):
        assert body_of(request)[1]["think"] == think


def test_probabilities_are_asked_for() -> None:
    for request in (
        ChatRequest(logprobs=True, top_logprobs=3),
        GenerateRequest(logprobs=True, top_logprobs=3),
    ):
        body = body_of(request)[1]
        assert (body["logprobs"], body["top_logprobs"]) == (True, 3)
    assert "logprobs" not in body_of(ChatRequest())[1]


def test_hints_are_told_apart_from_silence() -> None:
    hints: list[tuple[Duration | None, float | None]] = [
        (None, None),
        (Duration(), 0),
        (Duration(seconds=-1), -1),
    ]
    for hint, expected in hints:
        assert requests.chat(ChatRequest(keep_alive=hint)).keep_alive_s == expected
        assert requests.generate(GenerateRequest(keep_alive=hint)).keep_alive_s == expected
        assert requests.embed(EmbedRequest(keep_alive=hint)).keep_alive_s == expected
    assert requests.chat(ChatRequest(conversation_id="c1")).conversation_id == "c1"


def test_how_long_a_call_may_take() -> None:
    bounds = Bounds(timeout_s_min=5, timeout_s_max=300)

    def waits(remaining_s: float, timeout_s: int | None = None) -> float:
        timeout = Duration(seconds=timeout_s) if timeout_s else Duration()
        terms = requests.terms(
            "org-1", PRIORITY_UNSPECIFIED, bounds, remaining_s=remaining_s, queue_timeout=timeout
        )
        assert terms.priority is Priority.DEFAULT
        return terms.wait_max_s

    assert (waits(1), waits(60), waits(3600)) == (1, 60, 300)  # A deadline may be any, but is clipped.
    assert (waits(60, 5), waits(60, 61), waits(3600, 3600)) == (5, 60, 300)
    with pytest.raises(InvalidRequest) as refused:
        waits(60, 4)
    (violation,) = refused.value.violations
    assert (violation.field, violation.rule) == ("queue_timeout", "policy.timeout")


@pytest.mark.parametrize("text", ["nonsense", "[1]", "1", '{"a": NaN}', "{" * 100_000, '{"a":' * 100_000])
def test_json_that_is_no_object_is_refused_with_its_field(text: str) -> None:
    call = ToolCall(name="t", arguments_json=text)
    request = ChatRequest(
        messages=[Message(role=Role.ROLE_ASSISTANT, tool_calls=[ToolCall(name="fine"), call])],
        tools=[Tool(name="t", parameters_json_schema=text)],
        format=OutputFormat(json_schema=text),
    )
    with pytest.raises(InvalidRequest) as refused:
        requests.chat(request)
    assert [violation.field for violation in refused.value.violations] == [
        "messages[0].tool_calls[1].arguments_json",
        "tools[0].parameters_json_schema",
        "format.json_schema",
    ]
    with pytest.raises(InvalidRequest):
        requests.generate(GenerateRequest(prompt="x", format=OutputFormat(json_schema=text)))


def test_a_stream_lingers_as_its_request_says_or_else_as_is_configured() -> None:
    for request in (ChatRequest, GenerateRequest):
        assert requests.wishes(request(), 7.0).linger_s == 7.0
        assert requests.wishes(request(linger=Duration()), 7.0).linger_s == 0.0
        assert requests.wishes(request(linger=Duration(seconds=3)), 7.0).linger_s == 3.0


@given(st.text(max_size=40))
def test_a_page_token_is_ours_or_refused(text: str) -> None:
    assert requests.page_token(requests.next_page_token(text)) == text
    try:
        requests.page_token(text)
    except InvalidRequest as refused:
        assert refused.violations[0].field == "page_token"  # noqa: PT017 - either may happen.


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (
            ChatRequest(
                model="tiny",
                messages=[
                    Message(role=Role.ROLE_USER),
                    Message(role=Role.ROLE_TOOL),
                    Message(role=Role.ROLE_ASSISTANT, tool_calls=[ToolCall(name="t", arguments_json="[]")]),
                    Message(role=Role.ROLE_USER, images=[b"png"]),
                ],
                top_logprobs=1,
            ),
            ["top_logprobs", "messages[0]", "messages[2].tool_calls[0].arguments_json"],
        ),
        (
            GenerateRequest(model="tiny", prompt="x", raw=True, system="s", top_logprobs=1),
            ["top_logprobs", "raw"],
        ),
        (GenerateRequest(model="tiny", prompt="x", raw=True, context=[1]), ["raw"]),
    ],
)
def test_rules_across_fields_are_reported_all_at_once(
    request_: ChatRequest | GenerateRequest, fields: list[str]
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        body_of(request_)
    assert [violation.field for violation in refused.value.violations] == fields
