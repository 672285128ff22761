"""How a subject of `make deploy-check` ends: fine, with problems, or not looked at for want of something."""

from collections.abc import Sequence
from dataclasses import dataclass


class Skipped(Exception):
    """A subject cannot be looked at here; the text says why, as a clause without a full stop."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one subject."""

    subject: str
    took_s: float
    problems: Sequence[str] = ()
    skipped: str | None = None

    @property
    def told(self) -> str:
        """The outcome in a word or two, as the table has it."""
        if self.skipped is not None:
            return f"skipped: {self.skipped}"
        if not self.problems:
            return "ok"
        return f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"

    def failed(self, *, strict: bool) -> bool:
        """Strictly, what was not looked at is not fine either."""
        return bool(self.problems) or (strict and self.skipped is not None)
