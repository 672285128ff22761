"""One execution, between the jail's pace and its readers'.

The jail writes and never waits: what is kept is bounded, so there is nothing to wait for. A reader takes
whatever has come since it last looked, from wherever it wants, at its own pace; any number of them may read, and
none takes memory. The loop is the lock: everything but `events` is synchronous.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field, replace

from services.common.errors import MeshError
from services.sandbox.core.kept_results import RESULT_BOUNDS, ResultBounds, Results
from services.sandbox.core.lifecycle import Ending, Event, Lifecycle, Outcome, Verdict, judge, limits_reached
from services.sandbox.core.limits import LimitKind, Limits
from services.sandbox.core.output import Output
from services.sandbox.core.results import Result
from services.sandbox.core.sessions import Aftermath
from services.sandbox.errors import SandboxUnavailable
from services.sandbox.input import Input
from services.sandbox.places import Place
from services.sandbox.ports import Jail, Stream

CHUNK_BYTES_MAX = 1 << 18


@dataclass(frozen=True, slots=True)
class Queued:
    ahead_count: int


@dataclass(frozen=True, slots=True)
class Started:
    execution_id: str
    limits: Limits
    begins_anew: bool = False  # Its session lost its interpreter since the execution before.


@dataclass(frozen=True, slots=True)
class Wrote:
    stream: Stream
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Showed:
    """A result."""

    data: Result


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
    limits_reached: tuple[LimitKind, ...] = ()  # The one that ended it, if one did, is the first.
    session: Aftermath = field(default_factory=Aftermath)


ExecutionEvent = Queued | Started | Wrote | Showed | Exited


@dataclass(frozen=True, slots=True)
class Where:
    """What an execution runs in."""

    engine: str
    profile: str
    session_id: str = ""  # If in a session.


# What of an execution a reader has: bytes of its outputs, and how many results.
Seen = Mapping[Stream, int]

NOTHING_SEEN: Seen = {}
OUTPUTS = (Stream.STDOUT, Stream.STDERR)


class Execution:
    def __init__(
        self,
        execution_id: str,
        limits: Limits,
        where: Where,
        *,
        is_input_open: bool = False,
        result_bounds: ResultBounds = RESULT_BOUNDS,
    ) -> None:
        """Make one that waits."""
        self.execution_id = execution_id
        self.limits = limits
        self.where = where
        self.create_time_s = time.time()
        self.created_s = self.began_s = asyncio.get_running_loop().time()
        self.input = Input(is_open=is_input_open)
        self._place: Place | None = None
        self._jail: Jail | None = None  # What it runs in.
        self.has_begun = self.begins_anew = False
        self.aftermath = Aftermath()  # Of its session, if it is in one.
        self.ended_s = self.began_s  # When its program had ended; the books may be closed later.
        self._life = Lifecycle()
        self._outputs = {stream: Output(limits.output_bytes) for stream in OUTPUTS}
        self._results = Results(result_bounds)
        self._end: Exited | MeshError | None = None
        self._stop: Callable[[Outcome], object] = lambda _: None
        self._changed: asyncio.Event | None = None  # Made for whoever waits for it.

    @property
    def result(self) -> Exited | MeshError | None:
        """How it ended; None as long as it has not."""
        return self._end

    @property
    def seen(self) -> Seen:
        """What a reader has who has read everything so far."""
        outputs = {stream: output.size_bytes for stream, output in self._outputs.items()}
        return {**outputs, Stream.RESULTS: self._results.count}

    @property
    def kept_bytes(self) -> int:
        """What is kept of it for readers."""
        return self._results.size_bytes + sum(output.size_bytes for output in self._outputs.values())

    def waits(self, place: Place, give_up: Callable[[], object]) -> None:
        """It waits for `place`, and a jail; `give_up` ends that."""
        self._place = place
        self._stop = lambda _: give_up()

    def runs(self, jail: Jail, stop: Callable[[Outcome], object]) -> None:
        """It has a jail, which `stop` ends. See running.attended."""
        self.has_begun = True
        self._jail, self._stop = jail, stop
        self.began_s = asyncio.get_running_loop().time()
        self.on(Event.BEGAN)

    def on(self, event: Event) -> None:
        """Tell it what happened."""
        if self._life.on(event):
            assert self._life.stopped_because is not None
            self._stop(self._life.stopped_because)
        self._tell()

    def kill(self) -> None:
        """End it at once, without the time that a session gives it to keep its variables."""
        self.on(Event.LEFT)
        if self._jail is not None:
            self._jail.kill()

    def interrupt(self) -> None:
        """Send it SIGINT; end it if it still waits. Nothing, if it has ended."""
        if self._end is not None:
            return
        if self._jail is None:
            self.on(Event.LEFT)
        else:
            self._jail.interrupt()

    def write(self, stream: Stream, data: bytes) -> None:
        kept = self._results if stream is Stream.RESULTS else self._outputs[stream]
        kept.write(data)
        if kept.flooded:
            self.on(Event.FLOODED)
        self._tell()

    def judge(self, ending: Ending, usage: Usage) -> None:
        """The jail is gone, or there never was one: close the books."""
        self.on(Event.GONE)
        self._results.end()
        truncated = {stream for stream, output in self._outputs.items() if output.truncated}
        if truncated:
            ending = replace(ending, reached=ending.reached | {LimitKind.OUTPUT})
        because = self._life.stopped_because
        if (verdict := judge(because, ending)) is None:
            self.fail(SandboxUnavailable(problem="the jail was lost"))
            return
        if self._results.truncated:
            truncated.add(Stream.RESULTS)
        reached = limits_reached(because, ending)
        self._close(Exited(verdict, usage, frozenset(truncated), reached, self.aftermath))

    def fail(self, error: MeshError) -> None:
        """There is no outcome; readers get `error`."""
        self._close(error)

    async def ended(self) -> Exited:
        """Return how it ended, once it has. Raises the MeshError that it failed with."""
        while self._end is None:
            await self._change().wait()
        if isinstance(self._end, MeshError):
            raise self._end
        return self._end

    async def events(self, seen: Seen = NOTHING_SEEN) -> AsyncGenerator[ExecutionEvent, None]:
        """Everything but what is `seen`, live. Raises the MeshError that it failed with."""
        ahead_count = self._place.ahead_count if self._place is not None else None
        if ahead_count is not None:
            yield Queued(ahead_count)
        while not self.has_begun and self._end is None:
            await self._change().wait()
        if self.has_begun:
            yield Started(self.execution_id, self.limits, self.begins_anew)
        at = {stream: seen.get(stream, 0) for stream in Stream}
        while True:
            change, end = self._change(), self._end  # Before looking, so that nothing slips through.
            for stream, output in self._outputs.items():
                while data := output.read(at[stream], CHUNK_BYTES_MAX):
                    yield Wrote(stream, at[stream], data)
                    at[stream] += len(data)
            while (result := self._results.read(at[Stream.RESULTS])) is not None:
                yield Showed(result)
                at[Stream.RESULTS] += 1
            if end is not None:
                break
            await change.wait()
        if isinstance(end, MeshError):
            raise end
        yield end

    def _close(self, end: Exited | MeshError) -> None:
        self._end = end
        self._place = self._jail = None  # It may be kept for long.
        self._stop = lambda _: None
        self.input.close()
        self._tell()

    def _change(self) -> asyncio.Event:
        """What is set when anything happens after now."""
        if self._changed is None:
            self._changed = asyncio.Event()
        return self._changed

    def _tell(self) -> None:
        """Wake every reader, once."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None
