"""What a terminal is given: wrapped, harmless text."""

import io
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ollamesh.client import executions, runs
from rich.console import Console

from clients.cli.output import Flow, print_event, print_table, quantity, size
from clients.cli.printable import printable


def terminal(width: int = 20, *, real: bool = True) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=real, width=width, color_system=None, highlight=False), file


def flowed(*parts: str, width: int = 20, prefix: str = "", real: bool = True) -> str:
    console, file = terminal(width, real=real)
    flow = Flow(console, prefix=prefix)
    for part in parts:
        flow.write(part)
    flow.end()
    return file.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\tand\nsimple é 日本 🙂", "plain\tand\nsimple é 日本 🙂"),
        ("\x1b[2J\x1b]52;c;cm0=\x07", "\\x1b[2J\\x1b]52;c;cm0=\\x07"),
        ("over\rwritten \x08\x7f\x9b31m", "over\\rwritten \\x08\\x7f\\x9b31m"),
        ("windows\r\nline", "windows\nline"),
        ("user\u202etxt.exe", "user\\u202etxt.exe"),
    ],
)
def test_a_terminal_is_shown_control_characters_and_not_sent_them(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text())
@settings(deadline=None)
def test_nothing_that_a_terminal_obeys_gets_through(text: str) -> None:
    assert all(character in "\n\t" or ord(character) >= 32 for character in printable(text))


def test_a_stream_is_wrapped_between_words_however_it_is_cut() -> None:
    text = "the quick brown fox jumps over the lazy dog\n\nand rests\n"
    lines = ["the quick brown fox", "jumps over the lazy", "dog", "", "and rests", ""]
    whole = flowed(text)
    assert [line.rstrip() for line in whole.split("\n")] == lines
    assert flowed(*text) == whole


@given(st.lists(st.text(st.sampled_from("ab é日 \n"), max_size=12), max_size=12))
@settings(deadline=None)
def test_no_line_is_wider_than_the_terminal_and_no_letter_is_lost(parts: list[str]) -> None:
    shown = flowed(*parts, width=14, prefix="| ")
    letters = "".join("".join(parts).split())
    assert "".join(shown.replace("| ", "").replace("|", "").split()) == letters
    longest_word = max((len(word) for word in "".join(parts).split()), default=0)
    if longest_word <= 6:
        assert all(len(line.rstrip()) <= 14 for line in shown.split("\n"))


def test_every_line_has_its_prefix() -> None:
    assert flowed("one\n\nthree words that wrap", prefix="| ").split("\n") == [
        "| one",
        "| ",
        "| three words that ",
        "| wrap",
        "",
    ]


def test_a_pipe_gets_the_text_as_it_is() -> None:
    text = "a line that is far longer than the console is wide \x1b[31m\n"
    assert flowed(*text, real=False) == text


def test_no_word_keeps_a_reader_waiting() -> None:
    console, file = terminal()
    flow = Flow(console)
    flow.write("x" * 100)
    assert len(file.getvalue().replace("\n", "")) >= 60
    flow.end()
    assert file.getvalue().replace("\n", "") == "x" * 100


def test_an_event_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    print_event(runs.StepStarted(sequence=2, event_time=at, step=1))
    print_event(executions.Stdout(sequence=3, offset=0, data=b"\xff"), data="text")
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "event": "step_started",
        "sequence": 2,
        "event_time": "2026-01-02T00:00:00+00:00",
        "step": 1,
    }
    assert second == {"event": "stdout", "sequence": 3, "offset": 0, "data": "text"}


def test_a_table_lines_up(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", ">SIZE", "NOTE"), [("日本", "9", ""), ("b", "1000", "x\x1b")])
    assert capsys.readouterr().out.splitlines() == [
        "NAME  SIZE  NOTE",
        "日本     9",
        "b     1000  x\\x1b",
    ]


@pytest.mark.parametrize(
    ("byte_count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (96 << 20, "96 MiB"),
        (5 << 40, "5.0 TiB"),
        (1 << 60, "1048576 TiB"),
    ],
)
def test_sizes_are_for_people(byte_count: int, shown: str) -> None:
    assert size(byte_count) == shown


def test_one_is_singular() -> None:
    assert (quantity(1, "token"), quantity(0, "token"), quantity(1200, "token")) == (
        "1 token",
        "0 tokens",
        "1,200 tokens",
    )
