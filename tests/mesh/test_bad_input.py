"""Bad input through the edge: each gets its status and its reason, and nothing of the inside is told."""

import json
import math
import re
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from ollamesh.agent.v1.agent_service_pb2 import StartRunRequest, WatchRunRequest
from ollamesh.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from ollamesh.inference.v1.completion_pb2 import ChatRequest, Message, Options, Role
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from ollamesh.inference.v1.model_pb2 import DeleteModelRequest, ListModelsRequest
from ollamesh.sandbox.v1.execution_pb2 import ExecutionSpec
from ollamesh.sandbox.v1.sandbox_service_pb2 import ExecuteRequest
from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import SandboxServiceStub

from tests.mesh.edge import MODEL, Edge

# What an answer must never hold: paths, drivers, addresses, stacks.
INTERNALS = re.compile(
    r"/\w+/\w+|asyncpg|postgres|redis|127\.0\.0\.1|Traceback|\.py\b|Exception|grpc\.aio", re.IGNORECASE
)
UNARY = ListModelsRequest()


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, Status]:
    """Status, reason and details of a call that must fail, after a look for internals."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    error = caught.value
    assert not INTERNALS.search(error.details() or ""), error.details()
    trailing = dict(error.trailing_metadata() or ())
    status = Status.FromString(trailing.get("grpc-status-details-bin", b""))
    info = ErrorInfo()
    if status.details:
        status.details[0].Unpack(info)
    assert not INTERNALS.search(str(status)), status
    return error.code(), info.reason, status


def fields(status: Status) -> set[str]:
    bad = BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    return {violation.field for violation in bad.field_violations}


def chat(content: str = "hello", *, model: str = MODEL, temperature: float | None = None) -> ChatRequest:
    messages = [Message(role=Role.ROLE_USER, content=content)]
    return ChatRequest(model=model, messages=messages, options=Options(temperature=temperature))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("none", "TOKEN_INVALID"),
        ("garbage", "TOKEN_INVALID"),
        ("forged", "TOKEN_INVALID"),
        ("unsigned", "TOKEN_INVALID"),
        ("other audience", "TOKEN_INVALID"),
        ("expired", "TOKEN_EXPIRED"),
    ],
)
async def test_a_token_that_is_not_good(edge: Edge, kind: str, reason: str) -> None:
    async with edge.channel() as channel:
        call = InferenceServiceStub(channel).ListModels(
            UNARY, timeout=10, metadata=edge.hostile_metadata(kind)
        )
        code, got, _ = await refusal(call)
    assert (code, got) == (grpc.StatusCode.UNAUTHENTICATED, reason)


async def test_identity_headers_are_not_believed(edge: Edge) -> None:
    spoofed = (("x-role", "admin"), ("x-user-id", "admin"), ("x-forwarded-user", "admin"))
    async with edge.channel() as channel:
        call = InferenceServiceStub(channel).DeleteModel(
            DeleteModelRequest(model=MODEL), timeout=10, metadata=(*edge.metadata(role="user"), *spoofed)
        )
        assert (await refusal(call))[:2] == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")


async def test_an_unknown_model(edge: Edge) -> None:
    async with edge.channel() as channel:
        call = InferenceServiceStub(channel).Chat(chat(model="nope:1b"), timeout=10, metadata=edge.metadata())
        assert (await refusal(call))[:2] == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (chat(""), "messages[0]"),
        (chat("x" * 10_001), "messages[0].content"),
        (chat(model="../../etc/passwd"), "model"),
        (chat(temperature=1.5), "options.temperature"),
        (chat(temperature=-0.1), "options.temperature"),
        (chat(temperature=math.nan), "options.temperature"),
        (chat(temperature=math.inf), "options.temperature"),
        (ChatRequest(model=MODEL), "messages"),
    ],
    ids=["empty", "oversized", "path", "hot", "cold", "nan", "inf", "none"],
)
async def test_a_request_that_breaks_a_rule(edge: Edge, request_: ChatRequest, field: str) -> None:
    async with edge.channel() as channel:
        call = InferenceServiceStub(channel).Chat(request_, timeout=10, metadata=edge.metadata())
        code, reason, status = await refusal(call)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert field in fields(status)


async def test_text_that_is_not_utf8(edge: Edge) -> None:
    async with edge.channel() as channel:
        raw: Any = channel.unary_stream("/ollamesh.inference.v1.InferenceService/Chat")
        code, reason, _ = await refusal(raw(b"\x12\x02\xff\xff", timeout=10, metadata=edge.metadata()))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "thread_id", ["nope", "00000000-0000-4000-8000-000000000000", "'; drop table threads; --"]
)
async def test_an_unknown_thread(edge: Edge, thread_id: str) -> None:
    async with edge.channel() as channel:
        call = AgentServiceStub(channel).StartRun(
            StartRunRequest(thread_id=thread_id, input="hi"), timeout=10, metadata=edge.metadata()
        )
        assert (await refusal(call))[:2] == (grpc.StatusCode.NOT_FOUND, "THREAD_NOT_FOUND")


async def test_an_unknown_run(edge: Edge) -> None:
    async with edge.channel() as channel:
        call = AgentServiceStub(channel).WatchRun(
            WatchRunRequest(run_id="nope"), timeout=10, metadata=edge.metadata()
        )
        assert (await refusal(call))[:2] == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")


async def test_code_that_is_too_long(edge: Edge) -> None:
    spec = ExecutionSpec(code="#" * (1024 * 1024 + 1))
    async with edge.channel() as channel:
        call = SandboxServiceStub(channel).Execute(
            ExecuteRequest(spec=spec), timeout=10, metadata=edge.metadata()
        )
        code, reason, status = await refusal(call)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert fields(status) == {"spec.code"}


async def test_unknown_methods_and_paths_reach_nothing(edge: Edge) -> None:
    async with edge.channel() as channel:
        for path in ("/ollamesh.inference.v1.InferenceService/Nope", "/nope.Service/Nope"):
            method: Any = channel.unary_unary(path)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(b"", timeout=10, metadata=edge.metadata())
            assert caught.value.code() in {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED}
    status, body = await edge.get("/nope")
    assert status == 404
    assert not INTERNALS.search(body)


async def test_rest_callers_get_401_and_tokens_by_the_book(edge: Edge) -> None:
    status, body = await edge.post_form(
        "/oauth/token", {"grant_type": "password", "username": "admin", "password": "x"}
    )
    assert (status, json.loads(body)["error"]) == (400, "unsupported_grant_type")
    status, body = await edge.post_form(
        "/oauth/token",
        {"grant_type": "client_credentials", "client_id": "ollamesh", "client_secret": "wrong"},
    )
    assert (status, json.loads(body)["error"]) == (401, "invalid_client")
