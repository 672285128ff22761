"""Between protobuf, the domain and Ollama's JSON, nothing is lost and nothing is let through."""

import json
from datetime import UTC, datetime
from itertools import pairwise

import msgspec
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from ollamesh.inference.v1.completion_pb2 import (
    CACHE_POLICY_ALWAYS,
    CACHE_POLICY_NEVER,
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

from services.common.errors import InvalidRequest, NotServed
from services.inference.adapters.answers import (
    ChatMessage,
    Line,
    Logprob,
    Process,
    Tags,
    card,
    outcome,
    piece,
    resident,
)
from services.inference.adapters.bodies import completion_body, embed_body
from services.inference.adapters.connection import Phase
from services.inference.adapters.readers import LINE_BYTES_MAX, StreamReader, refusal
from services.inference.completion import Delta, Event
from services.inference.core.admission import Order
from services.inference.core.asks import Ask, Embed
from services.inference.core.bounds import Bounds
from services.inference.core.jobs import Priority
from services.inference.core.options import canonical
from services.inference.errors import ModelNotFound, ModelUnsuitable
from services.inference.ports import EndReason, Outcome, Piece, TokenLogprob, Trouble
from services.inference.wire import requests
from services.inference.wire.events import event

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


def test_what_would_mean_something_else_if_it_were_ignored_is_refused() -> None:
    unserved: list[tuple[str, dict[str, object]]] = [
        ("linger", {"linger": Duration(seconds=1)}),
        ("cache_policy", {"cache_policy": CACHE_POLICY_ALWAYS}),
    ]
    for field, asked in unserved:
        for refuse in (
            lambda asked: requests.chat(ChatRequest(**asked)),
            lambda asked: requests.generate(GenerateRequest(**asked)),
        ):
            with pytest.raises(NotServed) as refused:
                refuse(asked)
            assert refused.value.facts == {"field": field}
    requests.chat(ChatRequest(linger=Duration(), cache_policy=CACHE_POLICY_NEVER))


@given(st.text(max_size=40))
def test_a_page_token_is_ours_or_refused(text: str) -> None:
    assert requests.page_token(requests.next_page_token(text)) == text
    try:
        requests.page_token(text)
    except InvalidRequest as refused:
        assert refused.violations[0].field == "page_token"  # noqa: PT017 - either may happen.


# Answers


class Sink:
    def __init__(self, *, wants: int = 1_000_000) -> None:
        self.pieces: list[Piece] = []
        self.outcome: Outcome | None = None
        self.wants = wants

    def write(self, piece: Piece) -> bool:
        self.pieces.append(piece)
        return len(self.pieces) < self.wants

    def finish(self, outcome: Outcome) -> None:
        assert self.outcome is None
        self.outcome = outcome


def chat_line(text: str) -> bytes:
    return json.dumps({"message": {"role": "assistant", "content": text}, "done": False}).encode() + b"\n"


DONE = b'{"message":{"content":""},"done":true,"done_reason":"length","eval_count":5,"eval_duration":1500000000}\n'


def fed(*parts: bytes, status: int = 200, sink: Sink | None = None) -> StreamReader:
    reader = StreamReader(sink or Sink())
    reader.head(status)
    assert all(reader.feed(part) for part in parts)
    return reader


@given(st.lists(st.text(min_size=1, max_size=8), max_size=20), st.lists(st.integers(0, 600)))
def test_lines_arrive_whole_however_the_network_cuts_them(texts: list[str], cuts: list[int]) -> None:
    stream = b"".join(map(chat_line, texts)) + DONE
    edges = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    sink = Sink()
    reader = fed(*(stream[start:end] for start, end in pairwise(edges)), sink=sink)
    reader.check("tiny")
    assert [piece.text for piece in sink.pieces] == texts
    assert sink.outcome == Outcome(reason=EndReason.LENGTH, output_token_count=5, output_s=1.5)


def test_a_stream_without_done_did_not_succeed() -> None:
    sink = Sink()
    with pytest.raises(Trouble, match="before it was done"):
        fed(chat_line("a"), sink=sink).check("tiny")
    assert sink.outcome is None


@pytest.mark.parametrize(
    ("part", "detail"),
    [
        (b"not JSON\n", "malformed"),
        (b'{"message":{"content":"\xff"}}\n', "malformed"),
        (b'{"message":{"content":1}}\n', "malformed"),
        (b'{"message":{"tool_calls":[{"function":{"name":"t","arguments":"text"}}]}}\n', "malformed"),
        (b'{"logprobs":[{"token":"x","logprob":0,"bytes":[256]}]}\n', "malformed"),
        (b'{"error":"out of memory"}\n', "out of memory"),
        (b"x" * (LINE_BYTES_MAX + 1), "without end"),
    ],
)
def test_what_ends_a_stream_badly(part: bytes, detail: str) -> None:
    reader = fed(chat_line("a"))
    assert not reader.feed(part)
    with pytest.raises(Trouble, match=detail):
        reader.check("tiny")


def test_what_comes_after_done_is_not_read() -> None:
    sink = Sink()
    reader = fed(DONE, DONE, chat_line("late"), b"nonsense\n", sink=sink)
    reader.check("tiny")
    assert not sink.pieces
    assert reader.phase is Phase.COMPLETE


def test_a_sink_that_has_enough_is_not_a_failure() -> None:
    reader = StreamReader(Sink(wants=2))
    reader.head(200)
    assert not reader.feed(chat_line("a") * 5)
    reader.check("tiny")


def test_tool_calls_and_thoughts_are_read() -> None:
    line = msgspec.json.decode(
        b'{"message":{"thinking":"hm","tool_calls":[{"id":"c1","function":'
        b'{"name":"look","arguments":{"at":[1, 2.5, "x"]}}}]},"done":true}',
        type=Line,
    )
    found = piece(line)
    assert found is not None
    assert (found.thinking, found.tool_calls[0].id, found.tool_calls[0].name) == ("hm", "c1", "look")
    assert json.loads(found.tool_calls[0].arguments_json) == {"at": [1, 2.5, "x"]}
    assert piece(Line(response="r", thinking="t")) == Piece(text="r", thinking="t")
    assert outcome(Line(context=(1, 2))).context == (1, 2)


def test_probabilities_are_read_as_go_writes_them() -> None:
    line = msgspec.json.decode(
        b'{"message":{"role":"assistant","content":"\xc3\xa9"},"logprobs":[{"token":"\xef\xbf\xbd","logprob":-0.5,'
        b'"bytes":[195],"top_logprobs":[{"token":"x","logprob":-1,"bytes":[120]},{"token":"y","logprob":-2}]},'
        b'{"token":"z","logprob":-3}]}',
        type=Line,
    )
    found = piece(line)
    assert found is not None
    tops = (TokenLogprob("x", -1, b"x"), TokenLogprob("y", -2, b"y"))
    assert found.logprobs == (
        TokenLogprob("\N{REPLACEMENT CHARACTER}", -0.5, b"\xc3", tops),
        TokenLogprob("z", -3, b"z"),
    )
    made = event(Event(3, Delta("é", "", (), 1, found.logprobs))).delta
    assert [(one.token_bytes, one.logprob) for one in made.logprobs] == [(b"\xc3", -0.5), (b"z", -3)]
    assert [top.token for top in made.logprobs[0].top] == ["x", "y"]
    assert piece(Line(logprobs=[])) is None


def test_a_probability_without_a_text_yet_is_no_loss() -> None:
    found = piece(Line(message=ChatMessage(content=""), logprobs=[Logprob(token="a", logprob=-1)]))
    assert found is not None
    assert found.logprobs[0].token_bytes == b"a"


def test_what_instances_list_is_read_as_go_writes_it() -> None:
    tags = msgspec.json.decode(
        b'{"models":[{"name":"tiny:latest","modified_at":"2026-08-21T10:11:12.123456789+02:00","size":7,'
        b'"digest":"d","details":{"family":"llama","families":null,"quantization_level":"Q4_0"}}]}',
        type=Tags,
    )
    found = card((tags.models or [])[0])
    assert found.modified_at == datetime(2026, 8, 21, 8, 11, 12, 123457, UTC)
    assert (found.family, found.quantization, found.capabilities) == ("llama", "Q4_0", frozenset())
    never = msgspec.json.decode(b'{"name":"tiny","expires_at":"2318-11-30T10:00:00Z"}', type=Process)
    assert resident(never).expires_at is None


@pytest.mark.parametrize(
    ("status", "body", "expected", "facts"),
    [
        (404, b'{"error":"model \'x\' not found"}', ModelNotFound, {"model": "x"}),
        (
            400,
            b'{"error":"\\"x\\" does not support thinking"}',
            ModelUnsuitable,
            {"model": "x", "capability": "thinking"},
        ),
        (400, b'{"error":"the input length exceeds the context length"}', InvalidRequest, {}),
        (400, b"nonsense about /srv/secret", InvalidRequest, {}),
    ],
)
def test_what_an_instance_refuses_is_told_in_our_words(
    status: int, body: bytes, expected: type[Exception], facts: dict[str, str]
) -> None:
    error = refusal(status, body, "x")
    assert type(error) is expected
    assert getattr(error, "facts", None) == facts
    assert "secret" not in str(error)


@pytest.mark.parametrize("status", [401, 403, 500, 503, 302])
def test_what_an_instance_fails_at_is_trouble(status: int) -> None:
    assert isinstance(refusal(status, b'{"error":"server busy"}', "x"), Trouble)


@pytest.mark.parametrize("status", [400, 404])
def test_a_server_that_is_no_ollama_is_trouble(status: int) -> None:
    assert isinstance(refusal(status, b"<html>", None), Trouble)
