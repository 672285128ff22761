"""Channels to the other services: balanced, kept alive, and retrying what is safe to retry."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import grpc.aio

MESSAGE_BYTES_MAX = 16 * 1024 * 1024


class Cancellable(Protocol):
    def cancel(self) -> bool: ...


Call = TypeVar("Call", bound=Cancellable)


def channel(target: str, *, service: str = "", idempotent: Iterable[str] = ()) -> grpc.aio.Channel:
    """Open a channel. gRPC itself retries the named methods, and only until a first message."""
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
    return grpc.aio.insecure_channel(
        target,
        options=[
            ("grpc.service_config", json.dumps(service_config)),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.max_reconnect_backoff_ms", 1_000),  # By default minutes, after a longer outage.
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ],
    )


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
