"""What a program in the sandbox tells, as watchers see it at once and the model reads it at the end."""

import codecs
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from ollamesh.sandbox.v1 import execution_pb2 as pb

from services.agent.core.events import Channel
from services.agent.core.tool_result import Execution, result_text
from services.agent.ports import ToolResult

TEXTS = ("text/plain", "text/markdown", "application/json")  # The first that a result has is read.
ANEW = "[The interpreter had been lost: the program began without variables and files from before.]"
FILES_LOST = "The interpreter was lost with it: variables and files are gone."
VARIABLES_LOST = "The interpreter was lost with it: variables are gone, files are kept."
NO_END = "The sandbox did not say how the program ended."


@dataclass(slots=True)
class _Stream:
    """One channel's bytes as text; a character may be split between two events."""

    bytes_count: int = 0
    text: str = ""
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )

    def add(self, data: bytes, *, final: bool = False) -> str:
        self.bytes_count += len(data)
        new = self.decoder.decode(data, final)
        self.text += new
        return new


class Heard:
    """One execution, from whichever stream its events come. `begin` and `problem` are for the model alone."""

    def __init__(self, write: Callable[[Channel, str], Awaitable[None]]) -> None:
        self._write = write
        self._streams = {Channel.STDOUT: _Stream(), Channel.STDERR: _Stream()}
        self._results: list[str] = []
        self._notes: list[str] = []
        self._exited: pb.ExecutionEvent.Exited | None = None

    @property
    def has_ended(self) -> bool:
        return self._exited is not None

    @property
    def has_written(self) -> bool:
        return any(stream.bytes_count for stream in self._streams.values())

    @property
    def stdout_bytes(self) -> int:
        return self._streams[Channel.STDOUT].bytes_count

    @property
    def stderr_bytes(self) -> int:
        return self._streams[Channel.STDERR].bytes_count

    @property
    def result_count(self) -> int:
        return len(self._results)

    def note(self, text: str) -> None:
        """Have the model told before all else."""
        if text and text not in self._notes:
            self._notes.append(text)

    async def hear(self, event: pb.ExecutionEvent) -> None:
        match event.WhichOneof("event"):
            case "started" if event.started.session_restarted:
                self.note(ANEW)
            case "stdout":
                await self._hear(Channel.STDOUT, event.stdout.data)
            case "stderr":
                await self._hear(Channel.STDERR, event.stderr.data)
            case "result":
                self._results.append(_text_of(event.result.data))
            case "exited":
                for channel in self._streams:
                    await self._hear(channel, b"", final=True)
                self._exited = event.exited

    def result(self, problem: str = "") -> ToolResult:
        """What the model reads. `problem` is ours, where the sandbox told no end."""
        exited = self._exited
        problems = [problem or _problem(exited), _limits_reached(exited), _lost(exited)]
        execution = Execution(
            stdout=self._streams[Channel.STDOUT].text,
            stderr=self._streams[Channel.STDERR].text,
            value="\n".join(filter(None, self._results)),
            problem=" ".join(filter(None, problems)),
        )
        failed = exited is None or exited.outcome != pb.OUTCOME_OK
        return ToolResult(content="\n".join([*self._notes, result_text(execution)]), failed=failed)

    async def _hear(self, channel: Channel, data: bytes, *, final: bool = False) -> None:
        if text := self._streams[channel].add(data, final=final):
            await self._write(channel, text)


def _text_of(forms: Mapping[str, bytes]) -> str:
    """A result as a model can read it; of an image only that there is one, for models look at none here."""
    text = next((forms[mime] for mime in TEXTS if mime in forms), b"").decode(errors="replace")
    images = [f"[{mime}, {len(data)} bytes]" for mime, data in forms.items() if mime.startswith("image/")]
    return " ".join(filter(None, (text, *images)))


def _limits_reached(exited: pb.ExecutionEvent.Exited | None) -> str:
    """Why a program that looks right may have failed: the sandbox refused it something."""
    reached = exited.limits_reached if exited is not None else ()
    names = [pb.LimitKind.Name(kind).removeprefix("LIMIT_KIND_").lower() for kind in reached]
    return f"It reached its limits: {', '.join(names)}." if names else ""


def _lost(exited: pb.ExecutionEvent.Exited | None) -> str:
    """What the next program will not find."""
    if exited is None or not (exited.session_restarted or exited.session_ended):
        return ""
    return FILES_LOST if exited.session_files_lost or exited.session_ended else VARIABLES_LOST


def _problem(exited: pb.ExecutionEvent.Exited | None) -> str:
    if exited is None:
        return NO_END
    if exited.outcome == pb.OUTCOME_OK:
        return ""
    if exited.outcome == pb.OUTCOME_ERROR:
        return f"The program failed with exit code {exited.exit_code}."
    outcome = pb.Outcome.Name(exited.outcome).removeprefix("OUTCOME_")
    return f"The program was ended: {exited.message or outcome}."
