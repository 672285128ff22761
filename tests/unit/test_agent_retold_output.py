"""A tool that is called again, after its replica was lost, is heard from where it was told."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from services.agent.core.events import Channel, ToolOutput
from services.agent.core.retelling import RetoldOutput

PIECES = st.lists(st.text("ab", min_size=1, max_size=3), max_size=6)


def heard(retold: RetoldOutput, pieces: Sequence[str], channel: Channel = Channel.STDOUT) -> str:
    outputs = [retold.hear(ToolOutput("c", channel, piece)) for piece in pieces]
    assert all(output.text for new in outputs for output in new)
    return "".join(output.text for new in outputs for output in new)


@given(PIECES, PIECES, st.integers(0, 20))
def test_what_was_told_is_not_told_again(before: list[str], after: list[str], lost_chars: int) -> None:
    """Whatever the pieces in which it comes, and wherever the replica was lost."""
    text = "".join(before + after)
    told = "".join(before)
    told = told[: max(0, len(told) - lost_chars)]
    retold = RetoldOutput()
    for letter in told:
        retold.add(ToolOutput("c", Channel.STDOUT, letter))
    assert told + heard(retold, before + after) == text


def test_channels_and_calls_are_apart() -> None:
    retold = RetoldOutput()
    retold.add(ToolOutput("c", Channel.STDOUT, "ab"))
    retold.add(ToolOutput("d", Channel.STDERR, "ab"))
    assert heard(retold, ["ab"], Channel.STDERR) == "ab"
    assert heard(retold, ["a", "b", "c"]) == "c"


def test_what_differs_is_told() -> None:
    retold = RetoldOutput()
    retold.add(ToolOutput("c", Channel.STDOUT, "abc"))
    assert heard(retold, ["a", "x", "c"]) == "xc"


def test_of_a_call_that_has_returned_nothing_is_kept() -> None:
    retold = RetoldOutput()
    retold.add(ToolOutput("c", Channel.STDOUT, "abc"))
    retold.end("c")
    assert heard(retold, ["abc"]) == "abc"
