"""A step whose replica was lost is asked again: what was told of it before need not be told again.

The gateway replays the same completion for the same request, so that nearly always the same text comes. Then watchers
notice nothing. If another text comes, they are told to forget the first one.
"""

from services.agent.core.events import Channel, Delta, Event, StepRestarted, ToolOutput


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


class RetoldOutput:
    """What tools had written when their replica was lost: called again, many write the same again.

    The sandbox plays an execution from its first byte. What comes as it was told is not told again; from where it
    differs, all is.
    """

    def __init__(self) -> None:
        self._told: dict[tuple[str, Channel], str] = {}  # And not heard again yet.

    def add(self, output: ToolOutput) -> None:
        """It was told before."""
        key = output.call_id, output.channel
        self._told[key] = self._told.get(key, "") + output.text

    def hear(self, output: ToolOutput) -> tuple[ToolOutput, ...]:
        """What is to be told now."""
        told = self._told.pop((output.call_id, output.channel), "")
        if told.startswith(output.text):
            if told != output.text:
                self._told[output.call_id, output.channel] = told[len(output.text) :]
            return ()
        text = output.text.removeprefix(told)
        return (ToolOutput(output.call_id, output.channel, text),)

    def end(self, call_id: str) -> None:
        """The tool has answered."""
        for channel in Channel:
            self._told.pop((call_id, channel), None)


def _agree(one: str, other: str) -> bool:
    """Whether one of them goes on where the other stops."""
    return one.startswith(other) or other.startswith(one)
