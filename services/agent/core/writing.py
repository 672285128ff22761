"""What a model writes in one step, as it may be told and stored: its calls repaired, its texts filtered.

Whatever is told of an answer passes here, piece by piece, so that watchers, the thread, and the model itself in its
next step read the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.agent.core.pii import redacted
from services.agent.core.repair import Call, CallsInText, Schemas, arguments_meant, tool_meant
from services.agent.core.text_filter import Chain, TextFilter, filtered

UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How answers of a step may be worded. Each text gets filters of its own."""

    filters: Callable[[], Sequence[TextFilter]] = tuple  # Of what is told.
    inner_filters: Callable[[], Sequence[TextFilter]] = tuple  # Of the texts in arguments.
    read: Sequence[str] = ()  # What tools returned: quoting it calls nothing.


PLAIN = Wording()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What has arrived."""

    text: str = ""
    thinking: str = ""
    calls: Sequence[tuple[str, str]] = ()  # Name and arguments, as the runtime gave them.


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What may be told now."""

    text: str = ""
    thinking: str = ""
    calls: tuple[Call, ...] = ()


class Writing:
    """One answer, from its first piece to its end."""

    def __init__(self, tools: Schemas, wording: Wording = PLAIN) -> None:
        self.is_calling = False
        self._tools, self._wording = tools, wording
        self._in_text = CallsInText(tools, read=wording.read)
        self._text = Chain([self._in_text, *wording.filters()])
        self._thinking = Chain(wording.filters())

    def hear(self, piece: Piece) -> Told:
        calls = tuple(self._call(name, arguments) for name, arguments in piece.calls)
        if calls:
            self.is_calling = self._in_text.called = True
        return Told(
            text=self._text.feed(piece.text),
            thinking=self._thinking.feed(piece.thinking),
            calls=calls,
        )

    def end(self, *, truncated: bool) -> Told:
        """The rest."""
        self._in_text.whole = not truncated
        text, thinking = self._text.end(), self._thinking.end()
        calls = tuple(self._filtered(call) for call in self._in_text.calls)
        self.is_calling = self.is_calling or bool(calls)
        return Told(text=text, thinking=thinking, calls=calls)

    def _call(self, name: str, arguments: str) -> Call:
        meant = tool_meant(name, list(self._tools))
        read = arguments_meant(arguments, self._tools.get(meant, {}))
        return self._filtered(Call(meant, {UNREADABLE: arguments} if read is None else read))

    def _filtered(self, call: Call) -> Call:
        arguments = {self._inner(key): redacted(value, self._inner) for key, value in call.arguments.items()}
        name = (
            call.name if call.name in self._tools else self._inner(call.name)
        )  # One that the model made up.
        return Call(name, arguments)

    def _inner(self, text: str) -> str:
        return filtered(text, Chain(self._wording.inner_filters()))
