"""OAuth's forms on one side, grants on the other; decides nothing."""

from google.api.httpbody_pb2 import HttpBody
from ollamesh.auth.v1.oauth_service_pb2 import GetJwksRequest, GetServerMetadataRequest
from ollamesh.auth.v1.oauth_service_pb2_grpc import OAuthServiceServicer

from services.auth.api_keys import ApiKeys
from services.auth.core import oauth
from services.auth.core.identity import ScopeNotHeld
from services.auth.grants import Grants
from services.auth.keyring import Keyring
from services.auth.rpc.api_keys import LeakMethods
from services.common.errors import MeshError
from services.common.grpc.around import Context

JSON = "application/json"
# The edge makes this the status of the HTTP response: gRPC has no way to say 401 with a body.
STATUS_HEADER = "x-http-status"


class OAuthServicer(LeakMethods, OAuthServiceServicer):
    def __init__(self, grants: Grants, keyring: Keyring, api_keys: ApiKeys, *, issuer: str) -> None:
        LeakMethods.__init__(self, api_keys)
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
