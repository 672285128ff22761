"""OAuth's forms on one side, grants on the other; decides nothing."""

from collections.abc import Awaitable, Callable, Mapping

from google.api.httpbody_pb2 import HttpBody
from ollamesh.auth.v1.oauth_service_pb2 import GetJwksRequest, GetServerMetadataRequest
from ollamesh.auth.v1.oauth_service_pb2_grpc import OAuthServiceServicer

from services.auth.api_keys import ApiKeys
from services.auth.clients import Clients
from services.auth.core import oauth
from services.auth.core.clients import Client, Grant
from services.auth.core.forms import Form, read_client, read_form
from services.auth.core.identity import ScopeNotHeld
from services.auth.core.token_requests import ACCESS_TOKEN_TYPE, Exchange, scopes_of, token_request
from services.auth.devices import Devices
from services.auth.errors import CredentialsInvalid
from services.auth.issuer import Issued
from services.auth.keyring import Keyring
from services.auth.lookups import Lookups
from services.auth.rpc import browser
from services.auth.rpc.api_keys import LeakMethods
from services.auth.rpc.http import JSON, Reply, header, refused, send
from services.auth.rpc.pages import PageMethods, Pages
from services.auth.token_endpoint import TokenEndpoint
from services.common.errors import MeshError
from services.common.grpc.around import Context


class OAuthServicer(PageMethods, LeakMethods, OAuthServiceServicer):
    def __init__(  # noqa: PLR0913 - By name; app.py hands them over.
        self,
        *,
        issuer: str,
        keyring: Keyring,
        clients: Clients,
        tokens: TokenEndpoint,
        devices: Devices,
        lookups: Lookups,
        pages: Pages,
        api_keys: ApiKeys,
    ) -> None:
        PageMethods.__init__(self, pages)
        LeakMethods.__init__(self, api_keys)
        self._issuer, self._keyring, self._clients, self._tokens = issuer, keyring, clients, tokens
        self._devices, self._lookups = devices, lookups

    async def GetServerMetadata(self, request: GetServerMetadataRequest, context: Context) -> HttpBody:
        return HttpBody(content_type=JSON, data=oauth.document(oauth.server_metadata(self._issuer)))

    async def GetJwks(self, request: GetJwksRequest, context: Context) -> HttpBody:
        return HttpBody(content_type=JSON, data=self._keyring.jwks())

    async def Token(self, request: HttpBody, context: Context) -> HttpBody:
        async def work(form: Form) -> Reply:
            asked = token_request(form, header(context, "authorization"))
            issued, client = await self._tokens.answered(asked, browser.side_of(context))
            more = {"issued_token_type": ACCESS_TOKEN_TYPE} if isinstance(asked, Exchange) else {}
            return _granted(issued, client, more, context)

        return await _answered(request, context, work)

    async def Revoke(self, request: HttpBody, context: Context) -> HttpBody:
        async def work(form: Form) -> Reply:
            client = await self._client(form, context)
            await self._lookups.revoked(form.need("token"), client)
            return Reply(body=b"{}")

        return await _answered(request, context, work)

    async def Introspect(self, request: HttpBody, context: Context) -> HttpBody:
        async def work(form: Form) -> Reply:
            client = await self._client(form, context)
            if client.is_public:  # Anybody could say that they are it.
                raise CredentialsInvalid
            found = await self._lookups.introspected(form.need("token"), client)
            return Reply(body=oauth.document(found))

        return await _answered(request, context, work)

    async def AuthorizeDevice(self, request: HttpBody, context: Context) -> HttpBody:
        async def work(form: Form) -> Reply:
            client = await self._client(form, context, Grant.DEVICE_CODE)
            codes = await self._devices.begun(client, scopes_of(form))
            page = f"{self._issuer.rstrip('/')}/device"
            return Reply(
                body=oauth.document(
                    {
                        "device_code": codes.device_code,
                        "user_code": codes.user_code,
                        "verification_uri": page,
                        "verification_uri_complete": f"{page}?user_code={codes.user_code}",
                        "expires_in": int(codes.lifetime_s),
                        "interval": int(codes.interval_s),
                    }
                )
            )

        return await _answered(request, context, work)

    async def EndSession(self, request: HttpBody, context: Context) -> HttpBody:
        if not browser.is_own(context):
            return await send(
                context, refused(oauth.OAuthError("invalid_request", "no page of this site asks"))
            )
        token = browser.side_of(context).refresh_token
        try:
            if token is not None:
                await self._lookups.revoked(token, None)
        except MeshError as error:
            return await send(context, refused(oauth.refusal(error)))
        return await send(context, Reply(body=b"{}", headers=browser.forgotten(context)))

    async def _client(self, form: Form, context: Context, grant: Grant | None = None) -> Client:
        return await self._clients.authenticated(read_client(form, header(context, "authorization")), grant)


def _granted(issued: Issued, client: Client | None, more: Mapping[str, object], context: Context) -> Reply:
    headers: browser.Headers = ()
    if issued.refresh_token is not None and client is not None and client.in_browser:
        headers = browser.kept(issued.refresh_token, issued.refresh_lifetime_s, context)
    elif issued.refresh_token is not None:
        more = {**more, "refresh_token": issued.refresh_token}
    body = oauth.token_response(
        issued.access_token, lifetime_s=issued.lifetime_s, scopes=issued.identity.scopes, more=more
    )
    return Reply(body=body, headers=headers)


async def _answered(
    request: HttpBody, context: Context, work: Callable[[Form], Awaitable[Reply]]
) -> HttpBody:
    """Do `work` with the form, and say what fails in OAuth's words."""
    try:
        reply = await work(read_form(request.content_type, request.data))
    except oauth.OAuthError as error:
        reply = refused(error)
    except (MeshError, ScopeNotHeld) as error:
        reply = refused(oauth.refusal(error))
    return await send(context, reply)
