"""Whether an answer that is given again is the one that was given before."""

from dataclasses import replace

from services.inference.ports import Piece


class Repetition:
    """Compares pieces with what was told already, letter by letter, and passes on what comes after it.

    A request that is deterministic is answered by the same weights in the same way, as a rule: rounding may differ from
    one batch, or one GPU, to the next. So it is looked at, and not believed.
    """

    def __init__(self, *, text: str, thinking: str, token_count: int) -> None:
        self.differs = False
        self._text, self._thinking = text, thinking
        self._token_count = token_count  # That were told and have not come again.

    @property
    def over(self) -> bool:
        """Whether all that was told has come again."""
        return not self._text and not self._thinking

    def compare(self, piece: Piece) -> Piece | None:
        """Take a piece; return what of it is new, if something is."""
        text, thinking = self._rest(self._text, piece.text), self._rest(self._thinking, piece.thinking)
        if text is None or thinking is None or piece.tool_calls:
            self.differs = True
            return None
        self._text = self._text[len(piece.text) :]
        self._thinking = self._thinking[len(piece.thinking) :]
        repeated_count = min(piece.token_count, self._token_count)
        self._token_count -= repeated_count
        if not text and not thinking:
            return None
        if not self.over:  # New text, though old thoughts are still due.
            self.differs = True
            return None
        return replace(piece, text=text, thinking=thinking, token_count=piece.token_count - repeated_count)

    @staticmethod
    def _rest(told: str, said: str) -> str | None:
        """Return what of `said` goes beyond `told`; None if they differ."""
        if len(said) <= len(told):
            return "" if told.startswith(said) else None
        return said[len(told) :] if said.startswith(told) else None
