"""The metrics port: what it answers, and that it is no way to stop the service."""

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

from services.common.metrics import endpoint
from services.common.metrics.endpoint import PLACES, THREADS_MAX, Pace, metrics_served
from services.common.metrics.process import MemoryLimit, process_registry
from services.common.metrics.service import Disks, ready_watched

WITHIN_S = 30.0


@pytest.fixture
def port() -> Iterator[int]:
    registry = CollectorRegistry()
    Counter("seen", "Seen", registry=registry).inc()
    with metrics_served(registry, bind="127.0.0.1", port=0) as port:
        yield port


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WITHIN_S)
    try:
        connection.request(method, path, body=body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_it_answers_get_of_metrics(port: int) -> None:
    status, text = ask(port, "GET", "/metrics")
    assert status == 200
    assert "seen_total 1.0" in text


@pytest.mark.parametrize(
    "path", ["/", "/favicon.ico", "/metrics/", "/../metrics", "/debug/pprof", "/%2e/metrics"]
)
def test_nothing_else_is_there(port: int, path: str) -> None:
    status, text = ask(port, "GET", path)
    assert status == 404
    assert "seen" not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
def test_only_get_is_answered(port: int, method: str) -> None:
    assert ask(port, method, "/metrics")[0] == 405


def test_those_who_say_nothing_make_room(port: int) -> None:
    """More connections than there are places and threads, all of them silent: a scrape still gets through."""
    with ExitStack() as opened:
        silent = [
            opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S))
            for _ in range(4 * THREADS_MAX)
        ]
        assert ask_until_answered(port) == 200
        # The first were cut off, not left to hold a thread each.
        silent[0].settimeout(WITHIN_S)
        with suppress(ConnectionResetError):
            assert silent[0].recv(1) == b""
        assert (
            sum(thread.name.startswith("Thread-") for thread in threading.enumerate()) <= THREADS_MAX + PLACES
        )


def ask_until_answered(port: int) -> int:
    """Newcomers may be turned away while those before them are on their way out."""
    for _ in range(1000):
        with suppress(OSError, http.client.HTTPException):
            return ask(port, "GET", "/metrics")[0]
    raise AssertionError("never answered")


def test_who_hangs_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint._Handler, "timeout", 0.05)
    with (
        metrics_served(CollectorRegistry(), bind="127.0.0.1", port=0) as port,
        socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S) as hanging,
    ):
        hanging.sendall(b"GET /metr")
        assert hanging.recv(1) == b""


def test_nonsense_is_no_news(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S) as other:
        other.sendall(b"\x16\x03\x01 secret-in-a-request\r\n\r\n")
        other.shutdown(socket.SHUT_WR)
        other.recv(4096)
    ask(port, "GET", "/nonsense-path")
    assert capfd.readouterr() == ("", "")


def test_it_ends_with_its_block() -> None:
    with metrics_served(CollectorRegistry(), bind="127.0.0.1", port=0) as port:
        assert ask(port, "GET", "/metrics")[0] == 200
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S)


def test_turns_rest_nine_times_as_long_as_they_work() -> None:
    slept_s: list[float] = []
    pace = Pace(0.1, sleep=slept_s.append)
    with pace.turn():
        worked = sum(range(200_000))
    assert worked
    assert pace._next_s > 0
    with pace.turn():
        pass
    assert slept_s
    assert slept_s[0] > 0


def test_a_process_tells_what_it_is_to_its_machine() -> None:
    registry = process_registry()
    for name in (
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
        "ollamesh_process_threads",
    ):
        assert registry.get_sample_value(name), name


def test_a_limit_of_memory_is_told_where_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "memory.max"
    assert list(MemoryLimit(file).collect()) == []
    file.write_text("max\n")
    assert list(MemoryLimit(file).collect()) == []
    file.write_text("536870912\n")
    (metric,) = MemoryLimit(file).collect()
    assert metric.samples[0].value == 512 << 20


def test_a_folder_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    registry.register(Disks({"here": tmp_path, "nowhere": tmp_path / "no" / "such"}))
    assert registry.get_sample_value("ollamesh_disk_free_bytes", {"name": "here"})
    assert registry.get_sample_value("ollamesh_disk_size_bytes", {"name": "here"})
    assert registry.get_sample_value("ollamesh_disk_free_bytes", {"name": "nowhere"}) is None


class _Server:
    is_ready = False


def test_readiness_is_what_the_server_says_now() -> None:
    registry, server = CollectorRegistry(), _Server()
    ready_watched(registry, server)
    assert registry.get_sample_value("ollamesh_ready") == 0
    server.is_ready = True
    assert registry.get_sample_value("ollamesh_ready") == 1
