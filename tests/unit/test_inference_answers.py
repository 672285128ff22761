"""What instances answer becomes pieces, an end, or a failure: nothing is lost and nothing is believed."""

import json
from datetime import UTC, datetime
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidRequest
from services.inference.adapters.answers import (
    NOT_OF_THE_SHAPE,
    ChatMessage,
    Embeddings,
    Line,
    Logprob,
    Process,
    Tags,
    card,
    outcome,
    piece,
    resident,
)
from services.inference.adapters.connection import Phase
from services.inference.adapters.readers import LINE_BYTES_MAX, StreamReader, refusal
from services.inference.arrived import Delta
from services.inference.completion import Event
from services.inference.errors import ModelNotFound, ModelUnsuitable
from services.inference.ports import EndReason, Outcome, Piece, TokenLogprob, Trouble
from services.inference.wire.events import event


class Sink:
    def __init__(self, *, wants: int = 1_000_000, by_token: bool = False) -> None:
        self.by_token = by_token
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


@given(
    texts=st.lists(st.text(min_size=1, max_size=8), max_size=20),
    cuts=st.lists(st.integers(0, 600)),
    by_token=st.booleans(),
)
def test_lines_arrive_whole_however_the_network_cuts_them(
    texts: list[str], cuts: list[int], *, by_token: bool
) -> None:
    stream = b"".join(map(chat_line, texts)) + DONE
    edges = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    sink = Sink(by_token=by_token)
    reader = fed(*(stream[start:end] for start, end in pairwise(edges)), sink=sink)
    reader.check("tiny")
    assert "".join(piece.text for piece in sink.pieces) == "".join(texts)
    assert sum(piece.token_count for piece in sink.pieces) == len(texts)
    assert not by_token or [piece.text for piece in sink.pieces] == texts
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


def test_what_arrived_together_is_one_piece_unless_each_token_is_wanted() -> None:
    together, apart = Sink(), Sink(by_token=True)
    data = chat_line("a") + b"\r\n" + chat_line("b") + DONE
    for sink in (together, apart):
        fed(data, sink=sink).check("tiny")
    assert together.pieces == [Piece(text="ab", token_count=2)]
    assert apart.pieces == [Piece(text="a", token_count=1), Piece(text="b", token_count=1)]


@pytest.mark.parametrize("ending", [b"nonsense\n", b'{"error":"server busy"}\n'])
def test_what_came_before_a_bad_line_is_told(ending: bytes) -> None:
    sink = Sink()
    reader = StreamReader(sink)
    reader.head(200)
    assert not reader.feed(chat_line("a") + chat_line("b") + ending + chat_line("c"))
    assert [piece.text for piece in sink.pieces] == ["ab"]
    with pytest.raises(Trouble):
        reader.check("tiny")


@pytest.mark.parametrize("after", [b"nonsense\n", b'{"error":"server busy"}\n', b"{"])
def test_what_comes_after_done_in_the_same_breath_is_not_read_either(after: bytes) -> None:
    sink = Sink()
    fed(chat_line("a") + DONE + after, sink=sink).check("tiny")
    assert ([piece.text for piece in sink.pieces], sink.outcome is not None) == (["a"], True)


def test_what_comes_after_done_is_not_read() -> None:
    sink = Sink()
    reader = fed(DONE, DONE, chat_line("late"), b"nonsense\n", sink=sink)
    reader.check("tiny")
    assert not sink.pieces
    assert reader.phase is Phase.COMPLETE


def test_a_sink_that_has_enough_is_not_a_failure() -> None:
    reader = StreamReader(Sink(wants=2))
    reader.head(200)
    assert reader.feed(chat_line("a"))
    assert not reader.feed(chat_line("a"))
    reader.check("tiny")


def test_tool_calls_and_thoughts_are_read() -> None:
    line = msgspec.json.decode(
        b'{"message":{"thinking":"hm","tool_calls":[{"id":"c1","function":'
        b'{"name":"look","arguments":{"at":[1, 2.5, "x"]}}}]},"done":true}',
        type=Line,
    )
    found = piece([line])
    assert found is not None
    assert (found.thinking, found.tool_calls[0].id, found.tool_calls[0].name) == ("hm", "c1", "look")
    assert json.loads(found.tool_calls[0].arguments_json) == {"at": [1, 2.5, "x"]}
    assert piece([Line(response="r", thinking="t")]) == Piece(text="r", thinking="t", token_count=1)
    assert outcome(Line(context=(1, 2))).context == (1, 2)


def test_probabilities_are_read_as_go_writes_them() -> None:
    line = msgspec.json.decode(
        b'{"message":{"role":"assistant","content":"\xc3\xa9"},"logprobs":[{"token":"\xef\xbf\xbd","logprob":-0.5,'
        b'"bytes":[195],"top_logprobs":[{"token":"x","logprob":-1,"bytes":[120]},{"token":"y","logprob":-2}]},'
        b'{"token":"z","logprob":-3}]}',
        type=Line,
    )
    found = piece([line])
    assert found is not None
    tops = (TokenLogprob("x", -1, b"x"), TokenLogprob("y", -2, b"y"))
    assert found.logprobs == (
        TokenLogprob("\N{REPLACEMENT CHARACTER}", -0.5, b"\xc3", tops),
        TokenLogprob("z", -3, b"z"),
    )
    made = event(Event(3, Delta("é", "", (), 1, found.logprobs))).delta
    assert [(one.token_bytes, one.logprob) for one in made.logprobs] == [(b"\xc3", -0.5), (b"z", -3)]
    assert [top.token for top in made.logprobs[0].top] == ["x", "y"]
    assert piece([Line(logprobs=[])]) is None


def test_a_probability_without_a_text_yet_is_no_loss() -> None:
    found = piece([Line(message=ChatMessage(content=""), logprobs=[Logprob(token="a", logprob=-1)])])
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


@pytest.mark.parametrize("size", [-1, 2**63, 2**65])
def test_a_size_that_nothing_has_is_not_of_the_shape(size: int) -> None:
    with pytest.raises(NOT_OF_THE_SHAPE):
        msgspec.json.decode(b'{"name":"tiny","size":%d}' % size, type=Process)
    with pytest.raises(NOT_OF_THE_SHAPE):
        msgspec.json.decode(b'{"models":[{"name":"tiny","size":%d}]}' % size, type=Tags)


@pytest.mark.parametrize("count", [-1, 2**31])
def test_a_number_of_tokens_that_nothing_has_is_not_of_the_shape(count: int) -> None:
    with pytest.raises(NOT_OF_THE_SHAPE):
        msgspec.json.decode(b'{"embeddings":[[0.5]],"prompt_eval_count":%d}' % count, type=Embeddings)


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
        # Else three such requests would open the breaker for everybody.
        (500, b'{"error":"invalid JSON schema in format"}', InvalidRequest, {}),
        (
            500,
            b'{"error":"Failed to create new sequence: failed to process inputs: image: secret format"}',
            InvalidRequest,
            {},
        ),
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


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("error parsing tool call: raw='my secret diary'", "status 500"),
        ("llama runner process has terminated: exit status 2 while reading my secret diary", None),
        ("CUDA error: out of memory", "status 500: out of memory"),
    ],
)
def test_of_a_server_s_words_only_those_that_quote_nobody_are_told(said: str, told: str | None) -> None:
    failure = refusal(500, msgspec.json.encode({"error": said}), "tiny")
    assert isinstance(failure, Trouble)
    assert "diary" not in failure.detail
    assert told in {None, failure.detail}
