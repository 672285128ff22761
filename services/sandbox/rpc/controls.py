"""What can be done to an execution that is under way: protobuf on one side, domain types on the other."""

from ollamesh.sandbox.v1.sandbox_service_pb2 import (
    InterruptExecutionRequest,
    InterruptExecutionResponse,
    KillExecutionRequest,
    KillExecutionResponse,
    SendInputRequest,
    SendInputResponse,
)

from services.common.grpc.around import Context
from services.common.grpc.caller import caller
from services.sandbox.executions import Executions
from services.sandbox.rpc.messages import execution_message


class ControlMethods:
    def __init__(self, executions: Executions) -> None:
        self._executions = executions

    async def SendInput(self, request: SendInputRequest, context: Context) -> SendInputResponse:
        execution = self._executions.find(caller(), request.execution_id)
        next_offset = await execution.input.add(request.offset, request.data, end=request.end)
        return SendInputResponse(next_offset=next_offset)

    async def InterruptExecution(
        self, request: InterruptExecutionRequest, context: Context
    ) -> InterruptExecutionResponse:
        self._executions.find(caller(), request.execution_id).interrupt()
        return InterruptExecutionResponse()

    async def KillExecution(self, request: KillExecutionRequest, context: Context) -> KillExecutionResponse:
        execution = self._executions.find(caller(), request.execution_id)
        execution.kill()
        await execution.ended()
        return KillExecutionResponse(execution=execution_message(execution))
