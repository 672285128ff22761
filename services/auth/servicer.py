"""Protobuf and OAuth on one side, grants on the other; decides nothing."""

from typing import assert_never

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.duration_pb2 import Duration
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.auth_service_pb2_grpc import AuthServiceServicer
from ollamesh.auth.v1.identity_pb2 import ROLE_ADMIN, ROLE_USER
from ollamesh.auth.v1.oauth_service_pb2 import GetJwksRequest, GetServerMetadataRequest
from ollamesh.auth.v1.oauth_service_pb2_grpc import OAuthServiceServicer

from services.auth.core import oauth
from services.auth.core.identity import Role, ScopeNotHeld
from services.auth.grants import Grants, Issued
from services.auth.keyring import Keyring
from services.common.errors import MeshError, NotServed
from services.common.grpc.around import Context
from services.common.grpc.caller import caller

JSON = "application/json"
# The edge makes this the status of the HTTP response: gRPC has no way to say 401 with a body.
STATUS_HEADER = "x-http-status"
_ROLES = {ROLE_USER: Role.USER, ROLE_ADMIN: Role.ADMIN}


class AuthServicer(AuthServiceServicer):
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


class OAuthServicer(OAuthServiceServicer):
    def __init__(self, grants: Grants, keyring: Keyring, *, issuer: str) -> None:
        self._grants, self._keyring = grants, keyring
        self._metadata = oauth.server_metadata(issuer)

    async def GetServerMetadata(self, request: GetServerMetadataRequest, context: Context) -> HttpBody:
        return HttpBody(content_type=JSON, data=self._metadata)

    async def GetJwks(self, request: GetJwksRequest, context: Context) -> HttpBody:
        return HttpBody(content_type=JSON, data=self._keyring.jwks())

    async def Token(self, request: HttpBody, context: Context) -> HttpBody:
        metadata = context.invocation_metadata() or ()
        authorization = [str(value) for key, value in metadata if key == "authorization"]
        try:
            wanted = oauth.token_request(request.content_type, request.data, authorization)
            issued = await self._grants.client_credentials(
                wanted.client_id, wanted.client_secret, scopes=wanted.scopes
            )
        except oauth.OAuthError as error:
            return await _refused(error, context)
        except (MeshError, ScopeNotHeld) as error:
            return await _refused(oauth.refusal(error), context)
        await context.send_initial_metadata(oauth.NOT_STORED)
        body = oauth.token_response(
            issued.access_token, lifetime_s=issued.lifetime_s, scopes=issued.identity.scopes
        )
        return HttpBody(content_type=JSON, data=body)


async def _refused(error: oauth.OAuthError, context: Context) -> HttpBody:
    headers = (*oauth.NOT_STORED, *error.headers.items(), (STATUS_HEADER, str(error.status)))
    await context.send_initial_metadata(headers)
    return HttpBody(content_type=JSON, data=error.body)


def _tokens(issued: Issued) -> pb.Tokens:
    tokens = pb.Tokens(access_token=issued.access_token)
    tokens.expire_time.FromSeconds(issued.expires_at_s)
    return tokens


def _seconds(duration: Duration) -> float:
    return duration.ToTimedelta().total_seconds()
