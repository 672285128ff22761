"""Calls of tools as small models write them, read as they were meant.

A call is repaired where it can be meant in one way only: a name that is nearly a tool's, arguments that are nearly
JSON, calls that were written into the text. Nothing is called that the model did not write: a call in the text needs
an offered tool's name, arguments, and to be the end of the text, where a model stops that waits for a result. One
that stands word for word in what a tool returned is a quotation.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from services.agent.core.lenient_json import Reader, parse

Schema = Mapping[str, object]  # A JSON Schema, read.
Schemas = Mapping[str, Schema]  # Of the arguments of each tool that was offered, by name.

HELD_CHARS_MAX = 65_536  # Of a text that may be a call: what is longer is an answer.
NEAR_EDITS_MAX = 2
NEAR_CHARS_MIN = 6  # Of shorter names, too many are near.
ENCODINGS_MAX = 3  # JSON within JSON within JSON.

_WRAPPERS = ("arguments", "parameters", "args", "input", "tool_input", "kwargs")
_NAMES = ("name", "tool", "tool_name", "function")
_BESIDE = {"type", "id", "tool_call_id", "index", *_NAMES}
_OPENERS = ("<tool_call>", "<function_call>", "<|tool_call|>", "<|python_tag|>", "[TOOL_CALLS]", "```")
_OPENER = re.compile(
    r"<tool_call>|<function_call>|<\|tool_call\|>|<\|python_tag\|>|\[TOOL_CALLS\]|```[a-z_]*\s*(?=[\[{])"
)
_CLOSER = re.compile(r"</tool_call>|</function_call>|<\|/tool_call\|>|```|;")
_FENCED = re.compile(r"\s*```[A-Za-z_]*\s*\n?(.*?)\s*```\s*", re.DOTALL)
_FIRST_KEY = re.compile(r"[\s\[{]*[\"']?([A-Za-z_]*)([\"']?)")
_KINDS: Mapping[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: Mapping[str, object]


def tool_meant(name: str, tools: Sequence[str]) -> str:
    """The tool that a name means; the name itself if it means none."""
    if name in tools:
        return name
    if len(same := _spelt_alike(name, tools)) == 1:
        return same[0]
    plain = _plain(name)
    near = [tool for tool in tools if _edits(plain, _plain(tool)) <= NEAR_EDITS_MAX]
    return near[0] if len(near) == 1 and len(plain) >= NEAR_CHARS_MIN else name


def arguments_meant(text: str, schema: Schema) -> Mapping[str, object] | None:
    """The arguments that a text means; None if it cannot be told."""
    fenced = _FENCED.fullmatch(text)
    try:
        value = parse(fenced[1] if fenced else text or "{}", closes=True)
    except ValueError:
        return None
    arguments = _decoded(value)
    return None if arguments is None else fitted(arguments, schema)


def fitted(arguments: Mapping[str, object], schema: Schema) -> Mapping[str, object]:
    """Without a wrapper that the tool does not know, and what was written as text as what the tool asks for."""
    properties = schema.get("properties")
    known: Mapping[str, object] = properties if isinstance(properties, dict) else {}
    inner = _unwrapped(arguments)
    if inner is not None and not any(key in known for key in arguments):
        arguments = inner
    return {key: _as_asked(value, known.get(key)) for key, value in arguments.items()}


def calls_in(
    text: str, tools: Schemas, *, read: Sequence[str] = (), whole: bool = True
) -> tuple[str, Sequence[Call]]:
    """The text without the calls that it ends with, and these.

    `read` is what tools returned; `whole` says that the text was not cut off.
    """
    for start in _starts(text):
        written = text[start:].strip()
        calls = _every_call(written, tools, read=[_solid(each) for each in read], closes=whole)
        if calls:
            return text[:start], calls
    return text, ()


class CallsInText:
    """Holds back what may be a call while a text is written. Implements TextFilter; `calls` is known at the end."""

    def __init__(self, tools: Schemas, *, read: Sequence[str] = ()) -> None:
        self.calls: Sequence[Call] = ()
        self.whole = True  # Set to False where the text was cut off.
        self.called = False  # Set to True where calls were made as they should be: then none is looked for.
        self._tools, self._read = tools, read
        self._held = ""
        self._is_start = True  # Of the text: nothing but space was let through.

    def feed(self, piece: str) -> str:
        self._held += piece
        if not self._tools:
            return self._take(len(self._held))
        shown = ""
        while (place := self._candidate()) is not None:
            shown += self._take(place)
            if len(self._held) <= HELD_CHARS_MAX and _may_be_call(self._held):
                return shown
            shown += self._take(max(1, _opener_length(self._held)))
        return shown + self._take(len(self._held) - _begun_chars(self._held))

    def end(self) -> str:
        text, self._held = self._held, ""
        if not self.called:
            text, self.calls = calls_in(text, self._tools, read=self._read, whole=self.whole)
        return text

    def _candidate(self) -> int | None:
        """Where a call may begin in what is held."""
        opener = _OPENER_BEGUN.search(self._held)
        space = len(self._held) - len(self._held.lstrip())
        if self._is_start and self._held[space : space + 1] in {"{", "["}:
            return space
        return opener.start() if opener else None

    def _take(self, count: int) -> str:
        taken, self._held = self._held[:count], self._held[count:]
        self._is_start = self._is_start and not taken.strip()
        return taken


_OPENER_BEGUN = re.compile("|".join(map(re.escape, _OPENERS)))


def _begun_chars(text: str) -> int:
    """How many characters at the end may be the beginning of an opener."""
    counts = range(min(len(text), max(map(len, _OPENERS)) - 1), 0, -1)
    return next((count for count in counts if any(each.startswith(text[-count:]) for each in _OPENERS)), 0)


def _opener_length(text: str) -> int:
    opener = _OPENER_BEGUN.match(text)
    return opener.end() if opener else 0


def _may_be_call(text: str) -> bool:
    """Whether what was written so far may become one: an object's first key tells."""
    if any(each.startswith(text) for each in _OPENERS):
        return True
    opener = _OPENER_BEGUN.match(text)
    rest = text[opener.end() :] if opener else text
    if opener and opener[0] == "```":
        language = re.match(r"[a-z_]*\s*", rest)
        rest = rest[language.end() :] if language else rest
        if rest and rest[0] not in "[{":
            return False
    key = _FIRST_KEY.match(rest)
    if key is None or not key[1]:
        return key is None or (key.end() == len(rest) and not key[2])
    known = {*_NAMES, *_WRAPPERS, *_BESIDE}
    if key[2] or key.end() < len(rest):
        return key[1] in known
    return any(each.startswith(key[1]) for each in known)


def _starts(text: str) -> Iterator[int]:
    if text.lstrip()[:1] in {"{", "["}:
        yield len(text) - len(text.lstrip())
    for opener in _OPENER.finditer(text):
        yield opener.start()


def _every_call(text: str, tools: Schemas, *, read: Sequence[str], closes: bool) -> Sequence[Call]:
    """The calls of which the text consists; none if there is anything else in it, or a quotation of what was `read`.

    Whoever quotes puts marks of their own around it, and indents it as they like.
    """
    calls: list[Call] = []
    place = 0
    while place < len(text):
        opener = _OPENER.match(text, place)
        reader = Reader(text, place=opener.end() if opener else place, closes=closes)
        start = reader.place
        try:
            value = reader.value()
        except ValueError:
            return ()
        written = _solid(text[start : reader.place])
        if any(written in each for each in read):
            return ()
        for each in value if isinstance(value, list) else [value]:
            call = _call(each, tools)
            if call is None:
                return ()
            calls.append(call)
        place = _after_closers(text, reader)
    return calls


def _solid(text: str) -> str:
    return "".join(text.split())


def _after_closers(text: str, reader: Reader) -> int:
    reader.skip_space()
    while closer := _CLOSER.match(text, reader.place):
        reader.place = closer.end()
        reader.skip_space()
    return reader.place


def _call(value: object, tools: Schemas) -> Call | None:
    """What an object calls, if it is a call of one of the tools."""
    if not isinstance(value, dict):
        return None
    inner = value.get("function")
    if isinstance(inner, dict):
        return _call(inner, tools) if value.keys() <= _BESIDE else None
    name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), None)
    wrapped = [key for key in _WRAPPERS if key in value]
    if name is None or len(wrapped) != 1 or not value.keys() <= {*_BESIDE, wrapped[0]}:
        return None
    meant = [name] if name in tools else _spelt_alike(name, list(tools))
    arguments = _decoded(value[wrapped[0]])
    if len(meant) != 1 or arguments is None:
        return None
    return Call(meant[0], fitted(arguments, tools[meant[0]]))


def _decoded(value: object) -> Mapping[str, object] | None:
    """An object, also where it was written as a text."""
    for _ in range(ENCODINGS_MAX):
        if not isinstance(value, str):
            break
        try:
            value = parse(value, closes=True)
        except ValueError:
            return None
    return value if isinstance(value, dict) else None


def _unwrapped(arguments: Mapping[str, object]) -> Mapping[str, object] | None:
    wrapped = [key for key in _WRAPPERS if key in arguments]
    if len(wrapped) != 1 or not arguments.keys() <= {*_BESIDE, wrapped[0]}:
        return None
    return _decoded(arguments[wrapped[0]])


def _as_asked(value: object, schema: object) -> object:
    """A text that holds the number, truth or object that the tool asks for."""
    if not isinstance(value, str) or not isinstance(schema, dict):
        return value
    asked = schema.get("type")
    if not isinstance(asked, str) or asked not in _KINDS:
        return value
    try:
        meant = parse(value)
    except ValueError:
        return value
    fits = isinstance(meant, _KINDS[asked]) and (asked == "boolean" or not isinstance(meant, bool))
    return meant if fits else value


def _spelt_alike(name: str, tools: Sequence[str]) -> Sequence[str]:
    return [tool for tool in tools if _plain(tool) == _plain(name)]


def _plain(name: str) -> str:
    """Without case, separators, brackets, and the namespaces that models put before names."""
    last = re.split(r"functions?[.:]|tools?[.:]|default_api[.:]", name.strip(), maxsplit=1)[-1]
    return re.sub(r"[^a-z0-9]", "", last.lower())


def _edits(one: str, other: str) -> int:
    """How many letters have to be put in, left out or replaced to make one of the other."""
    if abs(len(one) - len(other)) > NEAR_EDITS_MAX:
        return NEAR_EDITS_MAX + 1
    row = list(range(len(other) + 1))
    for count, letter in enumerate(one, 1):
        before, row[0] = row[0], count
        for place, another in enumerate(other, 1):
            before, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, before + (letter != another)),
            )
    return row[-1]
