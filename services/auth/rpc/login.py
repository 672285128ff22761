"""Logins and grants over gRPC; decides nothing."""

from typing import assert_never

from google.protobuf.duration_pb2 import Duration
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.identity_pb2 import ROLE_ADMIN, ROLE_USER

from services.auth.core.identity import Role
from services.auth.grants import Grants, Issued
from services.common.errors import NotServed
from services.common.grpc.around import Context
from services.common.grpc.caller import caller

_ROLES = {ROLE_USER: Role.USER, ROLE_ADMIN: Role.ADMIN}


class LoginMethods:
    def __init__(self, grants: Grants) -> None:
        self._grants = grants

    async def Login(self, request: pb.LoginRequest, context: Context) -> pb.LoginResponse:
        issued = await self._grants.login(
            request.username,
            request.password,
            role=_ROLES.get(request.role),
            lifetime_s=_seconds(request.lifetime) if request.HasField("lifetime") else None,
        )
        return pb.LoginResponse(tokens=_tokens(issued))

    async def ExchangeToken(
        self, request: pb.ExchangeTokenRequest, context: Context
    ) -> pb.ExchangeTokenResponse:
        match request.WhichOneof("grant"):
            case "client_credentials":
                client = request.client_credentials
            case "refresh" | "on_behalf_of" | None:
                raise NotServed
            case other:
                assert_never(other)
        issued = await self._grants.client_credentials(
            client.client_id,
            client.client_secret,
            lifetime_s=_seconds(request.lifetime) if request.HasField("lifetime") else None,
        )
        return pb.ExchangeTokenResponse(tokens=_tokens(issued))

    async def GetCaller(self, request: pb.GetCallerRequest, context: Context) -> pb.GetCallerResponse:
        known = caller()
        answer = pb.GetCallerResponse(
            user_id=known.user_id,
            role=f"ROLE_{known.role.name}",
            organization_id=known.organization_id,
            project_id=known.project_id,
            scopes=sorted(known.scopes),
        )
        answer.expire_time.FromSeconds(known.expires_at_s)
        return answer


def _tokens(issued: Issued) -> pb.Tokens:
    tokens = pb.Tokens(access_token=issued.access_token)
    tokens.expire_time.FromSeconds(issued.expires_at_s)
    return tokens


def _seconds(duration: Duration) -> float:
    return duration.ToTimedelta().total_seconds()
