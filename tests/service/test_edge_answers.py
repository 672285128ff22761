"""What the edge adds to a call on its way: compression where it is safe, traces, a line in the log, counts."""

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from google.api.httpbody_pb2 import HttpBody
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.common.grpc.client import bearer
from tests.service import auth_app, edge_app
from tests.service.auth_app import CLIENT_SECRET, TIMEOUT_S
from tests.service.edge_app import CHAT, GET_FLEET, Call, World
from tests.stack import Database

pytestmark = pytest.mark.asyncio(loop_scope="module")
EXPORT = "opentelemetry.proto.collector.trace.v1.TraceService"
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
LARGE = json.dumps({"models": [{"name": f"model-{number}"} for number in range(200)]}).encode()
SECRET = "hunter2"


@dataclass(slots=True)
class Collector:
    """Gathers spans, as OpenTelemetry's would."""

    port: int = 0
    spans: list[Span] = field(default_factory=list)

    async def export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return ExportTraceServiceResponse()


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    server, collector = grpc.aio.server(), Collector()
    handler = grpc.unary_unary_rpc_method_handler(
        collector.export,
        request_deserializer=ExportTraceServiceRequest.FromString,
        response_serializer=ExportTraceServiceResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(EXPORT, {"Export": handler}),))
    collector.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(0)


@dataclass(frozen=True, slots=True)
class Watched:
    world: World
    collector: Collector
    token: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(module_database: Database) -> AsyncIterator[Watched]:
    async with collecting() as collector:
        target = f"127.0.0.1:{collector.port}"
        config = auth_app.config(module_database("auth"))
        async with edge_app.whole(config, OLLAMESH_OTLP_TARGET=target) as world:
            yield Watched(world, collector, await world.stack.token())


async def large(call: Call) -> None:
    await call.write(HttpBody(content_type="application/json", data=LARGE).SerializeToString())


@pytest.mark.parametrize(
    ("method", "path", "accepted", "encoding"),
    [
        ("GET", "/api/tags", "gzip", "gzip"),
        ("GET", "/api/tags", "gzip;q=0.5, zstd", "zstd"),
        ("GET", "/api/tags", "zstd;q=0.1, gzip", "gzip"),
        ("GET", "/v1/models", "gzip", "gzip"),
        ("GET", "/api/tags", "br", None),
        ("GET", "/api/tags", "identity", None),
        (
            "POST",
            "/api/chat",
            "gzip",
            None,
        ),  # A model's answer: the asker's text beside other people's secrets.
        ("POST", "/v1/chat/completions", "gzip", None),
        ("POST", "/v1/embeddings", "gzip", None),
        ("GET", "/v1/files/x/content", "gzip", None),
    ],
)
async def test_only_descriptions_are_compressed(
    watched: Watched, method: str, path: str, accepted: str, encoding: str | None
) -> None:
    watched.world.echo.reply = large
    headers = {"authorization": f"Bearer {watched.token}", "accept-encoding": accepted}
    stack = watched.world.stack
    async with stack.http.request(
        method,
        stack.url + path,
        headers=headers,
        json={} if method == "POST" else None,
        auto_decompress=False,
    ) as answer:
        body = await answer.read()
    assert answer.status == 200
    assert answer.headers.get("content-encoding") == encoding
    if encoding is None:
        assert body == LARGE
    else:
        assert len(body) < len(LARGE) / 4
        assert "accept-encoding" in answer.headers["vary"].lower()
    if encoding == "gzip":
        assert zlib.decompress(body, wbits=31) == LARGE


async def test_what_is_public_is_compressed_and_tokens_are_not(watched: Watched) -> None:
    stack, accepts = watched.world.stack, {"accept-encoding": "gzip"}
    form = {"grant_type": "client_credentials", "client_id": "ollamesh", "client_secret": CLIENT_SECRET}
    async with stack.http.get(f"{stack.url}/.well-known/openid-configuration", headers=accepts) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert "issuer" in await answer.json()
    async with stack.http.post(f"{stack.url}/oauth/token", headers=accepts, data=form) as answer:
        assert answer.status == 200
        assert "content-encoding" not in answer.headers
        assert len(await answer.read()) > 256


async def test_a_trace_goes_on_through_the_edge_and_holds_no_secret(watched: Watched) -> None:
    watched.world.echo.reset()
    metadata = (
        *bearer(watched.token),
        ("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01"),
        ("x-secret", SECRET),
    )
    async with asyncio.timeout(TIMEOUT_S):
        while not (mine := [one for one in watched.collector.spans if one.trace_id.hex() == TRACE_ID]):
            for _ in range(5):  # They are sent five at a time, or after five seconds.
                await watched.world.stack.unary(CHAT)(b"hi", metadata=metadata, timeout=TIMEOUT_S)
            await asyncio.sleep(0.05)
    seen = watched.world.echo.calls[0].metadata["traceparent"].split("-")
    assert seen[1] == TRACE_ID
    spans = {one.span_id.hex(): one for one in mine}
    ingress = [one for one in mine if one.kind == Span.SPAN_KIND_SERVER]
    assert ingress[0].parent_span_id.hex() == PARENT_ID
    assert {one.name for one in mine} == {CHAT, "to inference"}
    assert any(one.parent_span_id.hex() in spans for one in mine), (
        "the way to the service is a span of its own"
    )
    everything = "".join(str(one) for one in watched.collector.spans)
    assert not [secret for secret in (SECRET, watched.token) if secret in everything]


async def test_the_log_says_who_called_by_ids_and_which_trace_it_was(watched: Watched) -> None:
    stack, already = watched.world.stack, len(watched.world.stack.log.read_text())
    watched.world.echo.reset()
    trace_id = "1" + TRACE_ID[1:]
    metadata = (*bearer(watched.token), ("traceparent", f"00-{trace_id}-{PARENT_ID}-01"))
    await stack.unary(CHAT)(b"hi", metadata=metadata, timeout=TIMEOUT_S)
    with pytest.raises(grpc.aio.AioRpcError):
        await stack.unary(GET_FLEET)(b"", metadata=bearer("forged.forged.forged"), timeout=TIMEOUT_S)
    lines: dict[str, dict[str, Any]] = {}
    async with asyncio.timeout(TIMEOUT_S):
        while not {CHAT, GET_FLEET} <= lines.keys():
            await asyncio.sleep(0.05)
            logged = stack.log.read_text()[already:].split("\n")[:-1]  # The last one may be half.
            lines = {
                one["path"]: one for one in map(json.loads, filter(lambda line: line[:1] == "{", logged))
            }
    assert lines[CHAT]["user"] == "service:ollamesh"
    assert lines[CHAT]["client"] == "ollamesh"
    assert {"organization", "project", "request_id"} <= lines[CHAT].keys()
    assert lines[CHAT]["trace_id"] == trace_id
    assert "user" not in lines[GET_FLEET], "nobody is named by a token that was not found good"
    assert watched.token not in stack.log.read_text()


async def test_calls_are_counted_by_method_and_only_ours_have_names(watched: Watched) -> None:
    stack = watched.world.stack
    watched.world.echo.reset()
    await stack.unary(CHAT)(b"hi", metadata=bearer(watched.token), timeout=TIMEOUT_S)
    with pytest.raises(grpc.aio.AioRpcError):
        await stack.unary("/evil.v1.Made/Up")(b"", timeout=TIMEOUT_S)
    async with stack.http.get(f"{stack.admin_url}/stats/prometheus?usedonly&filter=grpc") as answer:
        counted = await answer.text()
    (line,) = [
        one
        for one in counted.splitlines()
        if one.startswith("envoy_cluster_grpc_success{")
        and 'grpc_method="Chat"' in one
        and "InferenceService" in one
    ]
    assert 'grpc_service="ollamesh.inference.v1.InferenceService"' in line
    assert "evil" not in counted
