"""Which `Host` headers are answered.

The server has no accounts, so a web page that makes its own name resolve to 127.0.0.1 (DNS rebinding)
must not be able to use it: names are answered only if they cannot belong to somebody else.
"""

import ipaddress

LOCAL_SUFFIXES = (".localhost", ".local", ".internal")


def allowed_host(header: str) -> bool:
    """`header` is `host` or `host:port`; addresses, `localhost` and names of the local network pass."""
    host = _without_port(header).lower()
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # A name without a dot is one of the local network: a container's, a service's, this machine's.
        return "." not in host or host.endswith(LOCAL_SUFFIXES)
    return True


def _without_port(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]
