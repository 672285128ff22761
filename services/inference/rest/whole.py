"""An answer that is told all at once."""

from ollamesh.inference.v1 import completion_pb2 as pb

from services.inference.rest.calls import Answer, Delta, Finished


class Whole:
    """What has come of an answer so far."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self.tool_calls: list[pb.ToolCall] = []
        self.logprobs: list[pb.TokenLogprob] = []

    def add(self, delta: Delta) -> None:
        self._texts.append(delta.text)
        self._thoughts.append(delta.thinking)
        self.tool_calls += delta.tool_calls
        self.logprobs += delta.logprobs

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def thinking(self) -> str:
        return "".join(self._thoughts)


async def gathered(answer: Answer) -> tuple[Whole, Finished]:
    """Read an answer to its end."""
    whole, finished = Whole(), Finished()
    while (event := await answer.read()) is not None:
        if event.HasField("finished"):
            finished = event.finished
        else:
            whole.add(event.delta)
    return whole, finished
