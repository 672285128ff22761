"""What has arrived of an answer and was not taken yet, within a bound."""

from collections import deque
from dataclasses import dataclass, replace

from services.inference.core.asks import ToolCall
from services.inference.ports import Piece, TokenLogprob

# Of what is kept beside text, for the objects that hold it.
PIECE_BYTES = 64
CALL_BYTES = 64
LOGPROB_BYTES = 64


@dataclass(frozen=True, slots=True)
class Delta:
    text: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    token_count: int
    logprobs: tuple[TokenLogprob, ...] = ()


class Arrived:
    """Takes pieces in, gives deltas out: all that has arrived as one, or, `by_token`, one for each piece.

    What is held is counted in bytes, for what a reader may let pile up is memory. Text is kept as UTF-8 without a
    trace of its pieces: a slow reader of small tokens costs little more than their letters.
    """

    def __init__(self, stream_id: str, *, bytes_max: int, by_token: bool) -> None:
        self._stream_id = stream_id
        self._bytes_max = bytes_max
        self._apart: deque[Piece] | None = deque() if by_token else None
        self._text, self._thinking = bytearray(), bytearray()
        self._tool_calls: list[ToolCall] = []
        self._logprobs: list[TokenLogprob] = []
        self._token_count = self._call_count = 0
        self.held_bytes = 0

    @property
    def has_calls(self) -> bool:
        """Whether any piece of the answer was a tool call."""
        return self._call_count > 0

    def add(self, piece: Piece) -> bool:
        """Keep a piece; False if that is more than may be held."""
        if piece.tool_calls:
            piece = replace(piece, tool_calls=tuple(map(self._named, piece.tool_calls)))
        if self._apart is not None:
            self._apart.append(piece)
            self.held_bytes += _text_bytes(piece)
        else:
            self._merge(piece)
        if piece.tool_calls or piece.logprobs:
            self.held_bytes += _beside_bytes(piece)
        return self.held_bytes <= self._bytes_max

    def take(self) -> Delta | None:
        """Return the next delta, None if nothing is held."""
        if self.held_bytes == 0:
            return None
        if self._apart is not None:
            return self._take_one(self._apart)
        delta = Delta(
            self._text.decode(),
            self._thinking.decode(),
            tuple(self._tool_calls),
            self._token_count,
            tuple(self._logprobs),
        )
        self._text, self._thinking = bytearray(), bytearray()
        self._tool_calls, self._logprobs = [], []
        self._token_count = self.held_bytes = 0
        return delta

    def _merge(self, piece: Piece) -> None:
        self._token_count += piece.token_count
        if piece.text:
            self._text += (data := piece.text.encode())
            self.held_bytes += len(data)
        if piece.thinking:
            self._thinking += (data := piece.thinking.encode())
            self.held_bytes += len(data)
        self._tool_calls += piece.tool_calls
        self._logprobs += piece.logprobs

    def _take_one(self, apart: deque[Piece]) -> Delta:
        piece = apart.popleft()
        self.held_bytes -= _text_bytes(piece) + _beside_bytes(piece)
        return Delta(piece.text, piece.thinking, piece.tool_calls, piece.token_count, piece.logprobs)

    def _named(self, call: ToolCall) -> ToolCall:
        """Give a call a name of its own, if it has none: results are paired with calls by it."""
        self._call_count += 1
        name = call.id or f"call_{self._stream_id}_{self._call_count}"
        return ToolCall(id=name, name=call.name, arguments_json=call.arguments_json)


def _text_bytes(piece: Piece) -> int:
    """What a piece that is kept apart takes for its texts."""
    return PIECE_BYTES + len(piece.text.encode()) + len(piece.thinking.encode())


def _beside_bytes(piece: Piece) -> int:
    return sum(map(_call_bytes, piece.tool_calls)) + sum(map(_logprob_bytes, piece.logprobs))


def _call_bytes(call: ToolCall) -> int:
    return CALL_BYTES + len(call.arguments_json.encode())


def _logprob_bytes(one: TokenLogprob) -> int:
    return LOGPROB_BYTES + 2 * len(one.token_bytes) + sum(map(_logprob_bytes, one.top))
