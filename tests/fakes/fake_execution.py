"""An execution that runs nothing: what a test scripts of it, and what it tells."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from google.protobuf.timestamp_pb2 import Timestamp
from ollamesh.sandbox.v1 import execution_pb2 as pb
from ollamesh.sandbox.v1 import sandbox_service_pb2 as service

from services.sandbox.errors import InputEnded, InputOffsetWrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What one execution does: its output, its input's echo, its results, then `failure` or its outcome."""

    stdout: Sequence[bytes] = ()
    stderr: Sequence[bytes] = ()
    value: bytes = b""
    results: Sequence[Mapping[str, bytes]] = ()
    outcome: pb.Outcome = pb.OUTCOME_OK
    exit_code: int = 0
    message: str = ""
    limits_reached: Sequence[pb.LimitKind] = ()
    exited: pb.ExecutionEvent.Exited | None = None  # Instead of the four before.
    session_restarted: bool = False  # Before it.
    failure: Exception | None = None
    echoes: bool = False  # Writes what it reads, to the end of its input.
    hold: asyncio.Event | None = None  # Waits for it after its output, or for a signal.
    pause_s: float = 0.0  # Before each piece of output.
    heeds_interrupts: bool = True


class Running:
    """An execution: what it has told, and who may act on it."""

    def __init__(self, execution_id: str, spec: pb.ExecutionSpec, script: Execution) -> None:
        self.execution_id, self.spec, self._script = execution_id, spec, script
        self.told: list[pb.ExecutionEvent] = []
        self.create_time = Timestamp()
        self.create_time.GetCurrentTime()
        self.given = bytearray(spec.stdin)
        self.failure: Exception | None = None
        self.interrupt_count = 0
        self._input_ended = not spec.stdin_open
        self._killed = self._is_released = False
        self._changed = asyncio.Condition()

    @property
    def exited(self) -> pb.ExecutionEvent.Exited | None:
        last = self.told[-1] if self.told else pb.ExecutionEvent()
        return last.exited if last.WhichOneof("event") == "exited" else None

    @property
    def ended(self) -> bool:
        return self.failure is not None or self.exited is not None

    async def play(self) -> None:
        script = self._script
        if script.failure and not script.stdout:
            self.failure = script.failure
        else:
            started = pb.ExecutionEvent.Started(
                execution_id=self.execution_id,
                engine="fake",
                limits=self.spec.limits,
                session_restarted=script.session_restarted,
            )
            await self._tell(pb.ExecutionEvent(started=started))
            await self._write(script)
            if script.echoes:
                await self._echo()
            stopped = await self._held(script)
            self.failure = script.failure
            if not self.failure:
                await self._end(script, stopped)
        await self._notify()

    async def kill(self) -> None:
        self._killed = True
        await self._notify()
        await self._until(lambda: self.ended)

    async def interrupt(self) -> None:
        self.interrupt_count += 1
        await self._notify()

    async def give(self, request: service.SendInputRequest) -> int:
        at = len(self.spec.stdin) + request.offset
        if at + len(request.data) <= len(self.given) and (self._input_ended or not request.end):
            return len(self.given) - len(self.spec.stdin)
        if self.ended or self._input_ended:
            raise InputEnded
        if at > len(self.given):
            raise InputOffsetWrong(next_offset=len(self.given) - len(self.spec.stdin))
        self.given[at:] = request.data
        self._input_ended = request.end
        await self._notify()
        return len(self.given) - len(self.spec.stdin)

    async def events(self, request: service.WatchExecutionRequest) -> AsyncIterator[pb.ExecutionEvent]:
        place, result_count = 0, 0
        offsets = {"stdout": request.stdout_offset, "stderr": request.stderr_offset}
        sequence = 0
        while True:
            await self._until(partial(self._has_more, place))
            while place < len(self.told):
                event = pb.ExecutionEvent()
                event.CopyFrom(self.told[place])
                place += 1
                kind = event.WhichOneof("event") or ""
                result_count += kind == "result"
                if kind in offsets and not _cut(getattr(event, kind), offsets[kind]):
                    continue
                if kind == "result" and result_count <= request.result_count:
                    continue
                sequence += 1
                event.sequence = sequence
                yield event
            if self.ended and place == len(self.told):
                break
        if self.failure:
            raise self.failure

    def message(self) -> pb.Execution:
        return pb.Execution(
            execution_id=self.execution_id,
            create_time=self.create_time,
            state=pb.EXECUTION_STATE_EXITED if self.ended else pb.EXECUTION_STATE_RUNNING,
            exited=self.exited,
            stdout_bytes=sum(len(event.stdout.data) for event in self.told),
            stderr_bytes=sum(len(event.stderr.data) for event in self.told),
            result_count=sum(event.HasField("result") for event in self.told),
            profile=self.spec.profile or "python",
            engine="fake",
            session_id=self.spec.session_id,
        )

    def _has_more(self, place: int) -> bool:
        return len(self.told) > place or self.ended

    def _has_input(self, echoed_bytes: int) -> bool:
        return len(self.given) > echoed_bytes or self._input_ended or self._killed

    async def _until(self, is_so: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(is_so)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _tell(self, event: pb.ExecutionEvent) -> None:
        self.told.append(event)
        await self._notify()

    async def _output(self, kind: str, data: bytes) -> None:
        offset = sum(len(getattr(event, kind).data) for event in self.told)
        event = pb.ExecutionEvent()
        getattr(event, kind).CopyFrom(pb.ExecutionEvent.Output(offset=offset, data=data))
        await self._tell(event)

    async def _write(self, script: Execution) -> None:
        for data in script.stdout:
            await asyncio.sleep(script.pause_s)
            await self._output("stdout", data)
        for data in script.stderr:
            await self._output("stderr", data)

    async def _echo(self) -> None:
        echoed_bytes = 0
        while True:
            await self._until(partial(self._has_input, echoed_bytes))
            if self._killed or (self._input_ended and len(self.given) == echoed_bytes):
                return
            data = bytes(self.given[echoed_bytes:])
            echoed_bytes += len(data)
            await self._output("stdout", data)

    async def _held(self, script: Execution) -> str:
        """What ended the wait: nothing, "kill" or "interrupt"."""

        def interrupted() -> bool:
            return script.heeds_interrupts and self.interrupt_count > 0

        if script.hold and not self._killed:
            release = asyncio.create_task(self._released(script.hold))
            await self._until(lambda: self._is_released or self._killed or interrupted())
            release.cancel()
        return "kill" if self._killed else "interrupt" if interrupted() else ""

    async def _released(self, hold: asyncio.Event) -> None:
        await hold.wait()
        self._is_released = True
        await self._notify()

    async def _end(self, script: Execution, stopped: str) -> None:
        if stopped == "interrupt":
            await self._output("stderr", b"KeyboardInterrupt\n")
        for forms in (*([{"text/plain": script.value}] if script.value else []), *script.results):
            await self._tell(pb.ExecutionEvent(result=pb.ExecutionEvent.Result(data=forms)))
        exited = script.exited or pb.ExecutionEvent.Exited(
            outcome=script.outcome,
            exit_code=script.exit_code,
            message=script.message,
            limits_reached=script.limits_reached,
        )
        if stopped == "interrupt":
            exited.outcome, exited.exit_code = pb.OUTCOME_ERROR, 1
        elif stopped == "kill":
            exited.outcome, exited.message = pb.OUTCOME_CANCELLED, "the program was cancelled"
        await self._tell(pb.ExecutionEvent(exited=exited))


def _cut(output: pb.ExecutionEvent.Output, from_offset: int) -> bool:
    """Leave out of `output` what comes before `from_offset`; return whether anything is left."""
    skipped_bytes = max(0, from_offset - output.offset)
    output.data = output.data[skipped_bytes:]
    output.offset += skipped_bytes
    return bool(output.data)
