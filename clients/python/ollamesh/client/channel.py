"""The one connection to the mesh, which retries what is safe to retry.

gRPC itself retries, by this configuration: only UNAVAILABLE, only the unary methods named here, at most
three times, within the call's deadline, and not at all while most calls fail. All of them may be repeated
without harm: they read, they log in, they remove, or they carry an id or an offset that makes the second one find the
first.
"""

import json
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import grpc.aio

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
IDEMPOTENT = {
    "ollamesh.auth.v1.AuthService": ("Login", "ExchangeToken", "GetCaller", "ListApiKeys", "RevokeApiKey"),
    "ollamesh.agent.v1.AgentService": (
        *("CreateThread", "StartRun", "StartRuns", "GetThread", "GetRun", "ListRuns", "ListTools"),
        "SubmitApproval",  # The same decision again is no other one.
    ),
    "ollamesh.inference.v1.InferenceService": ("Embed", "ListModels", "GetModel", "GetFleet"),
    "ollamesh.sandbox.v1.SandboxService": (
        *("StartExecution", "GetExecution", "SendInput", "KillExecution"),
        *("CreateSession", "GetSession", "ListSessions", "DeleteSession"),
        *("ListFiles", "DeleteFile", "GetCapabilities"),
    ),
}
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def open_channel(target: str, *, ca: Path | None = None) -> grpc.aio.Channel:
    """Connect to `https://host:port` with TLS, or to `http://host:port` or `host:port` without.

    With `ca`, a file of PEM certificates, only what these have signed is believed; else what this system believes.
    Raises ValueError if `target` is none of these, or `ca` cannot be read.
    """
    url = urlsplit(target if "://" in target else f"http://{target}")
    if url.scheme not in {"http", "https"} or not url.hostname or url.path.strip("/") or url.query:
        raise ValueError(f"not an address of a mesh: {target!r}; it looks like http://127.0.0.1:8080")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    options = [
        ("grpc.service_config", _service_config()),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.enable_http_proxy", int(url.hostname not in LOOPBACK)),
    ]
    if url.scheme == "https":
        secure = grpc.ssl_channel_credentials(_read(ca) if ca is not None else None)
        return grpc.aio.secure_channel(f"{host}:{url.port or 443}", secure, options=options)
    return grpc.aio.insecure_channel(f"{host}:{url.port or 80}", options=options)


def _read(ca: Path) -> bytes:
    try:
        found = ca.read_bytes()
    except OSError as error:
        raise ValueError(f"the certificates in {ca} cannot be read: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in found:
        raise ValueError(f"there is no certificate in {ca}")
    return found


def _service_config() -> str:
    retry = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    names = [
        {"service": service, "method": method} for service in IDEMPOTENT for method in IDEMPOTENT[service]
    ]
    return json.dumps(
        {
            "methodConfig": [{"name": names, "retryPolicy": retry}],
            "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
        }
    )
