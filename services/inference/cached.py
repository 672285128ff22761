"""An answer as it is recorded, kept, and told again."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO

import msgspec

from services.inference.arrived import PIECE_BYTES
from services.inference.completion import Started
from services.inference.ports import EndReason, Outcome, Piece

_CUT = struct.Struct("<III")  # Code points of text and of thinking, and tokens, of one piece.
_REASONS = {reason.value: reason for reason in EndReason}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """A whole answer, without tool calls and log probabilities."""

    started: Started
    text: str
    thinking: str
    token_count: int
    cuts: bytes  # Where its pieces end. Most readers do not ask.
    outcome: Outcome

    @property
    def whole(self) -> Piece:
        """All of it at once."""
        return Piece(text=self.text, thinking=self.thinking, token_count=self.token_count)

    def pieces(self) -> Iterator[Piece]:
        """It, as it came."""
        text_end = thinking_end = 0
        for text_count, thinking_count, token_count in _CUT.iter_unpack(self.cuts):
            yield Piece(
                text=self.text[text_end : text_end + text_count],
                thinking=self.thinking[thinking_end : thinking_end + thinking_count],
                token_count=token_count,
            )
            text_end, thinking_end = text_end + text_count, thinking_end + thinking_count


class Recording:
    """Records an answer while it comes, without a trace of its pieces but for where they end.

    Once it is longer than `bytes_max`, or has what is never kept, it is not `whole` any more and holds nothing.
    """

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._byte_count = self._token_count = 0
        self._text, self._thinking, self._cuts = StringIO(), StringIO(), bytearray()
        self.is_too_long = self.called_tools = self.has_logprobs = False

    @property
    def is_whole(self) -> bool:
        return not (self.is_too_long or self.called_tools or self.has_logprobs)

    def write(self, piece: Piece) -> None:
        self.called_tools |= bool(piece.tool_calls)
        self.has_logprobs |= bool(piece.logprobs)
        # What it takes of a reader's buffer at most when it is told again (arrived.py).
        self._byte_count += PIECE_BYTES + len(piece.text.encode()) + len(piece.thinking.encode())
        self.is_too_long |= self._byte_count > self._bytes_max
        if not self.is_whole:
            self._text, self._thinking, self._cuts = StringIO(), StringIO(), bytearray()
            return
        self._text.write(piece.text)
        self._thinking.write(piece.thinking)
        self._cuts += _CUT.pack(len(piece.text), len(piece.thinking), piece.token_count)
        self._token_count += piece.token_count

    def cached(self, started: Started, outcome: Outcome) -> Cached:
        """Return what was recorded, which must be whole."""
        assert self.is_whole
        return Cached(
            started=started,
            text=self._text.getvalue(),
            thinking=self._thinking.getvalue(),
            token_count=self._token_count,
            cuts=bytes(self._cuts),
            outcome=outcome,
        )


def replay(cached: Cached, *, by_token: bool, tokens_per_s: float) -> Iterator[tuple[float, Piece]]:
    """Return what to write of it, and after how many seconds from the start.

    With `tokens_per_s` 0, all at once: as one piece, or as it came for a reader who wants each token by itself.
    """
    if not tokens_per_s and not by_token:
        yield 0.0, cached.whole
        return
    token_count = 0
    for piece in cached.pieces():
        token_count += piece.token_count
        yield token_count / tokens_per_s if tokens_per_s else 0.0, piece


class _Kept(msgspec.Struct, array_like=True, frozen=True):
    """The form of a Cached. Another one needs another FORM in the names that things are kept under."""

    model: str
    digest: str
    instance: str
    text: str
    thinking: str
    token_count: int
    cuts: bytes
    reason: int
    prompt_token_count: int
    output_token_count: int
    load_s: float
    prompt_s: float
    output_s: float
    context: tuple[int, ...]


FORM = 1
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Kept)


def encoded(cached: Cached) -> bytes:
    started, outcome = cached.started, cached.outcome
    return _encoder.encode(
        _Kept(
            model=started.model,
            digest=started.model_digest,
            instance=started.instance,
            text=cached.text,
            thinking=cached.thinking,
            token_count=cached.token_count,
            cuts=cached.cuts,
            reason=outcome.reason.value,
            prompt_token_count=outcome.prompt_token_count,
            output_token_count=outcome.output_token_count,
            load_s=outcome.load_s,
            prompt_s=outcome.prompt_s,
            output_s=outcome.output_s,
            context=outcome.context,
        )
    )


def decoded(data: bytes) -> Cached:
    """Raises ValueError if it is something else."""
    try:
        kept = _decoder.decode(data)
        reason = _REASONS[kept.reason]
    except (msgspec.DecodeError, KeyError) as error:
        raise ValueError("no cached answer") from error
    return Cached(
        started=Started(model=kept.model, model_digest=kept.digest, instance=kept.instance),
        text=kept.text,
        thinking=kept.thinking,
        token_count=kept.token_count,
        cuts=kept.cuts,
        outcome=Outcome(
            reason=reason,
            prompt_token_count=kept.prompt_token_count,
            output_token_count=kept.output_token_count,
            load_s=kept.load_s,
            prompt_s=kept.prompt_s,
            output_s=kept.output_s,
            context=kept.context,
        ),
    )
