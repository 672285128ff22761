"""Where a call comes from, as the edge saw it: for throttling, and never for identity.

The edge strips what clients say of it and writes down the address of the connection that it accepted. A call that did
not come through the edge has no address here: whoever is inside needs none.
"""

import ipaddress
from contextvars import ContextVar

from services.common.grpc.around import Check, Context

HEADER = "x-envoy-external-address"
IPV6_PREFIX = 64  # What one customer gets: single addresses of it cost nothing.

# Set once per call and never reset: each call has its own context.
_network: ContextVar[str | None] = ContextVar("network", default=None)


def client_network() -> str | None:
    """The caller's address, or the /64 of an IPv6 address. None if it is not known."""
    return _network.get()


def addressed() -> Check:
    """Remember where the call comes from."""

    async def check(method: str, context: Context) -> None:
        del method
        values = [str(value) for key, value in context.invocation_metadata() or () if key == HEADER]
        _network.set(network(values[0]) if len(values) == 1 else None)

    return check


def network(text: str) -> str | None:
    """What counts as one place, or None for what is no address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, IPV6_PREFIX)))
