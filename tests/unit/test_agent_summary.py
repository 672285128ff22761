"""Conversations that outgrow a context: what is read fits, is whole where it must be, and tears nothing apart."""

from collections.abc import Sequence
from itertools import count as numbers

from hypothesis import given, settings
from hypothesis import strategies as st

from services.agent.core.conversation import Message, Role, ToolCall
from services.agent.core.summary import (
    ASK,
    NOTHING,
    SUMMARY_CHARS_MAX,
    Summary,
    as_kept,
    count_to_cover,
    question_for,
    read,
    token_count,
    tokens_of,
)

TEXTS = st.integers(0, 400).map(lambda length: "x" * length)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Questions, each with steps of which all but the last call tools."""
    messages: list[Message] = []
    ids = numbers()
    for _ in range(draw(st.integers(1, 5))):
        messages.append(Message(role=Role.USER, content=draw(TEXTS)))
        for _ in range(draw(st.integers(0, 4))):
            calls = [
                ToolCall(call_id=f"c{next(ids)}", name="t", arguments_json="{}")
                for _ in range(draw(st.integers(0, 3)))
            ]
            messages.append(Message(role=Role.ASSISTANT, content=draw(TEXTS), calls=tuple(calls)))
            messages += [
                Message(role=Role.TOOL, content=draw(TEXTS), call_id=call.call_id, tool_name="t")
                for call in draw(st.permutations(calls))
            ]
    return messages


def newest_step(messages: Sequence[Message]) -> Sequence[Message]:
    place = len(messages) - 1
    while messages[place].role is Role.TOOL:
        place -= 1
    return messages[place:]


@settings(max_examples=300)
@given(conversations(), st.integers(20, 600), st.integers(0, 60))
def test_what_is_read_fits_and_tears_nothing_apart(
    messages: list[Message], budget: int, written: int
) -> None:
    summary = NOTHING
    for length in range(1, len(messages) + 1):
        if length < len(messages) and messages[length].role is Role.TOOL:
            continue  # Models are asked after steps.
        so_far = messages[:length]
        covered = count_to_cover(so_far, summary, budget=budget)
        if covered is not None:
            assert covered > summary.count, "a new summary stands for more"
            summary = Summary("s" * written, covered)
        seen = read(so_far, summary)
        assert list(seen[-len(newest_step(so_far)) :]) == newest_step(so_far), "the newest is whole"
        questions = [message for message in so_far if message.role is Role.USER]
        assert questions[-1] in seen, "so is the question that is being worked on"
        called = {call.call_id for message in seen for call in message.calls}
        answered = [message.call_id for message in seen if message.role is Role.TOOL]
        assert set(answered) == called, "each call with its results, each result with its call"
        used = token_count(summary.text) + sum(map(tokens_of, seen))
        bare = sum(map(tokens_of, {id(m): m for m in [questions[-1], *newest_step(so_far)]}.values()))
        assert used <= max(budget, budget // 2 + bare + token_count(summary.text) + tokens_of(questions[-1]))


@given(conversations())
def test_what_fits_is_left_as_it_is(messages: list[Message]) -> None:
    budget = sum(map(tokens_of, messages))
    assert count_to_cover(messages, NOTHING, budget=budget) is None
    assert read(messages, NOTHING) == messages


def test_a_step_that_is_too_long_by_itself_is_read_whole() -> None:
    messages = [Message(role=Role.USER, content="?"), Message(role=Role.ASSISTANT, content="x" * 10_000)]
    covered = count_to_cover(messages, NOTHING, budget=100)
    assert covered == 1
    assert read(messages, Summary("s", 1)) == messages
    assert count_to_cover(messages, Summary("s", 1), budget=100) is None, "and nothing is asked again"


@given(conversations(), st.integers(0, 30), st.integers(1000, 5000))
def test_the_question_for_it_is_bounded_and_starts_from_the_one_before(
    messages: list[Message], covered: int, chars_max: int
) -> None:
    so_far = Summary("what was before", min(covered, len(messages)))
    asked = question_for(messages, so_far, count=len(messages), chars_max=chars_max)
    assert asked.startswith(ASK)
    assert "what was before" in asked
    newer = len(messages) - so_far.count
    assert len(asked) <= len(ASK) + chars_max + newer * 230 + 200


def test_estimates_are_rather_too_high() -> None:
    assert token_count("") == 0
    assert token_count("Hello, how are you?") == 5
    assert token_count("\N{GRINNING FACE}" * 3) == 3
    assert token_count("Gr\N{LATIN SMALL LETTER U WITH DIAERESIS}n") == 2


def test_a_summary_is_no_longer_than_it_may_be() -> None:
    assert as_kept(" x \n") == "x"
    assert len(as_kept("x" * 100_000)) <= SUMMARY_CHARS_MAX
