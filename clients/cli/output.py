"""What commands print: safe for terminals, wrapped for people, and one JSON document a line for scripts.

Models and sandboxed programs write text that nobody has vetted, and a terminal obeys escape sequences. So
on a terminal their control characters are shown and not sent; into a pipe or file everything goes as it is.
"""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

import click
from rich.cells import cell_len
from rich.console import Console

from clients.cli.printable import CONTROLS, printable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WIDTH_MAX = 100  # Longer lines are hard to read, however wide the terminal.
# Scripts without spaces break anywhere; and no word is so long that it should keep a reader waiting.
CJK = r"\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef"
WORDS = re.compile(rf"\n|[^\S\n]+|[{CJK}]|[^\s{CJK}]{{1,40}}")


def console(*, err: bool = False) -> Console:
    """Colours and widths for a terminal; plain text anywhere else."""
    made = Console(stderr=err, highlight=False, markup=False, emoji=False)
    if made.is_terminal:
        made.width = min(made.width, WIDTH_MAX)
    else:
        made.width = 10_000  # Nothing of a table is cut off.
    return made


class Flow:
    """Streams text that grows word by word, wrapped between words, each line after `prefix`.

    The last word is held back until it is known to be whole. Not on a terminal, text passes as it is.
    """

    def __init__(self, to: Console, *, prefix: str = "", style: str = "") -> None:
        self.style = style
        self._to, self._prefix = to, prefix
        self._width = to.width - cell_len(prefix)
        self._column = 0
        self._at_start = True  # Of a line whose prefix is not out yet.
        self._held = ""

    def write(self, text: str) -> None:
        *whole, self._held = _split(self._held + (printable(text) if self._to.is_terminal else text))
        for word in whole:
            self._put(word)
        sys.stdout.flush()

    def end(self) -> None:
        """Write what was held back, and finish the line if there is one."""
        self._put(self._held)
        self._held = ""
        if not self._at_start:
            self._newline()

    def _put(self, word: str) -> None:
        if word == "\n":
            self._newline()
            return
        if self._to.is_terminal and self._column + cell_len(word) > self._width:
            if self._column:
                self._newline()
            if word.isspace():
                return
        if word:
            self._start()
            self._to.print(word, end="", style=self.style or None, soft_wrap=True)
            self._column += cell_len(word)

    def _start(self) -> None:
        if self._at_start:
            self._to.print(self._prefix, end="", style="dim", soft_wrap=True)
            self._at_start = False

    def _newline(self) -> None:
        self._start()
        self._to.print()
        self._column, self._at_start = 0, True


def _split(text: str) -> list[str]:
    """Words, spaces and newlines; the last of them may still grow. Never empty."""
    return [*WORDS.findall(text), ""] if text.endswith("\n") else WORDS.findall(text) or [""]


def print_json(value: object) -> None:
    """One JSON document, on one line if it goes to a program."""
    indent = 2 if sys.stdout.isatty() else None
    print(_safe(json.dumps(value, indent=indent, default=_plain, ensure_ascii=False)), flush=True)


def print_event(event: "DataclassInstance", **instead: object) -> None:
    """An event as one line of JSON: its kind under "event", then its fields, or others `instead`."""
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()
    print_line(kind, **{**asdict(event), **instead})


def print_line(kind: str, **fields: object) -> None:
    print(_safe(json.dumps({"event": kind, **fields}, default=_plain, ensure_ascii=False)), flush=True)


def _safe(document: str) -> str:
    """The same JSON, without what a terminal would obey: it has such characters in texts only."""
    return CONTROLS.sub(lambda found: json.dumps(found[0])[1:-1], document)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns whose title starts with ">" are numbers."""
    titles = [column.removeprefix(">") for column in columns]
    lines = [titles, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]
    for place, line in enumerate(lines):
        cells = []
        for column, cell, width in zip(columns, line, widths, strict=True):
            space = " " * (width - cell_len(cell))
            cells.append(space + cell if column.startswith(">") else cell + space)
        click.secho("  ".join(cells).rstrip(), bold=place == 0)


def quantity(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size(byte_count: int) -> str:
    """Bytes for people, such as "93 MiB"."""
    amount, units = float(byte_count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:.0f} {units[0]}" if amount >= 10 or units[0] == "B" else f"{amount:.1f} {units[0]}"


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(type(value).__name__)
