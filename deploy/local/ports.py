"""Which ports the stack listens on."""

import random
import socket

# Below Linux's default range for outgoing connections (from 32768), so that no client of ours can be given
# a port between our choosing it and the server's binding it.
FREE_PORTS = range(20000, 32000)


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """Distinct ports that nobody listens on."""
    found: list[int] = []
    for port in random.sample(FREE_PORTS, len(FREE_PORTS)):
        if len(found) == count:
            break
        if is_free(port, host=host):
            found.append(port)
    return found


def is_free(port: int, *, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # Closed connections do not count.
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
