"""The part `traces` as a process, sent to by OpenTelemetry's own exporter and asked by the command line."""

import asyncio
import contextlib
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import psutil
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Status, StatusCode, set_span_in_context

from deploy.local.ports import free_ports
from deploy.local.settings import ROOT
from deploy.local.traces import receiver
from deploy.local.traces.reading import NoTracesError, reading
from deploy.local.traces.receiver import serving
from deploy.local.traces.records import FILE
from deploy.local.traces.store import TraceStore
from tests.fakes.command_line import Cli

WITHIN_S = 30.0
EXPORT = f"/{receiver.SERVICE}/Export"
RUN = "6741f7ad-b609-4772-9bb0-b1b5f5200a0f"
MS = 1_000_000


@contextlib.contextmanager
def part(home: Path) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """Started as the stack does it, and ready."""
    (port,) = free_ports(1)
    arguments = ("--port", str(port), "--home", str(home), "--bytes", str(8 << 20), "--age", "3600")
    with subprocess.Popen([sys.executable, "-m", "deploy.local.traces", *arguments], cwd=ROOT) as process:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                grpc.channel_ready_future(channel).result(timeout=WITHIN_S)
            yield port, process
        finally:
            if process.poll() is None:
                process.terminate()


def send_a_run(port: int) -> str:
    """A small trace by the SDK; its id."""
    provider = TracerProvider(resource=Resource({SERVICE_NAME: "ollamesh-agent"}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"127.0.0.1:{port}", insecure=True, timeout=int(WITHIN_S))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    root = tracer.start_span("invoke_agent", attributes={"ollamesh.run.id": RUN}, start_time=10 * MS)
    inner = tracer.start_span("chat llama3", context=set_span_in_context(root), start_time=20 * MS)
    inner.set_status(Status(StatusCode.ERROR, "the model was lost"))
    inner.end(70 * MS)
    root.end(110 * MS)
    provider.shutdown()
    return f"{root.get_span_context().trace_id:032x}"


def ids(home: Path) -> list[str]:
    with reading(home) as reader:
        return [one.trace_id for one in reader.latest(10)]


def test_what_services_send_is_shown_whether_the_stack_runs_or_not(tmp_path: Path) -> None:
    cli = Cli(tmp_path, "http://127.0.0.1:1")
    with part(tmp_path) as (port, process):
        listening = [each.laddr.ip for each in psutil.Process(process.pid).net_connections()]
        assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
        trace_id = send_a_run(port)
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(100_000))
        live = cli("trace", trace_id[:8])
        process.send_signal(signal.SIGTERM)
        assert process.wait(WITHIN_S) == 0
    assert (live.exit_code, live.stdout) == (0, cli("trace", RUN).stdout)
    lines = live.stdout.splitlines()
    assert lines[0] == f"trace {trace_id}"
    assert "100 ms · 2 spans · 1 service · 1 error" in lines[1]
    assert [line.rstrip("█┄ ") for line in lines[4:]] == [
        "invoke_agent      100 ms",
        f"│   ollamesh.run.id={RUN}",
        "├ (no span)      10.0 ms",
        "├ ✗ chat llama3  50.0 ms",
        "│     the model was lost",
        "└ (no span)      40.0 ms",
    ]
    listed = cli("trace")
    assert listed.stdout.splitlines()[0].split() == [
        "trace",
        "began",
        "took",
        "spans",
        "errors",
        "first",
        "span",
    ]
    assert listed.stdout.splitlines()[1].split()[0] == trace_id
    assert json.loads(cli("trace", "--json").stdout)["traces"][0]["trace_id"] == trace_id
    told = json.loads(cli("trace", trace_id, "--json").stdout)
    assert [(span["name"], span.get("status", "unset")) for span in told["spans"]] == [
        ("invoke_agent", "unset"),
        ("chat llama3", "error"),
    ]
    assert "the model was lost" in cli("trace", trace_id, "--all").stdout


def test_a_kill_costs_nothing_that_was_kept(tmp_path: Path) -> None:
    with part(tmp_path) as (port, process):
        first = send_a_run(port)
        process.kill()
    assert ids(tmp_path) == [first]
    with part(tmp_path) as (port, _):
        second = send_a_run(port)
        assert set(ids(tmp_path)) == {first, second}


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    cli = Cli(tmp_path, "http://127.0.0.1:1")
    never = cli("trace")
    assert never.exit_code == 1
    assert "no traces: none were ever kept here" in never.stderr
    assert "OLLAMESH_OTLP_TARGET" in never.stderr
    TraceStore(tmp_path / FILE, bytes_max=1 << 20, age_max_s=60).close()
    unknown = cli("trace", "abcd\x1b[2J", "--wait", "0")
    assert unknown.exit_code == 1
    assert "there is no trace of abcd\\x1b[2J" in unknown.stderr
    assert "\x1b" not in unknown.stderr
    assert cli("trace").exit_code == 0


def test_one_that_is_on_its_way_is_waited_for(tmp_path: Path) -> None:
    cli = Cli(tmp_path, "http://127.0.0.1:1")
    with part(tmp_path) as (port, _):
        late = threading.Timer(0.5, send_a_run, [port])
        late.start()
        found = cli("trace", RUN, "--wait", str(WITHIN_S))
        late.join()
    assert found.exit_code == 0, found.stderr


@contextlib.asynccontextmanager
async def sending(store: TraceStore) -> AsyncIterator[grpc.aio.UnaryUnaryMultiCallable]:  # type: ignore[type-arg]
    async with (
        serving(store, "127.0.0.1:0") as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield channel.unary_unary(
            EXPORT,
            request_serializer=ExportTraceServiceRequest.SerializeToString,
            response_deserializer=ExportTraceServiceResponse.FromString,
        )


def request(*, is_valid: bool = True) -> ExportTraceServiceRequest:
    made = ExportTraceServiceRequest()
    span = made.resource_spans.add().scope_spans.add().spans.add(name="a", start_time_unix_nano=1)
    span.trace_id, span.span_id = b"\x01" * 16, b"\x02" * 8 if is_valid else b""
    return made


def store(home: Path) -> TraceStore:
    return TraceStore(home / FILE, bytes_max=1 << 20, age_max_s=60)


async def test_what_is_rejected_is_said_as_otlp_has_it(tmp_path: Path) -> None:
    async with sending(store(tmp_path)) as export:
        answer = await export(request(is_valid=False), timeout=WITHIN_S)
        assert answer.partial_success.rejected_spans == 1
        assert not (await export(request(), timeout=WITHIN_S)).HasField("partial_success")


async def test_more_than_can_be_written_is_sent_back_and_not_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "WAITING_MAX", 3)
    may_write, kept = threading.Event(), store(tmp_path)
    add = kept.add
    monkeypatch.setattr(kept, "add", lambda spans: (may_write.wait(WITHIN_S), add(spans)))
    async with sending(kept) as export:
        calls = [asyncio.ensure_future(export(request(), timeout=WITHIN_S)) for _ in range(10)]
        refused, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
        while len(refused) < 7:
            await asyncio.sleep(0.01)
            refused = {call for call in calls if call.done()}
        may_write.set()
        ended = await asyncio.gather(*calls, return_exceptions=True)
    codes = [each.code() for each in ended if isinstance(each, grpc.aio.AioRpcError)]
    assert codes == [grpc.StatusCode.UNAVAILABLE] * 7


async def test_a_full_disk_is_lived_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = store(tmp_path)
    add = kept.add

    def full(_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    async with sending(kept) as export:
        monkeypatch.setattr(kept, "add", full)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await export(request(), timeout=WITHIN_S)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "disk" not in (failed.value.details() or "")
        monkeypatch.setattr(kept, "add", add)
        await export(request(), timeout=WITHIN_S)
    assert ids(tmp_path) == ["01" * 16]


async def test_a_store_that_breaks_while_it_is_used_ends_the_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which starts it again, and puts the file aside."""
    monkeypatch.setattr(receiver, "TRIM_EVERY_S", 0.01)
    kept = store(tmp_path)

    def broken() -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    async def use() -> None:
        async with sending(kept) as export:
            await export(request(), timeout=WITHIN_S)
            monkeypatch.setattr(kept, "trim", broken)
            await asyncio.sleep(WITHIN_S)

    with pytest.raises(ExceptionGroup) as failed:
        await use()
    assert failed.group_contains(sqlite3.DatabaseError, match="malformed")


def test_a_home_that_is_not_there_has_no_traces(tmp_path: Path) -> None:
    with pytest.raises(NoTracesError), reading(tmp_path / "nowhere"):
        pass
