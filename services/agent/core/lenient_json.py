"""JSON as small models write it: with single quotes, trailing commas, Python's constants, line ends inside texts.

Whatever is JSON is read as JSON. What is not is read only if it can mean one thing; nothing is made up but, if the
caller allows it, the brackets that are missing at the very end. Depth is bounded, so that no text breaks the reader.
"""

import json
import math
import re

DEPTH_MAX = 64

_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.])")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_ESCAPES = {
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "/": "/",
    "\\": "\\",
    '"': '"',
    "'": "'",
    "\n": "",
}
_NUMBER_CHARS_MAX = 400


def parse(text: str, *, closes: bool = False) -> object:
    """The value that `text` holds. With `closes`, brackets may be missing at its end. Raises ValueError."""
    reader = Reader(text, closes=closes)
    value = reader.value()
    reader.skip_space()
    if reader.place != len(text):
        raise ValueError("something follows the value")
    return value


class Reader:
    """Reads values one after the other. Every method raises ValueError where none is."""

    def __init__(self, text: str, *, place: int = 0, closes: bool = False) -> None:
        self.place = place
        self._text, self._closes = text, closes

    def value(self, depth: int = 0) -> object:
        if depth > DEPTH_MAX:
            raise ValueError("nested too deeply")
        self.skip_space()
        match self._text[self.place : self.place + 1]:
            case "{":
                return self._object(depth)
            case "[":
                return self._array(depth)
            case '"' | "'":
                return self._string()
            case _:
                return self._scalar()

    def skip_space(self) -> None:
        found = _SPACE.match(self._text, self.place)
        self.place = found.end() if found else self.place

    def _object(self, depth: int) -> dict[str, object]:
        result: dict[str, object] = {}
        self.place += 1
        while not self._closed("}", is_empty=not result):
            key = self._key()
            self._expect(":")
            result[key] = self.value(depth + 1)
            self._separator("}")
        return result

    def _array(self, depth: int) -> list[object]:
        result: list[object] = []
        self.place += 1
        while not self._closed("]", is_empty=not result):
            result.append(self.value(depth + 1))
            self._separator("]")
        return result

    def _closed(self, bracket: str, *, is_empty: bool) -> bool:
        self.skip_space()
        if self.place == len(self._text) and self._closes and not is_empty:
            return True
        if self._text.startswith(bracket, self.place):
            self.place += 1
            return True
        return False

    def _separator(self, bracket: str) -> None:
        """A comma, unless the bracket follows."""
        self.skip_space()
        rest = self._text[self.place : self.place + 1]
        if rest == ",":
            self.place += 1
        elif rest != bracket and not (rest == "" and self._closes):
            raise ValueError("a comma is missing")

    def _key(self) -> str:
        if self._text[self.place : self.place + 1] in {'"', "'"}:
            return self._string()
        word = _WORD.match(self._text, self.place)
        if word is None:
            raise ValueError("a key is missing")
        self.place = word.end()
        return word[0]

    def _expect(self, char: str) -> None:
        self.skip_space()
        if not self._text.startswith(char, self.place):
            raise ValueError(f"a {char} is missing")
        self.place += 1

    def _string(self) -> str:
        quote, place = self._text[self.place], self.place + 1
        parts: list[str] = []
        while True:
            end = _next(self._text, place, quote)
            parts.append(self._text[place:end])
            if self._text[end] == quote:
                self.place = end + 1
                return _joined("".join(parts))
            text, place = self._escape(end)
            parts.append(text)

    def _escape(self, place: int) -> tuple[str, int]:
        """What a backslash stands for, and where the text goes on."""
        char = self._text[place + 1 : place + 2]
        if char == "u":
            return chr(int(self._hexadecimal(place + 2), 16)), place + 6
        # Of a pattern or a path that was not escaped, the backslash is meant.
        return _ESCAPES.get(char, f"\\{char}"), place + 2

    def _hexadecimal(self, place: int) -> str:
        digits = self._text[place : place + 4]
        if not re.fullmatch(r"[0-9A-Fa-f]{4}", digits):
            raise ValueError("an escape is not whole")
        return digits

    def _scalar(self) -> object:
        if number := _NUMBER.match(self._text, self.place):
            self.place = number.end()
            return _number(number[0])
        word = _WORD.match(self._text, self.place)
        if word is None or word[0] not in _CONSTANTS:
            raise ValueError("no value")
        self.place = word.end()
        return _CONSTANTS[word[0]]


def _joined(text: str) -> str:
    """With the halves of characters that were escaped by halves put together. One half is no text: nobody can store it."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16")


def _next(text: str, place: int, quote: str) -> int:
    """Where the text's end or its next escape is."""
    found = re.compile(rf"[{quote}\\]").search(text, place)
    if found is None:
        raise ValueError("a text does not end")
    return found.start()


def _number(text: str) -> int | float:
    if len(text) > _NUMBER_CHARS_MAX:
        raise ValueError("a number is too long")
    value: int | float = json.loads(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value
