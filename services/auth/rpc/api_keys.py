"""API keys over gRPC; decides nothing."""

import base64
import hashlib

from google.api.httpbody_pb2 import HttpBody
from ollamesh.auth.v1 import auth_service_pb2 as pb
from ollamesh.auth.v1 import identity_pb2

from services.auth.api_keys import ApiKeys, Request
from services.auth.core.api_keys import ApiKey, Asker, Wish
from services.auth.core.identity import Identity, Role
from services.auth.rpc.asking import ROLES
from services.common.errors import InvalidRequest, MeshError, Violation
from services.common.grpc.around import Context
from services.common.grpc.caller import caller

PAGE_SIZE = 20
JSON = "application/json"
STATUS_HEADER = "x-http-status"  # The edge makes it the status of the HTTP response.
NOT_STORED = (("cache-control", "no-store"),)


class ApiKeyMethods:
    def __init__(self, api_keys: ApiKeys) -> None:
        self._api_keys = api_keys

    async def CreateApiKey(
        self, request: pb.CreateApiKeyRequest, context: Context
    ) -> pb.CreateApiKeyResponse:
        wish = Wish(
            display_name=request.display_name,
            scopes=frozenset(request.scopes),
            lifetime_s=request.lifetime.ToTimedelta().total_seconds()
            if request.HasField("lifetime")
            else None,
            project_id=request.project_id,
            role=ROLES.get(request.role),
        )
        made = await self._api_keys.make(_asker(), wish, _named(request))
        return pb.CreateApiKeyResponse(api_key=_message(made.key), secret=made.text)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Context) -> pb.ListApiKeysResponse:
        found, more = await self._api_keys.page(
            _asker(), before=_position(request.page_token), count=request.page_size or PAGE_SIZE
        )
        return pb.ListApiKeysResponse(
            api_keys=map(_message, found), next_page_token=_page_token(found[-1]) if more else ""
        )

    async def RevokeApiKey(
        self, request: pb.RevokeApiKeyRequest, context: Context
    ) -> pb.RevokeApiKeyResponse:
        ended = await self._api_keys.end(_asker(), request.api_key_id)
        return pb.RevokeApiKeyResponse(api_key=_message(ended))


class LeakMethods:
    """Of OAuthService: REST, since scanners speak it."""

    def __init__(self, api_keys: ApiKeys) -> None:
        self._api_keys = api_keys

    async def ReportLeakedKey(self, request: HttpBody, context: Context) -> HttpBody:
        """The same answer for every text, so that nobody learns what a key is, or was."""
        try:
            await self._api_keys.leaked(request.data.decode(errors="replace"))
        except MeshError as error:
            status = "429" if error.reason == "RATE_LIMITED" else "503"
            wait = (("retry-after", str(max(1, round(error.retry_after_s or 1)))),)
            await context.send_initial_metadata((*NOT_STORED, *wait, (STATUS_HEADER, status)))
            return HttpBody(content_type=JSON, data=b'{"error":"temporarily_unavailable"}')
        await context.send_initial_metadata(NOT_STORED)
        return HttpBody(content_type=JSON, data=b"{}")


def _asker() -> Asker:
    known = caller()
    identity = Identity(
        user_id=known.user_id,
        role=Role(known.role.value),
        organization_id=known.organization_id,
        project_id=known.project_id,
        client_id=known.client_id,
        scopes=known.scopes,
    )
    return Asker(identity=identity, key_id=known.api_key_id, acted_for=known.actor is not None)


def _named(request: pb.CreateApiKeyRequest) -> Request | None:
    if not request.request_id:
        return None
    body = request.SerializeToString(deterministic=True)
    return Request(request_id=request.request_id, digest=hashlib.sha256(body).digest())


def _message(key: ApiKey) -> identity_pb2.ApiKey:
    message = identity_pb2.ApiKey(
        api_key_id=key.key_id,
        display_name=key.display_name,
        prefix=key.prefix,
        user_id=key.user_id,
        project_id=key.project_id,
        scopes=sorted(key.scopes),
        role=f"ROLE_{key.role.name}",
    )
    message.create_time.FromMicroseconds(round(key.created_at_s * 1e6))
    message.expire_time.FromMicroseconds(round(key.expires_at_s * 1e6))
    if key.last_used_at_s is not None:
        message.last_used_time.FromMicroseconds(round(key.last_used_at_s * 1e6))
    if key.revoked_at_s is not None:
        message.revoke_time.FromMicroseconds(round(key.revoked_at_s * 1e6))
    return message


def _page_token(last: ApiKey) -> str:
    return base64.urlsafe_b64encode(f"{round(last.created_at_s * 1e6)} {last.key_id}".encode()).decode()


def _position(page_token: str) -> tuple[float, str] | None:
    """Where a page begins. Raises InvalidRequest."""
    if not page_token:
        return None
    try:
        at_us, key_id = base64.b64decode(page_token, altchars=b"-_", validate=True).decode("ascii").split(" ")
        if not key_id.isalnum():
            raise ValueError
        return min(max(int(at_us), 0), 2**52) / 1e6, key_id
    except ValueError:
        raise InvalidRequest([Violation("page_token", "is not one of ours", "page_token")]) from None
