"""Which web pages may call: by configuration, with bearer tokens and never with cookies."""

import re

from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import CorsPolicy
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any

FILTER = "envoy.filters.http.cors"
SENT = (
    *("authorization", "content-type", "grpc-timeout", "x-grpc-web", "x-user-agent"),
    # OpenAI's client says what it is, in a browser too.
    *(f"x-stainless-{name}" for name in ("arch", "lang", "os", "package-version", "retry-count")),
    *(f"x-stainless-{name}" for name in ("runtime", "runtime-version", "timeout", "helper-method")),
)
READ = (
    *("grpc-status", "grpc-message", "grpc-status-details-bin", "retry-after", "www-authenticate"),
    *(f"x-ratelimit-{name}" for name in ("limit", "remaining", "reset")),
    *("x-ollamesh-cache", "x-ollamesh-flagged", "x-ollamesh-stream", "x-request-id"),
)


def policy(origins: tuple[str, ...]) -> Any:
    return Any.pack(
        CorsPolicy(
            allow_origin_string_match=[_matcher(origin.strip()) for origin in origins],
            allow_methods="GET, HEAD, POST, DELETE",
            allow_headers=", ".join(SENT),
            expose_headers=", ".join(READ),
            max_age="600",
        )
    )


def _matcher(origin: str) -> StringMatcher:
    """`http://host:*` is that host at any port, or at none; everything else is meant literally."""
    if not origin.endswith(":*"):
        return StringMatcher(exact=origin)
    return StringMatcher(safe_regex=RegexMatcher(regex=re.escape(origin.removesuffix(":*")) + r"(?::\d+)?"))
