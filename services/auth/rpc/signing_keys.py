"""Rotation of signing keys over gRPC; decides nothing but who may."""

from ollamesh.auth.v1 import auth_service_pb2 as pb

from services.auth.rotation import Rotation
from services.common.audit import Action, Happened, Outcome
from services.common.grpc.around import Context
from services.common.grpc.caller import caller


class SigningKeyMethods:
    def __init__(self, rotation: Rotation) -> None:
        self._rotation = rotation

    async def RotateSigningKey(
        self, request: pb.RotateSigningKeyRequest, context: Context
    ) -> pb.RotateSigningKeyResponse:
        by = caller()
        happened = Happened(
            action=Action.SIGNING_KEY_ROTATED,
            outcome=Outcome.ALLOWED,
            user_id=by.user_id,
            organization_id=by.organization_id,
            object="signing_key",
            details={"by": "command", "emergency": str(request.emergency).lower()},
        )
        rotated = await self._rotation.rotate(
            happened, emergency=request.emergency, request_id=request.request_id
        )
        answer = pb.RotateSigningKeyResponse(key_id=rotated.key_id)
        answer.active_time.FromMilliseconds(round(rotated.active_from_s * 1000))
        return answer
