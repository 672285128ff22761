"""What `http_fetch` may reach: hosts that the operator named, at addresses that are public.

Names say who is meant, addresses say where a request really goes; each alone can be made to lie. So both are checked,
and the connection is made to the very address that was checked.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NAME_CHARS_MAX = 253  # As DNS has it.

# All that is not a host of the public internet: IANA's special-purpose registry, multicast, what is reserved.
_NOT_PUBLIC_V4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # Carriers' own, and some clouds' metadata.
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's own services, at an address that looks public.
        "169.254.0.0/16",  # Link-local, and most clouds' metadata.
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
# What carries an IPv4 address inside (mapped, NAT64, 6to4, Teredo) is either not of the first, or of the others.
_UNICAST_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = [
    IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]


@dataclass(frozen=True, slots=True)
class _Entry:
    host: str  # With a leading dot, every host below it.
    port: int | None  # None: the usual one of the scheme.

    def permits(self, scheme: str, host: str, port: int) -> bool:
        if port != (PORTS[scheme] if self.port is None else self.port):
            return False
        return host.endswith(self.host) if self.host.startswith(".") else host == self.host


@dataclass(frozen=True, slots=True)
class Egress:
    """`hosts` as people read them; `private`: networks that are reachable although they are not public."""

    hosts: tuple[str, ...]
    private: tuple[Network, ...]
    entries: tuple[_Entry, ...]

    @classmethod
    def of(cls, hosts: Iterable[str], private: Iterable[str] = ()) -> "Egress":
        """Hosts as `example.com`, `*.example.com` (those below it), `example.com:8443`, `[::1]:80`.

        Raises ValueError for what is none.
        """
        named = tuple(dict.fromkeys(host.lower() for host in hosts))
        return cls(named, tuple(ip_network(each) for each in private), tuple(map(_entry, named)))

    def permits(self, scheme: str, host: str, port: int) -> bool:
        """Whether the host is one that was named. `host` is as it is looked up: ASCII, in lower case."""
        return scheme in PORTS and any(entry.permits(scheme, host, port) for entry in self.entries)

    def reaches(self, addresses: Sequence[str]) -> bool:
        """Whether a host with these addresses may be connected to. One that is not public spoils all."""
        try:
            parsed = [ip_address(address) for address in addresses]
        except ValueError:
            return False
        return bool(parsed) and all(_is_public(each) or self._is_named(each) for each in parsed)

    def _is_named(self, address: Address) -> bool:
        return any(address in network for network in self.private)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return address in _UNICAST_V6 and not any(address in network for network in _NOT_PUBLIC_V6)


def _entry(text: str) -> _Entry:
    host, colon, port = text, "", ""
    if text.startswith("[") or text.count(":") == 1:
        host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if colon and not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise ValueError(text)
    if host.startswith("["):
        host = str(IPv6Address(host[1:-1] if host.endswith("]") else ""))
    elif not _NAME.fullmatch(host) or len(host) > _NAME_CHARS_MAX:
        raise ValueError(text)
    return _Entry(host.removeprefix("*"), int(port) if colon else None)
