"""Envoy's external authorization, as the edge asks it about requests that come with an API key.

Light on purpose: every such request waits for it. So the request is parsed here and has no rules to check, and what
lets a request pass was serialised when its token was signed.

The edge words refusals itself, as it does for tokens (deploy/envoy/edge.lua); it is told the reason, as a fact.
"""

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from ollamesh.compat.envoy.v3.ext_authz_pb2 import (
    HEADER_APPEND_ACTION_OVERWRITE_IF_EXISTS_OR_ADD,
    CheckRequest,
    CheckResponse,
    DeniedHttpResponse,
    HeaderValue,
    HeaderValueOption,
    HttpStatus,
    OkHttpResponse,
    RpcStatus,
)

from services.auth.key_checks import KeyChecks
from services.common.errors import AuthUnavailable, MeshError, TokenExpired, TokenInvalid
from services.common.grpc.around import Context

SERVICE = "envoy.service.auth.v3.Authorization"
# Names that the edge's configuration shares (deploy/envoy/api_keys.py, edge.lua).
KEY_NAMESPACE, KEY_FIELD = "ollamesh.api_key", "key"
SERVICE_FIELD = "service"
REFUSAL_FIELD, TOKEN_FIELD = "refusal", "token"


def passed(token: str, service: str) -> bytes:
    """The request goes on with `token`. The edge is told twice: as a header for this request, as a fact for the next."""
    header = HeaderValueOption(
        header=HeaderValue(key="authorization", value=f"Bearer {token}"),
        append_action=HEADER_APPEND_ACTION_OVERWRITE_IF_EXISTS_OR_ADD,
    )
    response = CheckResponse(status=RpcStatus(code=0), ok_response=OkHttpResponse(headers=[header]))
    response.dynamic_metadata[TOKEN_FIELD] = token
    response.dynamic_metadata[SERVICE_FIELD] = service
    return response.SerializeToString()


def _refused(error: type[MeshError], code: grpc.StatusCode, http: int) -> bytes:
    denied = DeniedHttpResponse(status=HttpStatus(code=http))
    response = CheckResponse(status=RpcStatus(code=code.value[0]), denied_response=denied)
    response.dynamic_metadata[REFUSAL_FIELD] = error.reason
    return response.SerializeToString()


_REFUSALS = {
    TokenInvalid.reason: _refused(TokenInvalid, grpc.StatusCode.UNAUTHENTICATED, 401),
    TokenExpired.reason: _refused(TokenExpired, grpc.StatusCode.UNAUTHENTICATED, 401),
    AuthUnavailable.reason: _refused(AuthUnavailable, grpc.StatusCode.UNAVAILABLE, 503),
}


class ExtAuthz:
    def __init__(self, checks: KeyChecks) -> None:
        self._checks = checks

    async def check(self, request: bytes, context: Context) -> bytes:
        try:
            return await self._checks.answer(*_asked(request))
        except (TokenInvalid, TokenExpired, AuthUnavailable) as error:
            return _REFUSALS[error.reason]

    def handler(self) -> grpc.GenericRpcHandler:
        """For a server. Bytes both ways: see above."""
        check: grpc.RpcMethodHandler = grpc.unary_unary_rpc_method_handler(
            self.check, request_deserializer=bytes
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Check": check})


def _asked(request: bytes) -> tuple[str, str]:
    """The key, and the service that it is to lead to. Raises TokenInvalid if there is none."""
    try:
        attributes = CheckRequest.FromString(request).attributes
        facts = attributes.metadata_context.filter_metadata[KEY_NAMESPACE].fields
        return facts[KEY_FIELD].string_value, attributes.context_extensions[SERVICE_FIELD]
    except DecodeError:
        raise TokenInvalid from None
