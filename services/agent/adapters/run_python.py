"""The tool `run_python`: code that a model wrote, run in its thread's session of the sandbox with the user's own rights.

The execution bears the call's key as its id. So whoever makes the call again, after the replica that made it was lost,
finds the execution that is there already, watches it from its first byte, and starts nothing twice. The sandbox
forgets executions a while after their end. A call whose execution is that old, and whose session still lives, is not
made again, because nobody knows whether it took effect; without the session, nothing of its effect is left.
"""

import asyncio
import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TypeGuard

import grpc.aio
from google.protobuf.duration_pb2 import Duration
from ollamesh.sandbox.v1 import execution_pb2
from ollamesh.sandbox.v1 import sandbox_service_pb2 as pb

from services.agent.adapters.deadlines import until_s
from services.agent.adapters.execution_heard import Heard
from services.agent.adapters.sandbox_session import NO_THREAD, SandboxSessions, Seat
from services.agent.adapters.sandboxes import AWAY, Sandbox, refused
from services.agent.adapters.thread_sessions import Begun
from services.agent.adapters.tool_specs import CODE_BYTES_MAX, RUN_PYTHON
from services.agent.errors import ThreadNotFound
from services.agent.ports import CallContext, ToolResult
from services.common.grpc.client import bearer, held

OUTPUT_BYTES_MAX = 65_536  # Of each channel, shown to watchers; the model reads the end of it.
# A little less than the call has, so that the sandbox ends the program, and keeps its session. What its operator
# allows may be less again.
WALL_S = 25
LIMITS = execution_pb2.Limits(output_bytes=OUTPUT_BYTES_MAX, wall=Duration(seconds=WALL_S))
KEPT_S = 270.0  # The sandbox keeps what has ended for 300 s at least, unless it is set to less.
RPC_MARGIN_S = 5.0  # Calls outlast the tool's own deadline, so that it is this that ends them.
WATCHES_MAX, WATCH_AGAIN_S = 6, 0.25  # Of one execution, while the connection breaks.
INTERRUPT_S, KILL_S = 0.6, 2.0

ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")  # As the sandbox takes them.

NO_PROGRAM = 'Call it with {"code": "..."}: a program as text.'
TOO_LONG = "It did not finish in time, and was ended."
UNKNOWN = (
    "It is not known whether this call took effect: the service was interrupted. Look before doing it again."
)
LOST = "The sandbox was lost while the program ran: variables and files are gone."


class RunPython:
    """Implements ports.Tool."""

    def __init__(self, sessions: SandboxSessions) -> None:
        self._sessions = sessions
        self.spec = RUN_PYTHON

    async def call(self, arguments: Mapping[str, object], context: CallContext) -> ToolResult:
        code = arguments.get("code")
        if not _is_program(code):
            return ToolResult(content=NO_PROGRAM, failed=True)
        ends_s = until_s(self.spec, context)
        call = _Call(self._sessions, code, context, ends_s)
        try:
            async with asyncio.timeout_at(ends_s), self._sessions.alone(context.thread_id):
                return await call.made()
        except TimeoutError:
            await call.stop()
            return call.heard.result(TOO_LONG)
        except grpc.aio.AioRpcError as error:
            refusal = refused(error)
            result = call.heard.result(f"The code was not run to its end: {refusal}.")
            # Made again, the call finds what has begun. What has been told of that would be told again.
            return replace(result, may_pass=refusal.reason in AWAY and not call.heard.has_written)
        except ThreadNotFound:
            return ToolResult(content=NO_THREAD, failed=True)
        except BaseException:
            if not context.is_handed_over():
                await call.stop()
            raise


class _Call:
    """One call, wherever its execution is."""

    def __init__(self, sessions: SandboxSessions, code: str, context: CallContext, until_s: float) -> None:
        self.heard = Heard(context.write)
        self._sessions, self._code, self._context = sessions, code, context
        self._until_s = until_s
        self._execution_id = _execution_id(context.key)
        self._running: Seat | None = None  # Where its execution may be.

    async def made(self) -> ToolResult:
        """Raises AioRpcError and ThreadNotFound."""
        begun = await self._sessions.begin(self._context)
        if begun.begun_s_ago is not None and (known := await self._known(begun)) is not None:
            return known
        seat, _ = await self._sessions.using(self._context, begun.place, self._start)
        self.heard.note(seat.note)
        return await self._watched(seat.sandbox)

    async def stop(self) -> None:
        """End what runs, without its session if that can be: first ask, then kill."""
        if self._running is None or self.heard.has_ended:
            return
        stub, execution_id = self._running.sandbox.stub, self._execution_id
        metadata = bearer(self._context.token)
        with suppress(grpc.aio.AioRpcError):  # It ends at its limit of time, then.
            if self._running.session_id:
                interrupt = pb.InterruptExecutionRequest(execution_id=execution_id)
                await stub.InterruptExecution(interrupt, timeout=INTERRUPT_S, metadata=metadata)
                if await self._ends(self._running.sandbox):
                    return
            kill = pb.KillExecutionRequest(execution_id=execution_id)
            await stub.KillExecution(kill, timeout=KILL_S, metadata=metadata)

    async def _known(self, begun: Begun) -> ToolResult | None:
        """What became of the same call before; None if nothing is left of it, and it may be made."""
        sandbox = self._sessions.sandbox(self._context, begun.place)
        request = pb.GetExecutionRequest(execution_id=self._execution_id)
        try:
            await sandbox.stub.GetExecution(
                request, timeout=self._left_s, metadata=bearer(self._context.token)
            )
        except grpc.aio.AioRpcError as error:
            if refused(error).reason not in {"EXECUTION_NOT_FOUND", "SANDBOX_UNAVAILABLE"}:
                raise
            if begun.place is None or begun.begun_s_ago is None or begun.begun_s_ago < KEPT_S:
                return None  # It never got there: the sandbox would know it.
            if not await self._sessions.lives(self._context, begun.place):
                return None
            return ToolResult(content=UNKNOWN, failed=True)
        self._running = Seat(sandbox, begun.place.session_id if begun.place else "")
        return await self._watched(sandbox)

    async def _start(self, seat: Seat) -> None:
        spec = execution_pb2.ExecutionSpec(code=self._code, session_id=seat.session_id, limits=LIMITS)
        request = pb.StartExecutionRequest(execution_id=self._execution_id, spec=spec)
        self._running = seat
        try:
            await seat.sandbox.stub.StartExecution(
                request, timeout=self._left_s, metadata=bearer(self._context.token)
            )
        except grpc.aio.AioRpcError as error:
            # Begun before in a jail of its own, or in a session that is gone: it is watched all the same.
            if refused(error).reason != "REQUEST_ID_REUSED":
                raise

    async def _watched(self, sandbox: Sandbox) -> ToolResult:
        """To its end, over as many connections as that takes."""
        for tries_left in reversed(range(WATCHES_MAX)):
            try:
                await self._watch(sandbox, timeout_s=self._left_s)
                return self.heard.result()
            except grpc.aio.AioRpcError as error:
                reason = refused(error).reason
                if reason == "EXECUTION_NOT_FOUND":  # It was there: another process is at its address now.
                    return self.heard.result(LOST)
                if reason != "UNAVAILABLE" or not tries_left:
                    raise
            await asyncio.sleep(WATCH_AGAIN_S)
        raise AssertionError("the last try returns or raises")

    async def _watch(self, sandbox: Sandbox, *, timeout_s: float) -> None:
        request = pb.WatchExecutionRequest(
            execution_id=self._execution_id,
            stdout_offset=self.heard.stdout_bytes,
            stderr_offset=self.heard.stderr_bytes,
            result_count=self.heard.result_count,
        )
        metadata = bearer(self._context.token)
        with held(sandbox.stub.WatchExecution(request, timeout=timeout_s, metadata=metadata)) as call:
            async for response in call:
                await self.heard.hear(response.event)

    async def _ends(self, sandbox: Sandbox) -> bool:
        """Whether it heeds the interrupt. What it still writes is not told: nobody waits for it."""
        request = pb.WatchExecutionRequest(execution_id=self._execution_id)
        metadata = bearer(self._context.token)
        with (
            suppress(grpc.aio.AioRpcError),
            held(sandbox.stub.WatchExecution(request, timeout=INTERRUPT_S, metadata=metadata)) as call,
        ):
            async for response in call:
                if response.event.HasField("exited"):
                    return True
        return False

    @property
    def _left_s(self) -> float:
        return max(0.0, self._until_s - asyncio.get_running_loop().time()) + RPC_MARGIN_S


def _execution_id(key: str) -> str:
    """The key, if an execution may be called that; else what stands for it."""
    return key if ID.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()


def _is_program(code: object) -> TypeGuard[str]:
    """Text that can travel: models also write halves of surrogate pairs."""
    if not isinstance(code, str) or not code.strip():
        return False
    try:
        return len(code.encode()) <= CODE_BYTES_MAX
    except UnicodeEncodeError:
        return False
