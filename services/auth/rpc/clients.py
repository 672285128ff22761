"""OAuth clients over gRPC; decides nothing."""

from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1.oauth_client_pb2 import OAuthClient

from services.auth.core.clients import Client, Grant
from services.auth.core.identity import Role
from services.auth.registering import Registering
from services.auth.rpc.asking import ROLE_NUMBERS, ROLES, actor, next_page_token, page
from services.common.grpc.around import Context

# Shorter than OAuth's own names for them.
_GRANTS = {
    "authorization_code": Grant.AUTHORIZATION_CODE,
    "device_code": Grant.DEVICE_CODE,
    "refresh_token": Grant.REFRESH_TOKEN,
    "token_exchange": Grant.TOKEN_EXCHANGE,
}


class ClientMethods:
    def __init__(self, registering: Registering) -> None:
        self._registering = registering

    async def CreateOAuthClient(
        self, request: pb.CreateOAuthClientRequest, context: Context
    ) -> pb.CreateOAuthClientResponse:
        wanted = Client(
            client_id=request.client_id,
            display_name=request.display_name,
            redirect_uris=tuple(request.redirect_uris),
            grants=frozenset(_GRANTS[name] for name in request.grants),
            scopes=frozenset(request.scopes),
            role_max=ROLES.get(request.role_max, Role.USER),
            first_party=request.first_party,
            in_browser=request.in_browser,
            resource_server=request.resource_server or None,
        )
        client, secret = await self._registering.register(actor(), wanted, confidential=request.confidential)
        return pb.CreateOAuthClientResponse(client=_message(client), client_secret=secret)

    async def ListOAuthClients(
        self, request: pb.ListOAuthClientsRequest, context: Context
    ) -> pb.ListOAuthClientsResponse:
        found = await self._registering.registered(actor(), page(request.page_size, request.page_token))
        return pb.ListOAuthClientsResponse(
            clients=map(_message, found.items), next_page_token=next_page_token(found.next_after)
        )

    async def DisableOAuthClient(
        self, request: pb.DisableOAuthClientRequest, context: Context
    ) -> pb.DisableOAuthClientResponse:
        await self._registering.disable(actor(), request.client_id)
        return pb.DisableOAuthClientResponse()


def _message(client: Client) -> OAuthClient:
    return OAuthClient(
        client_id=client.client_id,
        display_name=client.display_name,
        organization_id=client.organization_id or "",
        redirect_uris=client.redirect_uris,
        grants=sorted(name for name, grant in _GRANTS.items() if grant in client.grants),
        scopes=sorted(client.scopes),
        role_max=ROLE_NUMBERS[client.role_max],
        confidential=not client.is_public,
        first_party=client.first_party,
        in_browser=client.in_browser,
        resource_server=client.resource_server or "",
    )
