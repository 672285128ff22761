"""A completion joins two paces: whatever they are, the reader gets every byte once, in order and numbered."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import MeshError
from services.inference.arrived import Delta
from services.inference.completion import Event, Finished, Opened, Queued, Started
from services.inference.core.asks import ToolCall
from services.inference.errors import InstanceFailed, InstanceLost, QueueTimeout, ReaderTooSlow
from services.inference.ports import EndReason, Outcome, Piece, TokenLogprob
from tests.unit.completions import ReadCompletion

STARTED = Started(model="tiny:latest", model_digest="sha256:1", instance="gpu")
OUTCOME = Outcome(reason=EndReason.STOP, prompt_token_count=3, output_token_count=2)
CALL = ToolCall(name="clock", arguments_json="{}")


def opened(*, buffer_bytes_max: int = 1 << 20, by_token: bool = False) -> ReadCompletion:
    return ReadCompletion(
        "s1",
        opened_at_s=asyncio.get_running_loop().time(),
        buffer_bytes_max=buffer_bytes_max,
        by_token=by_token,
    )


def placed(*, buffer_bytes_max: int = 1 << 20, by_token: bool = False) -> ReadCompletion:
    completion = opened(buffer_bytes_max=buffer_bytes_max, by_token=by_token)
    completion.place(STARTED, now_s=completion.opened_at_s)
    return completion


async def rest(completion: ReadCompletion) -> list[Event]:
    events = []
    while (event := await completion.read()) is not None:
        events.append(event)
    return events


def grammar(events: Sequence[Event]) -> str:
    letters = {Opened: "O", Queued: "Q", Started: "S", Delta: "D", Finished: "F"}
    return "".join(letters[type(event.body)] for event in events)


pieces = st.builds(
    lambda text, thinking: Piece(text=text, thinking=thinking, token_count=bool(text or thinking)),
    st.text(max_size=5),
    st.text(max_size=5),
)
steps = st.lists(pieces | st.just("read") | st.integers(0, 5), max_size=40)


@given(script=steps, by_token=st.booleans())
async def test_any_interleaving_gives_every_byte_once_in_order(
    script: list[Piece | str | int], *, by_token: bool
) -> None:
    completion = opened(by_token=by_token)
    events = [await completion.read()]
    written: list[Piece] = []
    for step in script:
        match step:
            case Piece():
                if not written:
                    completion.place(STARTED, now_s=completion.opened_at_s)
                written.append(step)
                assert completion.write(step)
            case int() if not written:
                completion.queue(step, wait_s=1.0)
            case _:
                if completion.pull():
                    events.append(await completion.read())
    completion.place(STARTED, now_s=completion.opened_at_s) if not written else None
    completion.finish(OUTCOME)
    told = [event for event in events if event is not None] + await rest(completion)

    assert [event.sequence for event in told] == list(range(1, len(told) + 1))
    assert grammar(told).lstrip("O").lstrip("Q").lstrip("S").lstrip("D") == "F"
    deltas = [event.body for event in told if isinstance(event.body, Delta)]
    assert "".join(delta.text for delta in deltas) == "".join(piece.text for piece in written)
    assert "".join(delta.thinking for delta in deltas) == "".join(piece.thinking for piece in written)
    assert sum(delta.token_count for delta in deltas) == sum(
        bool(piece.text or piece.thinking) for piece in written
    )
    places = [event.body.ahead_count for event in told if isinstance(event.body, Queued)]
    assert places == sorted(set(places), reverse=True)


async def test_what_arrived_together_is_one_delta_with_its_token_count() -> None:
    completion = placed()
    for token in ("a", "b", "c"):
        completion.write(Piece(text=token, token_count=1))
    completion.finish(OUTCOME)
    events = await rest(completion)
    assert grammar(events) == "OSDF"
    assert events[2].body == Delta("abc", "", (), 3)


async def test_who_wants_each_token_gets_a_delta_for_each() -> None:
    completion = placed(by_token=True)
    for token in ("a", "b", "c"):
        completion.write(Piece(text=token, token_count=1))
    completion.finish(OUTCOME)
    events = await rest(completion)
    assert grammar(events) == "OSDDDF"
    assert [event.body for event in events[2:5]] == [Delta(token, "", (), 1) for token in "abc"]


async def test_an_event_is_sealed_once_for_all_readers() -> None:
    completion = placed()
    other = completion.reader("s2")
    completion.write(Piece(text="a", token_count=1))
    completion.finish(OUTCOME)
    mine, theirs = [await completion.own.read() for _ in range(5)], [await other.read() for _ in range(5)]
    assert mine == theirs
    assert mine[-1] is None
    assert [event.sequence for event in completion.sealed] == [1, 2, 3, 4]


async def test_a_reader_is_woken_by_what_it_waits_for() -> None:
    completion = placed()
    await completion.read()
    reading = asyncio.create_task(completion.read())
    await asyncio.sleep(0)
    assert not reading.done()
    completion.write(Piece(text="a"))
    event = await reading
    assert event is not None
    assert event.body == STARTED


async def test_an_answer_may_be_empty() -> None:
    completion = placed()
    completion.finish(OUTCOME)
    assert grammar(await rest(completion)) == "OSF"


async def test_a_retry_before_the_first_token_does_not_show() -> None:
    completion = placed()
    elsewhere = Started(model="tiny:latest", model_digest="sha256:1", instance="other")
    completion.place(elsewhere, now_s=completion.opened_at_s)
    completion.write(Piece(text="a"))
    completion.finish(OUTCOME)
    events = await rest(completion)
    assert grammar(events) == "OSDF"
    assert events[1].body == elsewhere


async def test_calls_without_a_name_of_their_own_get_one() -> None:
    completion = placed()
    own = ToolCall(id="mine", name="clock", arguments_json="{}")
    completion.write(Piece(tool_calls=(CALL, CALL, own)))
    completion.finish(OUTCOME)
    _, _, delta, finished = await rest(completion)
    assert isinstance(delta.body, Delta)
    assert [call.id for call in delta.body.tool_calls] == ["call_s1_1", "call_s1_2", "mine"]
    assert isinstance(finished.body, Finished)
    assert finished.body.called_tools


async def failure_of(completion: ReadCompletion) -> tuple[list[Event], MeshError]:
    events: list[Event] = []
    try:
        while (event := await completion.read()) is not None:
            events.append(event)
    except MeshError as error:
        return events, error
    raise AssertionError(events)


async def test_a_loss_comes_after_all_that_had_arrived_and_says_how_much_that_was() -> None:
    completion = placed()
    completion.write(Piece(text="a"))
    completion.fail(InstanceLost())
    completion.fail(QueueTimeout())  # The first ending wins.
    events, error = await failure_of(completion)
    assert grammar(events) == "OSD"
    assert (type(error), error.facts) == (InstanceLost, {"stream_id": "s1", "last_sequence": "3"})


async def test_a_failure_before_the_first_token_starts_nothing() -> None:
    completion = placed()
    completion.fail(InstanceFailed(instance="gpu"))
    events, error = await failure_of(completion)
    assert grammar(events) == "O"
    assert error.facts == {"instance": "gpu"}


@pytest.mark.parametrize(
    "piece",
    [
        Piece(text="x" * 10),
        Piece(text="é" * 5),
        Piece(thinking="x" * 10),
        Piece(tool_calls=(ToolCall(name="t", arguments_json="{}"),)),
    ],
    ids=["text", "bytes count, not characters", "thinking", "tool calls"],
)
@pytest.mark.parametrize("by_token", [False, True])
async def test_a_reader_that_lets_the_buffer_fill_is_ended(piece: Piece, *, by_token: bool) -> None:
    completion = placed(buffer_bytes_max=1000, by_token=by_token)
    written = 0
    while completion.write(piece):
        written += 1
        assert written <= 100
    assert not completion.write(piece), "it asks for no more"
    events, error = await failure_of(completion)
    assert grammar(events).rstrip("D") == "OS"
    assert (type(error), error.facts["last_sequence"]) == (ReaderTooSlow, str(len(events)))


async def test_a_reader_that_keeps_up_is_never_ended() -> None:
    completion = placed(buffer_bytes_max=100)
    await completion.read()
    for _ in range(1000):
        assert completion.write(Piece(text="x" * 10))
        await completion.read()


async def test_probabilities_come_with_their_tokens_and_count_as_bytes() -> None:
    tops = (TokenLogprob("b", -2.0, b"b"),)
    one = TokenLogprob("a", -1.0, b"a", tops)
    completion = placed()
    for _ in range(3):
        assert completion.write(Piece(text="a", logprobs=(one,)))
    completion.finish(OUTCOME)
    (delta,) = [event.body for event in await rest(completion) if isinstance(event.body, Delta)]
    assert (delta.text, delta.logprobs) == ("aaa", (one,) * 3)
    assert completion._arrived.held_bytes == 0

    wide = TokenLogprob("a", -1.0, b"a", tops * 20)
    small = placed(buffer_bytes_max=4000)
    assert [small.write(Piece(text="a", logprobs=(wide,))) for _ in range(3)] == [True, True, False]
    assert isinstance(small.ending, ReaderTooSlow)
