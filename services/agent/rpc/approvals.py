"""Decisions over gRPC; decides nothing but what a request means."""

from uuid import UUID

from ollamesh.agent.v1 import agent_service_pb2 as pb

from services.agent.approving import Approving
from services.agent.core.approvals import Decided
from services.agent.core.events import Decision
from services.agent.errors import ApprovalNotFound
from services.agent.rpc.asking import owner
from services.agent.wire import resources, values
from services.common.grpc.around import Context


class ApprovalMethods:
    def __init__(self, approving: Approving) -> None:
        self._approving = approving

    async def SubmitApproval(
        self, request: pb.SubmitApprovalRequest, context: Context
    ) -> pb.SubmitApprovalResponse:
        whose = owner()
        run = await self._approving.submit(
            whose,
            values.run_id(request.run_id),
            _approval_id(request.approval_id),
            call_hash=request.call_hash,
            decided=_decided(request, whose.user_id),
        )
        pending = await self._approving.pending(run)
        return pb.SubmitApprovalResponse(run=resources.run_to_proto(run, pending=pending))


def _approval_id(text: str) -> UUID:
    """Raises ApprovalNotFound for what cannot name one."""
    try:
        return UUID(text)
    except ValueError:
        raise ApprovalNotFound from None


def _decided(request: pb.SubmitApprovalRequest, user_id: str) -> Decided:
    match request.WhichOneof("decision"):
        case "edit":
            return Decided(
                decision=Decision.EDITED, user_id=user_id, arguments_json=request.edit.arguments_json
            )
        case "reject":
            return Decided(decision=Decision.REJECTED, user_id=user_id, reason=request.reject.reason)
        case _:
            return Decided(decision=Decision.APPROVED, user_id=user_id)
