"""The port where metrics are read: GET /metrics and nothing else, from threads of its own.

It must not be a way to stop the service. Whoever asks as fast as he can gets a tenth of a processor at most, however
many he is; who connects and then says nothing, or does not read, is cut off; and when every place is taken, those that
have been there longest make room.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import ThreadingWSGIServer

from services.common.metrics.text import Writer

PATH = "/metrics"
PLACES = 8  # Connections at a time: a few replicas of Prometheus, and a person who looks.
THREADS_MAX = 16  # One that was told to make room may still wait for its turn.
SILENCE_S_MAX = 5.0  # Of one who has connected.
SHARE_MAX = 0.1  # Of a processor, for making the text.
PAUSE_S_MAX = 1.0

_Request: TypeAlias = "socket.socket | tuple[bytes, socket.socket]"  # The second is of datagrams: never here.
Start = Callable[..., Any]
Application = Callable[[dict[str, Any], Start], Iterable[bytes]]


@contextmanager
def metrics_served(registry: CollectorRegistry, *, bind: str, port: int) -> Iterator[int]:
    """Publish `registry` for as long as the block lasts. Yield the port: 0 picks a free one."""
    server = (MetricsServer6 if ":" in bind else MetricsServer)((bind, port), _Handler)
    server.set_app(application(registry))
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        ending = threading.Thread(target=server.shutdown)
        ending.start()
        with suppress(OSError):
            server.socket.shutdown(socket.SHUT_RDWR)  # Wakes it: by itself it looks twice a second.
        ending.join()
        server.server_close()


def application(registry: CollectorRegistry, *, share_max: float = SHARE_MAX) -> Application:
    """What is served. One text is made at a time."""
    writer, pace = Writer(registry), Pace(share_max)

    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"only /metrics is here\n"]
        if environ["REQUEST_METHOD"] != "GET":
            start("405 Method Not Allowed", [("Allow", "GET"), ("Content-Type", "text/plain")])
            return [b"only GET is answered\n"]
        with pace.turn():
            text, headers = writer.write(
                accept=environ.get("HTTP_ACCEPT", ""), accept_encoding=environ.get("HTTP_ACCEPT_ENCODING", "")
            )
        start("200 OK", headers)
        return [text]

    return app


class Pace:
    """Turns, one at a time, that together take at most a share of a processor."""

    def __init__(self, share_max: float, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._rest = 1 / share_max - 1
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next_s = 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn, and have it."""
        with self._lock:
            wait_s = min(self._next_s - time.monotonic(), PAUSE_S_MAX)
            if wait_s > 0:
                self._sleep(wait_s)
            began_s = time.thread_time()
            try:
                yield
            finally:
                self._next_s = time.monotonic() + (time.thread_time() - began_s) * self._rest


class MetricsServer(ThreadingWSGIServer):
    """Has so many connections at most."""

    request_queue_size = (
        64  # With the usual 5, a scrape that comes among others is told after a second, or three.
    )

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self._open: dict[_Request, None] = {}  # Connections, in the order in which they came.
        super().__init__(address, handler)

    def process_request(self, request: _Request, client_address: object) -> None:
        there = list(self._open)
        if len(there) >= THREADS_MAX:
            self.shutdown_request(request)
            return
        for oldest in there[: max(0, len(there) - PLACES + 1)]:
            _hang_up(oldest)
        self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: _Request) -> None:
        self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: _Request, client_address: object) -> None:
        """Whoever left or was cut off is no news, and what he sent belongs into no log."""


class MetricsServer6(MetricsServer):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = SILENCE_S_MAX

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - The library's.
        """Not one line for each scrape."""


def _hang_up(connection: _Request) -> None:
    """Its own thread notices, and closes it."""
    assert isinstance(connection, socket.socket)
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
