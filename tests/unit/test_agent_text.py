"""What users may say, and what models read of an execution."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.core import prompt
from services.agent.core.tool_result import (
    NOTHING,
    STDERR_CHARS_MAX,
    STDOUT_CHARS_MAX,
    Execution,
    result_text,
)

MAX = prompt.INPUT_CODE_POINTS_MAX
E_ACUTE_IN_TWO = "e\N{COMBINING ACUTE ACCENT}"


@pytest.mark.parametrize("text", ["x", "x" * MAX, E_ACUTE_IN_TWO * MAX, "\0", "👩‍🚀"])
def test_input_within_bounds_is_taken_in_nfc(text: str) -> None:
    assert prompt.broken_rules(text) == []
    assert prompt.normalised(text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("text", ["x" * (MAX + 1), E_ACUTE_IN_TWO * MAX + "x", "\u0958" * (MAX // 2 + 1)])
def test_input_out_of_bounds_names_its_field(text: str) -> None:
    """The last one grows: NFC takes some letters apart."""
    assert [violation.field for violation in prompt.broken_rules(text)] == ["input"]


def read(*, stdout: str = "", stderr: str = "", value: str = "", problem: str = "") -> str:
    return result_text(Execution(stdout=stdout, stderr=stderr, value=value, problem=problem))


def test_a_model_reads_no_more_than_it_needs() -> None:
    assert read(stdout="42\n") == "42"
    assert read() == NOTHING
    assert read(value="42") == "42"
    assert read(stdout="1\n", stderr="Trace\nNameError: x\n", problem="It failed.") == (
        "1\nstderr:\nTrace\nNameError: x\nIt failed."
    )


@given(st.text(), st.text(), st.integers(0, 3000))
def test_long_output_is_cut_at_its_start(stdout: str, stderr: str, times: int) -> None:
    text = read(stdout=stdout * times, stderr=stderr * times, problem="It ended.")
    assert len(text) <= STDOUT_CHARS_MAX + STDERR_CHARS_MAX + 100
    assert text.endswith("It ended.")


def test_what_was_left_out_is_said() -> None:
    text = read(stdout="x" * 10 + "y" * STDOUT_CHARS_MAX)
    assert text == "[10 characters left out]\n" + "y" * STDOUT_CHARS_MAX
