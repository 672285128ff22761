"""A port that stays ours while nobody listens on it."""

import socket


def bound(port: int = 0, *, host: str = "127.0.0.1") -> socket.socket:
    """A socket that shares its port with others made here, and with nobody else.

    One that is kept and never listens reserves the port: connections are refused, and nobody is given it.
    """
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((host, port))
    return made


def port_of(made: socket.socket) -> int:
    port: int = made.getsockname()[1]
    return port
