"""One execution, between the jail's pace and its readers'.

The jail writes and never waits: output is bounded by its limit, so there is nothing to wait for. A
reader takes whatever has come since it last looked, at its own pace, and any number of them may read.
The loop is the lock: everything but `events` is synchronous.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from services.common.errors import MeshError
from services.sandbox.core.lifecycle import Ending, Event, Lifecycle, Verdict, judge
from services.sandbox.core.limits import Limits
from services.sandbox.core.output import Output
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.ports import Stream

CHUNK_BYTES_MAX = 1 << 18


@dataclass(frozen=True, slots=True)
class Queued:
    ahead_count: int


@dataclass(frozen=True, slots=True)
class Started:
    execution_id: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Wrote:
    stream: Stream
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    queue_s: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Exited:
    verdict: Verdict
    usage: Usage
    truncated: frozenset[Stream]


ExecutionEvent = Queued | Started | Wrote | Exited


class Execution:
    def __init__(self, execution_id: str, limits: Limits, *, ahead_count: int | None) -> None:
        """Make one that waits. `ahead_count` is how many go first; None if none need wait."""
        self.execution_id = execution_id
        self.limits = limits
        self._ahead_count = ahead_count
        self._life = Lifecycle()
        self._outputs = {stream: Output(limits.output_bytes) for stream in Stream}
        self._end: Exited | MeshError | None = None
        self._begun = False
        self._stop: Callable[[], object] = lambda: None
        self._changed = asyncio.Event()

    @property
    def result(self) -> Exited | MeshError | None:
        """How it ended; None as long as it has not."""
        return self._end

    def waits(self, give_up: Callable[[], object]) -> None:
        """It waits for a jail; `give_up` ends that."""
        self._stop = give_up

    def runs(self, kill: Callable[[], object]) -> None:
        """It has a jail, which `kill` ends."""
        self._stop = kill
        self._begun = True
        self.on(Event.BEGAN)

    def on(self, event: Event) -> None:
        """Tell it what happened."""
        if self._life.on(event):
            self._stop()
        self._tell()

    def write(self, stream: Stream, data: bytes) -> None:
        output = self._outputs[stream]
        output.write(data)
        if output.flooded:
            self.on(Event.FLOODED)
        self._tell()

    def judge(self, ending: Ending, usage: Usage) -> None:
        """The jail is gone, or there never was one: close the books."""
        self.on(Event.GONE)
        if (verdict := judge(self._life.stopped_because, ending)) is None:
            self.fail(SandboxUnavailable(problem="the jail was lost"))
            return
        truncated = frozenset(stream for stream, output in self._outputs.items() if output.truncated)
        self._end = Exited(verdict, usage, truncated)
        self._tell()

    def fail(self, error: MeshError) -> None:
        """There is no outcome; readers get `error`."""
        self._end = error
        self._tell()

    async def events(self) -> AsyncGenerator[ExecutionEvent, None]:
        """Everything from the beginning, live. Raises the MeshError that it failed with."""
        if self._ahead_count is not None:
            yield Queued(self._ahead_count)
        while not self._begun and self._end is None:
            await self._changed.wait()
        if self._begun:
            yield Started(self.execution_id, self.limits)
        offsets = dict.fromkeys(Stream, 0)
        while True:
            changed, end = self._changed, self._end  # Before looking, so that nothing slips through.
            for stream, output in self._outputs.items():
                while data := output.read(offsets[stream], CHUNK_BYTES_MAX):
                    yield Wrote(stream, offsets[stream], data)
                    offsets[stream] += len(data)
            if end is not None:
                break
            await changed.wait()
        if isinstance(end, MeshError):
            raise end
        yield end

    def _tell(self) -> None:
        """Wake every reader, once."""
        self._changed.set()
        self._changed = asyncio.Event()
