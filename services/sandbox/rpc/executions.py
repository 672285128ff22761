"""Executions: protobuf on one side, domain types on the other; decides nothing."""

import hashlib
from collections.abc import AsyncIterator

from ollamesh.sandbox.v1 import execution_pb2 as pb
from ollamesh.sandbox.v1.sandbox_service_pb2 import (
    ExecuteRequest,
    ExecuteResponse,
    GetExecutionRequest,
    GetExecutionResponse,
    StartExecutionRequest,
    StartExecutionResponse,
    WatchExecutionRequest,
    WatchExecutionResponse,
)

from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.sandbox.core.lifecycle import Event
from services.sandbox.execution import NOTHING_SEEN, Execution, Seen
from services.sandbox.executions import Executions, Wish
from services.sandbox.ports import Program, Stream
from services.sandbox.rpc.messages import asked_limits, event_message, execution_message


class ExecutionMethods:
    def __init__(self, executions: Executions) -> None:
        self._executions = executions

    async def Execute(self, request: ExecuteRequest, context: Context) -> AsyncIterator[ExecuteResponse]:
        execution = self._executions.start(caller(), _wish(request.spec))
        # However the call ends: a `finally` would run late, and in another task.
        context.add_done_callback(lambda _: execution.on(Event.LEFT))  # type: ignore[arg-type]
        async for event in _events(execution):
            yield ExecuteResponse(event=event)

    async def StartExecution(
        self, request: StartExecutionRequest, context: Context
    ) -> StartExecutionResponse:
        execution = self._executions.start_once(caller(), _wish(request.spec), request.execution_id)
        return StartExecutionResponse(execution=execution_message(execution))

    async def GetExecution(self, request: GetExecutionRequest, context: Context) -> GetExecutionResponse:
        execution = self._executions.find(caller(), request.execution_id)
        return GetExecutionResponse(execution=execution_message(execution))

    async def WatchExecution(
        self, request: WatchExecutionRequest, context: Context
    ) -> AsyncIterator[WatchExecutionResponse]:
        execution = self._executions.find(caller(), request.execution_id)
        seen = {
            Stream.STDOUT: request.stdout_offset,
            Stream.STDERR: request.stderr_offset,
            Stream.RESULTS: request.result_count,
        }
        async for event in _events(execution, seen):
            yield WatchExecutionResponse(event=event)


async def _events(execution: Execution, seen: Seen = NOTHING_SEEN) -> AsyncIterator[pb.ExecutionEvent]:
    sequence = 0
    async for event in execution.events(seen):
        sequence += 1
        yield event_message(event, sequence, engine=execution.where.engine)


def _wish(spec: pb.ExecutionSpec) -> Wish:
    return Wish(
        program=Program(spec.code.encode(), spec.stdin, spec.stdin_open),
        asked=asked_limits(spec.limits),
        engine=spec.engine,
        profile=spec.profile,
        session_id=spec.session_id,
        digest=hashlib.sha256(spec.SerializeToString(deterministic=True)).digest(),
    )
