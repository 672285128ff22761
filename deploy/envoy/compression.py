"""Compressed answers, for a few methods, and off for all others.

An answer that holds a secret and what an attacker may put there tells the secret by its length (CRIME, BREACH). So
nothing is compressed but what is listed here: descriptions that hold no secret, are no stream, and are large enough to
gain by it. A method that is added elsewhere is not compressed until somebody says so here.

REST clients and browsers say what they take (`accept-encoding`), and get JSON so. gRPC and gRPC-Web compress by
themselves, message by message, and are left alone.
"""

import re
from collections.abc import Sequence
from copy import copy

from envoy_data_plane.envoy.config.core.v3 import RuntimeFeatureFlag, TypedExtensionConfig
from envoy_data_plane.envoy.config.route.v3 import Route, RouteMatch
from envoy_data_plane.envoy.extensions.compression.gzip.compressor.v3 import Gzip
from envoy_data_plane.envoy.extensions.compression.zstd.compressor.v3 import Zstd
from envoy_data_plane.envoy.extensions.filters.http.compressor.v3 import (
    Compressor,
    CompressorCommonDirectionConfig,
    CompressorOverrides,
    CompressorPerRoute,
    CompressorResponseDirectionConfig,
    ResponseDirectionOverrides,
)
from envoy_data_plane.google.protobuf import Any

COMPRESSED = frozenset(
    {
        "/ollamesh.auth.v1.OAuthService/GetServerMetadata",
        "/ollamesh.auth.v1.OAuthService/GetJwks",
        "/ollamesh.compat.ollama.v1.OllamaService/GetVersion",
        "/ollamesh.compat.ollama.v1.OllamaService/ListRunning",
        "/ollamesh.compat.ollama.v1.OllamaService/ListTags",
        "/ollamesh.compat.ollama.v1.OllamaService/Show",
        "/ollamesh.compat.openai.v1.OpenAIService/GetModel",
        "/ollamesh.compat.openai.v1.OpenAIService/ListModels",
    }
)
BYTES_MIN = 256  # Below, the headers gain more than the body loses.
LIBRARIES = {
    "zstd": TypedExtensionConfig(name="zstd", typed_config=Any.pack(Zstd())),
    "gzip": TypedExtensionConfig(name="gzip", typed_config=Any.pack(Gzip())),
}
FILTERS = {f"envoy.filters.http.compressor.{name}": library for name, library in LIBRARIES.items()}


def compressor(library: TypedExtensionConfig) -> Compressor:
    """Off, unless a route says otherwise."""
    off = RuntimeFeatureFlag(default_value=False, runtime_key="ollamesh.compression")
    return Compressor(
        compressor_library=library,
        response_direction_config=CompressorResponseDirectionConfig(
            common_config=CompressorCommonDirectionConfig(enabled=off, min_content_length=BYTES_MIN),
            disable_on_etag_header=True,
        ),
    )


def with_compressed(routes: Sequence[Route]) -> list[Route]:
    """The routes, and before them one for each method whose answers are compressed, like its own in all else."""
    return [*(_compressed(path, routes) for path in sorted(COMPRESSED)), *routes]


def _compressed(path: str, routes: Sequence[Route]) -> Route:
    route = copy(next(route for route in routes if _matches(route.match, path)))
    route.name, route.match = f"{path}: compressed", RouteMatch(path=path)
    route.typed_per_filter_config = {**route.typed_per_filter_config, **_on()}
    return route


def _matches(match: RouteMatch | None, path: str) -> bool:
    """As Envoy would say."""
    assert match is not None
    if match.safe_regex is not None:
        return re.fullmatch(match.safe_regex.regex, path) is not None
    if match.prefix is not None:
        return path.startswith(match.prefix)
    return path == match.path


def _on() -> dict[str, Any]:
    overrides = CompressorOverrides(response_direction_config=ResponseDirectionOverrides())
    return {name: Any.pack(CompressorPerRoute(overrides=overrides)) for name in FILTERS}
