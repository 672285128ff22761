"""Mandates over gRPC; decides nothing but which service holds one."""

from collections.abc import Mapping

from ollamesh.auth.v1 import auth_service_pb2 as pb

from services.auth.mandates import Mandates
from services.common.grpc.around import Context
from services.common.grpc.caller import Verifier
from services.common.grpc.peer import peer_service

# Over plain text inside, by the development switch, nobody knows who asks; only this service does.
HOLDER = "agent"


class MandateMethods:
    def __init__(self, mandates: Mandates, verifiers: Mapping[str, Verifier]) -> None:
        """A service gets mandates of those only whose tokens are for it: `verifiers` are by service."""
        self._mandates, self._verifiers = mandates, verifiers

    async def CreateMandate(
        self, request: pb.CreateMandateRequest, context: Context
    ) -> pb.CreateMandateResponse:
        holder = _holder(context)
        found = await self._verifiers[holder].verify(request.subject_token)
        given = await self._mandates.create(
            found,
            holder,
            frozenset(request.scopes),
            lifetime_s=request.lifetime.ToTimedelta().total_seconds(),
        )
        response = pb.CreateMandateResponse(mandate=given.text)
        response.expire_time.FromMicroseconds(round(given.expires_at_s * 1e6))
        return response

    async def RedeemMandate(
        self, request: pb.RedeemMandateRequest, context: Context
    ) -> pb.RedeemMandateResponse:
        issued = await self._mandates.redeem(request.mandate, _holder(context))
        response = pb.RedeemMandateResponse(access_token=issued.access_token)
        response.expire_time.FromSeconds(issued.expires_at_s)
        return response

    async def EndMandate(self, request: pb.EndMandateRequest, context: Context) -> pb.EndMandateResponse:
        await self._mandates.end(request.mandate, _holder(context))
        return pb.EndMandateResponse()


def _holder(context: Context) -> str:
    return peer_service(context) or HOLDER
