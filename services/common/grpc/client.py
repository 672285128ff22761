"""Channels to the other services: balanced, kept alive, and retrying what is safe to retry."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import grpc.aio

from services.common.certificates import Followed, Material
from services.common.grpc.following import FollowingChannel
from services.common.grpc.tls import channel_credentials, must_be
from services.common.grpc.traced import TracedChannel
from services.common.inside import Inside

MESSAGE_BYTES_MAX = 16 * 1024 * 1024


class Cancellable(Protocol):
    def cancel(self) -> bool: ...


Call = TypeVar("Call", bound=Cancellable)


def channel(
    target: str, *, inside: Inside, to: str, service: str = "", idempotent: Iterable[str] = ()
) -> grpc.aio.Channel:
    """Open a channel to the service `to`, and to nobody who is not that.

    gRPC itself retries the named methods (of `service`, its full name), and only until a first message.
    """
    options = _options(service, idempotent)
    if inside.files is None:
        return TracedChannel(grpc.aio.insecure_channel(target, options=options))

    def secure(material: Material) -> grpc.aio.Channel:
        named = [*options, must_be(inside.dns_name(to))]
        return grpc.aio.secure_channel(target, channel_credentials(material), options=named)

    return TracedChannel(FollowingChannel(Followed(inside.files), secure))


def collector_channel(target: str, authority: Path | None) -> grpc.aio.Channel:
    """Open a channel to a collector of traces, which is none of the mesh: by TLS, if it is known who signs for it."""
    options = [("grpc.max_reconnect_backoff_ms", 1_000)]
    if authority is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(
        target, grpc.ssl_channel_credentials(authority.read_bytes()), options=options
    )


def _options(service: str, idempotent: Iterable[str]) -> list[tuple[str, str | int]]:
    retry = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    service_config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},  # The budget: an outage stops retries.
        "methodConfig": [
            {"name": [{"service": service, "method": method} for method in idempotent], "retryPolicy": retry},
        ]
        if service
        else [],
    }
    return [
        ("grpc.service_config", json.dumps(service_config)),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),  # By default minutes, after a longer outage.
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ]


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Metadata that presents `token`."""
    return (("authorization", f"Bearer {token}"),)


@contextmanager
def held(call: Call) -> Iterator[Call]:
    """Have a call for as long as the block lasts: left in whatever way, it is over, and its server knows.

    gRPC does not see to that: a call that is only forgotten goes on until its channel closes (decision 0014).
    """
    try:
        yield call
    finally:
        call.cancel()  # Does nothing to one that has ended.
