"""Logins and grants over gRPC; decides nothing."""

from typing import assert_never

from google.protobuf.duration_pb2 import Duration
from ollamesh.auth.v1 import auth_service_pb2 as pb

from services.auth.core.forms import ClientProof
from services.auth.core.token_requests import Exchange
from services.auth.grants import Grants
from services.auth.issuer import Issued
from services.auth.logins import Logins
from services.auth.rpc.asking import ROLES
from services.auth.token_endpoint import TokenEndpoint
from services.common.grpc.around import Context
from services.common.grpc.caller import caller


class LoginMethods:
    def __init__(self, *, grants: Grants, logins: Logins, tokens: TokenEndpoint) -> None:
        self._grants, self._logins, self._tokens = grants, logins, tokens

    async def Login(self, request: pb.LoginRequest, context: Context) -> pb.LoginResponse:
        issued = await self._grants.login(
            request.username,
            request.password,
            role=ROLES.get(request.role),
            lifetime_s=_seconds(request.lifetime) if request.HasField("lifetime") else None,
        )
        return pb.LoginResponse(tokens=_tokens(issued))

    async def ExchangeToken(
        self, request: pb.ExchangeTokenRequest, context: Context
    ) -> pb.ExchangeTokenResponse:
        issued = await self._exchanged(
            request, _seconds(request.lifetime) if request.HasField("lifetime") else None
        )
        return pb.ExchangeTokenResponse(tokens=_tokens(issued))

    async def _exchanged(self, request: pb.ExchangeTokenRequest, lifetime_s: float | None) -> Issued:
        match request.WhichOneof("grant"):
            case "client_credentials":
                client = request.client_credentials
                return await self._grants.client_credentials(
                    client.client_id, client.client_secret, lifetime_s=lifetime_s
                )
            case "refresh":
                return await self._logins.refreshed(request.refresh.refresh_token, lifetime_s=lifetime_s)
            case "on_behalf_of":
                wanted = request.on_behalf_of
                proof = ClientProof(wanted.actor.client_id, wanted.actor.client_secret)
                asked = Exchange(proof, wanted.subject_token, frozenset(wanted.audience))
                return await self._tokens.exchanged(asked, lifetime_s=lifetime_s)
            case None:  # The proto's own rule refuses it before.
                raise AssertionError
            case other:
                assert_never(other)

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
    tokens = pb.Tokens(access_token=issued.access_token, refresh_token=issued.refresh_token or "")
    tokens.expire_time.FromSeconds(issued.expires_at_s)
    return tokens


def _seconds(duration: Duration) -> float:
    return duration.ToTimedelta().total_seconds()
