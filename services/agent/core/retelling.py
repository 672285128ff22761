"""A step whose replica was lost is asked again: what was told of it before need not be told again.

The gateway replays the same completion for the same request, so that nearly always the same text comes. Then watchers
notice nothing. If another text comes, they are told to forget the first one.
"""

from services.agent.core.events import Delta, Event, StepRestarted


class Retelling:
    """Compares what is heard now with what was told before."""

    def __init__(self, step: int, told: Delta) -> None:
        self._step, self._told = step, told
        self._heard = Delta()
        self.is_over = told == Delta()  # From here on, whatever is heard is new.

    def hear(self, delta: Delta) -> tuple[Event, ...]:
        """What is to be told now."""
        self._heard = heard = Delta(self._heard.text + delta.text, self._heard.thinking + delta.thinking)
        told = self._told
        if not (_agree(heard.text, told.text) and _agree(heard.thinking, told.thinking)):
            return self._restart()
        self.is_over = heard.text.startswith(told.text) and heard.thinking.startswith(told.thinking)
        if not self.is_over:
            # One of the two may be further than it was: that part is new, and becomes told.
            self._told = Delta(
                max(heard.text, told.text, key=len), max(heard.thinking, told.thinking, key=len)
            )
        new = Delta(heard.text[len(told.text) :], heard.thinking[len(told.thinking) :])
        return (new,) if new != Delta() else ()

    def end(self) -> tuple[Event, ...]:
        """The model has written all. If it is less than was told, it is another text."""
        return () if self.is_over else self._restart()

    def _restart(self) -> tuple[Event, ...]:
        self.is_over = True
        restarted = StepRestarted(self._step)
        return (restarted, self._heard) if self._heard != Delta() else (restarted,)


def _agree(one: str, other: str) -> bool:
    """Whether one of them goes on where the other stops."""
    return one.startswith(other) or other.startswith(one)
