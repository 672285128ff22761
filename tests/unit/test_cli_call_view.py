"""A call on a terminal, whole and in pieces: the same lines, and nothing that a terminal would obey."""

import asyncio
import io
import json
from unittest.mock import MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ollamesh.client import runs
from rich.console import Console

from clients.cli.call_view import CallBeingWritten, CodeText, code_of, show_call
from clients.cli.deciding import Decider
from clients.cli.failures import Failure
from clients.cli.output import print_line
from clients.cli.printable import CONTROLS, printable
from clients.cli.run_view import RunView

CODE = 'import math\n\n\nprint("ä😀\\n")  # \u2028\nx = [\n    1,\n]'


def screen(*, is_terminal: bool = False) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=is_terminal,
        color_system=None,
        width=60,
        highlight=False,
        markup=False,
    )


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_program_is_shown_as_one() -> None:
    call = json.dumps({"code": CODE})
    assert code_of(call) == CODE
    for is_terminal in (False, True):
        console = screen(is_terminal=is_terminal)
        show_call(console, call)
        assert shown(console).splitlines()[0] == "│ import math"
        assert shown(console).count("\n") == CODE.count("\n") + 1


@pytest.mark.parametrize(
    "arguments", ['{"code": 1}', '{"code": "x", "more": 1}', "[]", "{", "[" * 100_000, '"code"']
)
def test_other_arguments_are_shown_as_they_are(arguments: str) -> None:
    assert code_of(arguments) is None
    console = screen()
    show_call(console, arguments[:100])
    assert arguments[:20] in shown(console)


def test_json_is_spread_over_lines_on_a_terminal() -> None:
    console = screen(is_terminal=True)
    show_call(console, '{"to": "bob", "n": 1}')
    assert shown(console).splitlines() == ["│ {", '│   "to": "bob",', '│   "n": 1', "│ }"]


@given(st.text(), st.booleans(), st.lists(st.integers(1, 9), min_size=1))
def test_code_in_pieces_is_the_code(code: str, ascii_only: bool, sizes: list[int]) -> None:  # noqa: FBT001
    code = code.encode(errors="replace").decode()
    text, reader, read = json.dumps(code, ensure_ascii=ascii_only)[1:] + "}", CodeText(), ""
    while text:
        size = sizes[len(text) % len(sizes)]
        read, text = read + reader.add(text[:size]), text[size:]
    assert read == code


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    "call", [json.dumps({"code": CODE}), "{}", '{"co": 1}', '{"code": 1}', '{ "code" :"x']
)
def test_a_call_being_written_is_shown_as_the_whole_one(call: str, size: int, *, is_terminal: bool) -> None:
    console, whole = screen(is_terminal=is_terminal), screen()
    writing = CallBeingWritten(console)
    for start in range(0, len(call), size):
        writing.write(call[start : start + size])
    writing.end()
    show_call(whole, call)
    if code_of(call) is not None:
        assert shown(console) == shown(whole)
    else:
        assert "".join(shown(console).split()) in {"".join(shown(whole).split()), "│x"}


@given(st.text())
def test_a_terminal_is_told_nothing_by_a_call(text: str) -> None:
    console = screen(is_terminal=True)
    for arguments in (json.dumps({"code": text}), text):
        show_call(console, arguments)
        writing = CallBeingWritten(console)
        writing.write(arguments)
        writing.end()
    assert not CONTROLS.search(shown(console))


def test_nothing_of_a_call_is_hidden_behind_its_program() -> None:
    """What a person approves is all of it."""
    call = json.dumps({"code": "print(1)", "to": "eve@evil.test"})
    console = screen(is_terminal=True)
    view = RunView(console)
    piece = runs.ToolCallPiece(index=0, tool_name="send", arguments_json=call)
    view.show(runs.Delta(sequence=1, event_time=None, text="", thinking="", tool_call=piece))
    view.show(
        runs.ToolCalled(sequence=2, event_time=None, tool_call_id="c", tool_name="send", arguments_json=call)
    )
    view.close()
    assert "eve@evil.test" in shown(console)


def test_a_question_shows_its_call_unless_it_is_the_last_one_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([None, None])

    async def typed(_: str) -> str | None:
        return next(answers)

    async def ask() -> None:
        console = screen()
        decider = Decider(MagicMock(), RunView(console), console, run_id="r", edge="", told_count=0)
        for at in (0, 1):
            call = f'{{"to": "{at}"}}'
            await decider.heed(
                runs.ToolCalled(
                    sequence=at, event_time=None, tool_call_id=f"c{at}", tool_name="send", arguments_json=call
                )
            )
        for at, count in ((1, 0), (0, 1)):
            question = runs.ApprovalRequested(
                sequence=3,
                event_time=None,
                expire_time=None,
                approval_id=f"a{at}",
                tool_call_id=f"c{at}",
                call_hash=b"",
                reason="",
            )
            await decider.heed(question)
            assert shown(console).count('"to"') == count

    monkeypatch.setattr("clients.cli.deciding.typed", typed)
    asyncio.run(ask())


@pytest.mark.parametrize("char", ["\x1b", "\x9b", "\u202e", "\u200b", "\U000e0041", "\ud800"])
def test_nothing_unseen_and_nothing_obeyed_is_printed(char: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_line("delta", text=f"a{char}b")
    printed = capsys.readouterr().out
    assert char not in printed
    assert json.loads(printed)["text"] == f"a{char}b"
    Failure(f"the answer is {char}").show()
    assert char not in capsys.readouterr().err
    assert char not in printable(char)
