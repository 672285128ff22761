"""A model's call on a terminal: its code as code, its other arguments as JSON; also while it is being written."""

import json
import re

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from clients.cli.output import Flow
from clients.cli.printable import printable

RULE = "│ "
CODE = "code"  # The argument that is a program.
THEME = "ansi_dark"  # In the terminal's own colours.
# A whole escape: of a character beyond 16 bits, both halves.
ESCAPE = re.compile(
    r"\\(?:[^u]|u[dD][89abAB].{2}\\u.{4}|u(?![dD][89abAB]).{4}|u[dD][89abAB].{2}(?=[^\\]|\\[^u]))"
)
LONE = re.compile("[\ud800-\udfff]")
STARTS_WITH_CODE = re.compile(r'\s*\{\s*"code"\s*:\s*"')


def code_of(arguments_json: str) -> str | None:
    """The program that a call consists of, if it consists of one."""
    try:
        arguments = json.loads(arguments_json)
    except (ValueError, RecursionError):
        return None
    code = arguments.get(CODE) if isinstance(arguments, dict) and len(arguments) == 1 else None
    return code if isinstance(code, str) else None


def is_shown_whole(arguments_json: str) -> bool:
    """Whether a call that was shown while it was written has been shown to its end: behind a program nothing is."""
    return STARTS_WITH_CODE.match(arguments_json) is None or code_of(arguments_json) is not None


def show_call(console: Console, arguments_json: str) -> None:
    """Show a whole call."""
    code = code_of(arguments_json)
    if not console.is_terminal:
        flow = Flow(console, prefix=RULE)
        flow.write(arguments_json if code is None else code)
        flow.end()
    elif code is not None:
        _show_lines(console, code, "python")
    else:
        _show_lines(console, _spread(arguments_json), "json")


class CallBeingWritten:
    """Shows a call piece by piece; code line by line, each coloured once it is whole."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._text = ""
        self._code: CodeText | None = None
        self._line = ""
        self._flow: Flow | None = None

    def write(self, piece: str) -> None:
        """More of the call's JSON."""
        self._text += piece
        if self._code is None and self._flow is None:
            if (start := STARTS_WITH_CODE.match(self._text)) is not None:
                self._code, piece = CodeText(), self._text[start.end() :]
            elif _may_become_code(self._text):
                return
            else:
                self._flow, piece = Flow(self._console, prefix=RULE, style="cyan"), self._text
        if self._code is not None:
            self._show(self._code.add(piece))
        elif self._flow is not None:
            self._flow.write(piece)

    def end(self) -> None:
        """It is whole."""
        if self._flow is not None:
            self._flow.end()
        elif self._code is None:
            show_call(self._console, self._text)
        elif self._line:
            self._show("\n")

    def _show(self, code: str) -> None:
        *whole, self._line = (self._line + code).split("\n")
        for line in whole:
            _show_lines(self._console, line, "python")


class CodeText:
    """Reads a JSON string that comes in pieces, up to its end."""

    def __init__(self) -> None:
        self._held = ""
        self._is_over = False

    def add(self, piece: str) -> str:
        """What `piece` adds to the text. Half an escape is held back."""
        text, self._held = self._held + piece, ""
        read: list[str] = []
        place = 0
        while place < len(text) and not self._is_over:
            if text[place] == '"':
                self._is_over = True
            elif text[place] != "\\":
                read.append(text[place])
                place += 1
            elif (escape := ESCAPE.match(text, place)) is not None:
                read.append(_unescaped(escape[0]))
                place = escape.end()
            else:
                self._held = text[place:]
                break
        return "".join(read)


def _unescaped(escape: str) -> str:
    try:
        text: str = json.loads(f'"{escape}"')
    except ValueError:
        return escape
    return LONE.sub("\ufffd", text)


def _may_become_code(text: str) -> bool:
    """Whether this may be how a call of a program begins."""
    squeezed = "".join(text.split())
    return len(text) <= 64 and '{"code":"'.startswith(squeezed)


def _spread(arguments_json: str) -> str:
    """On a line for each argument, as they were written; what is no JSON stays as it is."""
    try:
        return json.dumps(json.loads(arguments_json), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return arguments_json


def _show_lines(console: Console, code: str, language: str) -> None:
    if console.is_terminal:
        syntax = Syntax("", language, theme=THEME, background_color="default")
        text = syntax.highlight(printable(code))
    else:
        text = Text(code)
    for line in text.split("\n") or [Text("")]:
        for part in line.wrap(console, console.width - len(RULE)) or [Text("")]:
            console.print(Text.assemble((RULE, "dim"), part), soft_wrap=True)
