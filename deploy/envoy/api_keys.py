"""API keys at the edge: asked about at auth, and changed for a short token before anything else sees the request.

`edge.lua` takes a key out of the `authorization` header as soon as the request has come, and keeps it with the call's
metadata. There only this filter looks for it: no service, log or trace can be told of it, and were this filter not
there, the request would have no identity at all. Requests without a key do not pass through the filter's question.

Auth is told the key and the service that the route leads to, and no header. With its answer comes the token that
`jwt_authn`, the next filter, checks like any other. Refusals are worded by `edge.lua`.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import (
    ApiVersion,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    RetryPolicy,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_authz.v3 import (
    CheckSettings,
    ExtAuthz,
    ExtAuthzPerRoute,
)
from envoy_data_plane.envoy.type.matcher.v3 import (
    ListStringMatcher,
    MetadataMatcher,
    MetadataMatcherPathSegment,
    RegexMatcher,
    StringMatcher,
    ValueMatcher,
)
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
from envoy_data_plane.google.protobuf import Any

from deploy.envoy.config import Edge

FILTER = "envoy.filters.http.ext_authz"
# The names are shared with edge.lua and services/auth/rpc/ext_authz.py.
EDGE_NAMESPACE, HAS_KEY = "ollamesh.edge", "api_key"
KEY_NAMESPACE = "ollamesh.api_key"
SERVICE_FIELD = "service"


def exchange(edge: Edge) -> ExtAuthz:
    auth = GrpcService(
        envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name="auth"),
        timeout=timedelta(seconds=edge.keys_timeout_s),
        # A question changes nothing, so another replica may be asked.
        retry_policy=RetryPolicy(retry_on="connect-failure,refused-stream,reset,unavailable", num_retries=1),
    )
    return ExtAuthz(
        transport_api_version=ApiVersion.V3,
        grpc_service=auth,
        filter_enabled_metadata=MetadataMatcher(
            filter=EDGE_NAMESPACE,
            path=[MetadataMatcherPathSegment(key=HAS_KEY)],
            value=ValueMatcher(bool_match=True),
        ),
        metadata_context_namespaces=[KEY_NAMESPACE],
        disallowed_headers=ListStringMatcher(patterns=[StringMatcher(safe_regex=RegexMatcher(regex=".*"))]),
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
    )


def exchanged_for(service: str) -> Any:
    """For a route: a key is changed for a token for that service."""
    return Any.pack(
        ExtAuthzPerRoute(check_settings=CheckSettings(context_extensions={SERVICE_FIELD: service}))
    )


def none_needed() -> Any:
    """For a route that takes no identity. A key that comes there is left out all the same."""
    return Any.pack(ExtAuthzPerRoute(disabled=True))
