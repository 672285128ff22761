"""Which ports the stack listens on, and who is in the way."""

import random
import socket
from collections.abc import Mapping
from itertools import cycle

import psutil

from deploy.local.errors import PortTakenError, PortTwiceError
from deploy.local.settings import port_variable

# Below Linux's default range for outgoing connections (from 32768), so that no client of ours can be given
# a port between our choosing it and the server's binding it.
FREE_PORTS = range(20000, 32000)
# One after the other: who was given a port need not bind it at once.
_candidates = cycle(random.sample(FREE_PORTS, len(FREE_PORTS)))


def resolve(wanted: Mapping[str, int], *, host: str) -> dict[str, int]:
    """`wanted` with each 0 replaced by a free port. Raises StackError if one is taken or wanted twice."""
    users: dict[int, list[str]] = {}
    for name, port in wanted.items():
        if port != 0:
            users.setdefault(port, []).append(port_variable(name))
    for port, variables in users.items():
        if len(variables) > 1:
            raise PortTwiceError(port, variables)
    for name, port in wanted.items():
        if port != 0 and not is_free(port, host=host):
            raise PortTakenError(name=name, port=port, holder=holder(port), variable=port_variable(name))
    free = iter(free_ports(len(wanted), host=host, but=users))
    return {name: port or next(free) for name, port in wanted.items()}


def free_ports(count: int, *, host: str = "127.0.0.1", but: Mapping[int, object] | None = None) -> list[int]:
    """Distinct ports that nobody listens on, none of which was given out lately."""
    found: list[int] = []
    for _ in FREE_PORTS:
        if len(found) == count:
            break
        port = next(_candidates)
        if port not in (but or {}) and is_free(port, host=host):
            found.append(port)
    return found


def is_free(port: int, *, host: str = "127.0.0.1") -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # Closed connections do not count.
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def holder(port: int) -> str:
    """Who listens there, as far as we may know."""
    process = _listener(port)
    return f"pid {process.pid} ({process.name()})" if process else "another user's process"


def command_of_listener(port: int) -> list[str]:
    process = _listener(port)
    return process.cmdline() if process else []


def _listener(port: int) -> psutil.Process | None:
    try:
        for connection in psutil.net_connections(kind="tcp"):
            address, listens = connection.laddr, connection.status == psutil.CONN_LISTEN
            if listens and address and address.port == port and connection.pid:
                return psutil.Process(connection.pid)
    except psutil.Error:
        pass
    return None
