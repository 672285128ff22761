"""How spans reach a collector: at its pace, in bounds, counted; and what a collector that fails costs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from deploy.local.certificate import CertificateFiles, make
from services.common.config import ConfigError, Environment
from services.common.grpc.client import collector_channel
from services.common.tracing import export
from services.common.tracing.config import TracingConfig
from services.common.tracing.current import bare_context, enter
from services.common.tracing.export import Exporter, tracing
from services.common.tracing.ids import trace_ids
from services.common.tracing.spans import Kind, Remote, Shape, Span
from services.common.tracing.tracer import Tracer
from tests.fakes.otlp_collector import Collector, collecting

SHAPE = Shape("work", Kind.INTERNAL)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "EVERY_S", 0.01)
    monkeypatch.setattr(export, "PAUSE_S", 0.01)


def counts(registry: CollectorRegistry) -> dict[str, float]:
    outcomes = ("exported", "dropped", "failed")
    found = {one: registry.get_sample_value("ollamesh_spans_total", {"outcome": one}) for one in outcomes}
    return {one: value for one, value in found.items() if value}


@asynccontextmanager
async def exporting(target: str, **bounds: Any) -> AsyncIterator[tuple[Exporter, CollectorRegistry]]:
    registry = CollectorRegistry()
    async with collector_channel(target, None) as channel:
        yield Exporter(channel, {"service.name": "s"}, registry, pause_s=0.01, **bounds), registry


def record(exporter: Exporter, count: int) -> None:
    tracer = Tracer(exporter.add)
    for _ in range(count):
        span = tracer.begin(SHAPE)
        assert isinstance(span, Span)
        span.end()


async def test_what_is_under_way_at_the_end_is_sent() -> None:
    registry = CollectorRegistry()
    async with collecting() as collector:
        config = TracingConfig(target=collector.target)
        async with tracing(config, "auth", registry, version="1.2.3") as tracer:
            assert tracer is not None
            for _ in range(1200):
                span = tracer.begin(SHAPE)
                assert isinstance(span, Span)
                span.end()
    assert len(collector.seen) == 1200
    assert collector.seen[0].service == "ollamesh-auth"
    assert 3 <= collector.request_count <= 4, "in batches"
    assert counts(registry) == {"exported": 1200}


async def test_nothing_is_there_where_nobody_collects() -> None:
    registry = CollectorRegistry()
    async with tracing(TracingConfig(), "auth", registry) as tracer:
        assert tracer is None
    assert counts(registry) == {}


async def test_what_comes_while_a_batch_is_sent_waits_for_its_own_time() -> None:
    async with collecting() as collector, exporting(collector.target) as (exporter, _):
        record(exporter, 3)
        sending = asyncio.create_task(exporter.flush())
        await asyncio.sleep(0)  # It has begun.
        record(exporter, 4)
        await sending
        assert (len(collector.seen), collector.request_count) == (3, 1)
        await exporter.flush()
        assert (len(collector.seen), collector.request_count) == (7, 2)


async def test_what_has_no_room_is_dropped_and_counted() -> None:
    async with (
        collecting() as collector,
        exporting(collector.target, queue_spans_max=10) as (exporter, registry),
    ):
        record(exporter, 25)
        await exporter.flush()
        assert len(collector.seen) == 10
        assert counts(registry) == {"exported": 10, "dropped": 15}
        record(exporter, 5)
        await exporter.flush()
    assert counts(registry) == {"exported": 15, "dropped": 15}


async def test_bytes_have_a_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "QUEUE_BYTES_MAX", 1000)
    async with collecting() as collector, exporting(collector.target) as (exporter, registry):
        exporter.add(b"x" * 600)
        exporter.add(b"x" * 600)
        assert counts(registry) == {"dropped": 1}


async def test_a_collector_that_is_away_is_tried_and_then_costs_its_spans() -> None:
    async with exporting("127.0.0.1:1") as (exporter, registry):
        record(exporter, 3)
        await exporter.flush()
    assert counts(registry) == {"failed": 3}


async def test_one_that_comes_back_gets_what_waited() -> None:
    async with collecting() as collector, exporting(collector.target) as (exporter, registry):
        collector.refusal = grpc.StatusCode.UNAVAILABLE
        record(exporter, 3)
        sending = asyncio.create_task(exporter.flush())
        await collector.until(lambda: collector.request_count == 1)
        collector.refusal = None
        await sending
    assert (len(collector.seen), counts(registry)) == (3, {"exported": 3})


async def test_one_that_does_not_want_them_is_not_asked_twice() -> None:
    async with collecting() as collector, exporting(collector.target) as (exporter, registry):
        collector.refusal = grpc.StatusCode.INVALID_ARGUMENT
        record(exporter, 3)
        await exporter.flush()
        assert collector.request_count == 1
        collector.refusal, collector.rejected_count = None, 1
        record(exporter, 4)
        await exporter.flush()
    assert counts(registry) == {"failed": 4, "exported": 3}


@pytest.mark.parametrize(
    ("answer", "failed"), [(b"\xff", 0), (b"\n\x02\x08\x05", 3), (b"\n\x0b\x08" + b"\xff" * 9 + b"\x01", 0)]
)
async def test_a_collector_that_answers_nonsense_costs_no_service(answer: bytes, failed: int) -> None:
    """No message at all; more spans refused than there were; fewer than none."""

    async def answered(_request: bytes, _context: object) -> bytes:
        return answer

    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
        answered
    )  # Bytes, as they are.
    service = export.METHOD.rpartition("/")[0].removeprefix("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with exporting(f"127.0.0.1:{port}") as (exporter, registry):
            record(exporter, 3)
            await exporter.flush()
    finally:
        await server.stop(0)
    expected = {"failed": failed, "exported": 3 - failed}
    assert counts(registry) == {outcome: count for outcome, count in expected.items() if count}


async def test_spans_go_by_tls_to_whom_the_authority_has_signed_for(tmp_path: Path) -> None:
    files, others = CertificateFiles(tmp_path / "one"), CertificateFiles(tmp_path / "other")
    for made in (files, others):
        make(made, ["localhost"])
    credentials = grpc.ssl_server_credentials([(files.key.read_bytes(), files.certificate.read_bytes())])
    async with collecting(credentials=credentials) as collector:
        for authority, outcome in ((files.ca, "exported"), (others.ca, "failed")):
            registry = CollectorRegistry()
            config = TracingConfig(target=f"localhost:{collector.port}", authority=authority)
            async with tracing(config, "auth", registry) as tracer:
                assert tracer is not None
                span = tracer.begin(SHAPE)
                assert isinstance(span, Span)
                span.end()
            assert counts(registry) == {outcome: 1}


async def test_a_service_ends_though_its_collector_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "FAREWELL_S", 0.1)
    async with collecting() as collector:

        async def hang(_request: object, _context: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(Collector, "export", lambda _self, request, context: hang(request, context))
        async with tracing(TracingConfig(target=collector.target), "auth", CollectorRegistry()) as tracer:
            assert tracer is not None
            span = tracer.begin(SHAPE)
            assert isinstance(span, Span)
            span.end()


def test_a_target_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    for variables, name in (
        ({"OLLAMESH_OTLP_TARGET": "collector"}, "OLLAMESH_OTLP_TARGET is not host:port"),
        ({"OLLAMESH_OTLP_TARGET": "http://collector:4317"}, "OLLAMESH_OTLP_TARGET is not host:port"),
        ({"OLLAMESH_OTLP_CA": str(tmp_path / "none")}, "OLLAMESH_OTLP_CA is no file"),
        ({"OLLAMESH_TRACE_PERCENT": "101"}, "OLLAMESH_TRACE_PERCENT is not between"),
    ):
        env = Environment(variables)
        TracingConfig.read(env)
        with pytest.raises(ConfigError, match=name):
            env.check()


@pytest.mark.parametrize(
    ("target", "exposed"),
    [("127.0.0.1:4317", False), ("[::1]:4317", False), ("localhost:4317", False), ("collector:4317", True)],
)
def test_spans_that_leave_the_machine_as_plain_text_are_known(target: str, exposed: bool) -> None:  # noqa: FBT001
    env = Environment({"OLLAMESH_OTLP_TARGET": target})
    assert TracingConfig.read(env).is_exposed is exposed
    env.check()


def test_lines_of_a_call_say_in_which_trace_they_are() -> None:
    def logged(span: Span | Remote | None) -> dict[str, Any]:
        def block() -> dict[str, Any]:
            enter(span)
            return dict(trace_ids(None, "info", {"event": "e"}))

        return bare_context(None).run(block)

    unsampled = Remote(bytes(range(16)), bytes(range(8)), is_sampled=False)
    assert logged(None) == {"event": "e"}
    assert logged(unsampled) == {
        "event": "e",
        "trace_id": bytes(range(16)).hex(),
        "span_id": bytes(range(8)).hex(),
    }
