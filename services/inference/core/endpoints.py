"""Where an Ollama server is, as `OLLAMA_HOSTS` and Ollama's own `OLLAMA_HOST` write it."""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

OLLAMA_PORT = 11434
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An address. `prefix` is empty or a path that starts with a slash."""

    host: str
    port: int
    secure: bool = False
    prefix: str = ""

    @property
    def authority(self) -> str:
        """Host and port, as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this very machine."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def name(self) -> str:
        """What the instance is called everywhere."""
        return f"{self.authority}{self.prefix}"


def _is_host(name: str) -> bool:
    """Whether `name` is an address, or a name whose labels DNS allows (RFC 1035: 1 to 63 octets, 253 in all)."""
    labels = name.removesuffix(".").split(".")
    return ":" in name or (len(name) <= 253 and all(1 <= len(label) <= 63 for label in labels))


def parse_endpoint(text: str) -> Endpoint | None:
    """Return what `[http[s]://]host[:port][/prefix]` means, or None if it is not that.

    Without a scheme the port is Ollama's own, with one it is the scheme's, as Ollama has it.
    """
    if not text.isascii() or not text.isprintable() or " " in text:
        return None  # It would end up in a header.
    scheme, found, _ = text.partition("://")
    try:
        parts = urlsplit(text if found else f"http://{text}")
        port = parts.port  # Raises what is not a number.
    except ValueError:
        return None
    if (
        parts.scheme not in _PORTS
        or not parts.hostname
        or parts.username
        or parts.query
        or parts.fragment
        or port == 0
        or not _is_host(parts.hostname)
    ):
        return None
    default = _PORTS[scheme.lower()] if found else OLLAMA_PORT
    return Endpoint(
        host=parts.hostname,
        port=port or default,
        secure=parts.scheme == "https",
        prefix=parts.path.rstrip("/"),
    )
