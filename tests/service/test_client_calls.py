"""What holds for every call of the client: errors, deadlines, retries, cancellation."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
import pytest
from ollamesh.client import CallError, Client, Password, Violation, chats, executions
from ollamesh.inference.v1.completion_pb2 import ChatResponse, CompletionEvent
from ollamesh.inference.v1.fleet_pb2 import Fleet, GetFleetResponse, Instance
from ollamesh.inference.v1.inference_service_pb2 import Embedding, EmbedRequest, EmbedResponse
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from ollamesh.inference.v1.model_pb2 import (
    DeleteModelRequest,
    GetModelRequest,
    ListModelsRequest,
    ListModelsResponse,
    Model,
)
from ollamesh.sandbox.v1.execution_pb2 import ExecutionEvent
from ollamesh.sandbox.v1.sandbox_service_pb2 import ExecuteRequest, ExecuteResponse

from services.common.errors import Kind, MeshError
from tests.fakes.scripted_mesh import PASSWORD, USERNAME, ScriptedMesh, Unavailable
from tests.service.client_rig import client, mesh

__all__ = ["client", "mesh"]


class QueueFull(MeshError):
    kind, reason = Kind.EXHAUSTED, "QUEUE_FULL"
    message = "every waiting place is taken"
    retry_after_s = 1.5


def failing(*failures: MeshError, then: Any = None) -> Any:
    left = list(failures)

    async def answer(request: object, context: object) -> Any:
        if left:
            raise left.pop(0)
        return then

    return answer


async def endless(request: object, context: object) -> AsyncIterator[ChatResponse]:
    sequence = 0
    while True:
        sequence += 1
        delta = CompletionEvent.Delta(text="x", token_count=1)
        yield ChatResponse(event=CompletionEvent(sequence=sequence, delta=delta))
        await asyncio.sleep(0.001)


async def caught(work: Any) -> CallError:
    with pytest.raises(CallError) as raised:
        await work
    return raised.value


async def drained(stream: AsyncIterator[object]) -> list[object]:
    return [event async for event in stream]


# ---- Errors ----------------------------------------------------------------------------------------


async def test_a_refusal_carries_all_that_the_service_said(mesh: ScriptedMesh, client: Client) -> None:
    mesh.unary["GetFleet"] = failing(QueueFull(waiting_max=3))
    error = await caught(client.fleet())
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (error.reason, error.domain, error.message) == (
        "QUEUE_FULL",
        "inference.ollamesh",
        "every waiting place is taken",
    )
    assert (error.metadata, error.retry_after_s, error.violations) == ({"waiting_max": "3"}, 1.5, ())


async def test_a_bad_request_names_every_broken_rule(client: Client) -> None:
    error = await caught(drained(client.chat("../etc", [], options=chats.Options(temperature=float("nan")))))
    assert error.reason == "INVALID_REQUEST"
    assert {violation.field for violation in error.violations} == {
        "model",
        "messages",
        "options.temperature",
    }
    assert Violation("messages", "must contain at least 1 item(s)", "repeated.min_items") in error.violations


async def test_a_stream_fails_as_a_unary_call_does(mesh: ScriptedMesh, client: Client) -> None:
    async def dies(request: object, context: object) -> AsyncIterator[ChatResponse]:
        yield ChatResponse(event=CompletionEvent(sequence=1, delta=CompletionEvent.Delta(text="half")))
        raise QueueFull

    mesh.streams["Chat"] = dies
    async with aclosing(client.chat("tiny", "hi")) as events:
        assert isinstance(await anext(events), chats.Delta)
        assert (await caught(anext(events))).reason == "QUEUE_FULL"


async def test_a_method_that_is_not_served_says_so(client: Client) -> None:
    stub = client.stub(InferenceServiceStub)
    error = await caught(client.call(stub.GetModel, GetModelRequest(model="tiny")))
    assert (error.code, error.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")


async def test_a_mesh_that_is_down_is_unreachable() -> None:
    async with ScriptedMesh().serving() as mesh:
        url = mesh.url
    async with Client(url, Password(USERNAME, PASSWORD)) as client:
        error = await caught(client.fleet())
    assert error.is_unreachable
    assert error.code is grpc.StatusCode.UNAVAILABLE


async def test_details_that_are_not_ours_do_no_harm(mesh: ScriptedMesh, client: Client) -> None:
    async def aborts(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        details = (("grpc-status-details-bin", b"\xff\xff"),)
        await context.abort(grpc.StatusCode.ABORTED, "no", details)

    mesh.unary["GetFleet"] = aborts
    error = await caught(client.fleet())
    assert (error.code, error.message, error.reason) == (grpc.StatusCode.ABORTED, "no", "")


# ---- Deadlines -------------------------------------------------------------------------------------


@pytest.mark.timed
async def test_every_call_has_a_deadline(mesh: ScriptedMesh, client: Client) -> None:
    mesh.unary["GetFleet"] = failing(then=GetFleetResponse())
    mesh.unary["Embed"] = failing(then=EmbedResponse())
    mesh.streams["Chat"] = endless
    stub = client.stub(InferenceServiceStub)
    await client.fleet()
    await client.call(stub.Embed, EmbedRequest(model="tiny", input=["x"]), deadline_s=7)
    async with aclosing(client.chat("tiny", "hi")) as events:
        await anext(events)
    # gRPC rounds a deadline up on its way, by a hundredth at most.
    assert 0 < mesh.remaining_s["Login"] <= 10.1
    assert 11 < mesh.remaining_s["GetFleet"] <= 30.3
    assert 0 < mesh.remaining_s["Embed"] <= 7.1
    assert 100 < mesh.remaining_s["Chat"] <= 303


@pytest.mark.timed
async def test_the_deadline_of_a_client_is_its_makers_choice(mesh: ScriptedMesh) -> None:
    mesh.unary["GetFleet"] = failing(then=GetFleetResponse())
    async with Client(mesh.url, Password(USERNAME, PASSWORD), deadline_s=5) as client:
        await client.fleet()
    assert 0 < mesh.remaining_s["GetFleet"] <= 5.1


async def test_a_stream_ends_at_its_deadline(mesh: ScriptedMesh, client: Client) -> None:
    mesh.streams["Chat"] = endless
    error = await caught(drained(client.chat("tiny", "hi", deadline_s=0.3)))
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(mesh.left.wait(), 30)


async def test_the_login_counts(mesh: ScriptedMesh) -> None:
    mesh.login_delay_s = 60
    async with Client(mesh.url, Password(USERNAME, PASSWORD), deadline_s=0.2) as client:
        error = await caught(client.fleet())
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED


# ---- Retries ---------------------------------------------------------------------------------------


async def test_reading_is_tried_again_while_the_service_is_unavailable(
    mesh: ScriptedMesh, client: Client
) -> None:
    mesh.unary["GetFleet"] = failing(Unavailable(), Unavailable(), then=GetFleetResponse())
    await client.fleet()
    assert mesh.calls.count("GetFleet") == 3


async def test_retries_end(mesh: ScriptedMesh, client: Client) -> None:
    mesh.unary["GetFleet"] = failing(*(Unavailable() for _ in range(100)))
    error = await caught(client.fleet())
    assert error.reason == "STORE_UNAVAILABLE"
    assert mesh.calls.count("GetFleet") == 4


async def test_nothing_else_is_tried_again(mesh: ScriptedMesh, client: Client) -> None:
    async def unavailable(request: object, context: object) -> AsyncIterator[ChatResponse]:
        for failure in [Unavailable()]:
            raise failure
        yield ChatResponse()

    mesh.unary["GetFleet"] = failing(QueueFull())
    mesh.streams["Chat"] = unavailable
    mesh.unary["DeleteModel"] = failing(Unavailable())
    await caught(client.fleet())
    await caught(drained(client.chat("tiny", "hi")))
    delete = client.stub(InferenceServiceStub).DeleteModel
    await caught(client.call(delete, DeleteModelRequest(model="tiny")))
    assert mesh.calls == ["Login", "GetFleet", "Chat", "DeleteModel"]


# ---- Leaving a stream ------------------------------------------------------------------------------


async def test_breaking_out_cancels_the_call(mesh: ScriptedMesh, client: Client) -> None:
    mesh.streams["Chat"] = endless
    async for event in client.chat("tiny", "hi"):
        if event.sequence == 3:
            break
    await asyncio.wait_for(mesh.left.wait(), 30)


async def test_an_exception_in_the_loop_cancels_the_call(mesh: ScriptedMesh, client: Client) -> None:
    mesh.streams["Chat"] = endless

    async def read() -> None:
        async for _ in client.chat("tiny", "hi"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await read()
    await asyncio.wait_for(mesh.left.wait(), 30)


async def test_a_cancelled_task_cancels_its_call(mesh: ScriptedMesh, client: Client) -> None:
    mesh.streams["Chat"] = endless
    arrived = asyncio.Event()

    async def read() -> None:
        async for _ in client.chat("tiny", "hi"):
            arrived.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(arrived.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(mesh.left.wait(), 30)


async def test_closing_the_client_cancels_what_runs(mesh: ScriptedMesh) -> None:
    mesh.streams["Chat"] = endless
    async with Client(mesh.url, Password(USERNAME, PASSWORD)) as client:
        events = client.chat("tiny", "hi")
        await anext(events)
    await asyncio.wait_for(mesh.left.wait(), 30)
    await events.aclose()


# ---- The methods -----------------------------------------------------------------------------------


async def test_models_are_listed_page_by_page(mesh: ScriptedMesh, client: Client) -> None:
    pages = {"": (["a", "b"], "2"), "2": (["c"], "")}

    async def answer(request: ListModelsRequest, context: object) -> ListModelsResponse:
        names, following = pages[request.page_token]
        return ListModelsResponse(models=[Model(name=name) for name in names], next_page_token=following)

    mesh.unary["ListModels"] = answer
    assert [model.name for model in await client.models()] == ["a", "b", "c"]


async def test_texts_become_vectors_in_their_order(mesh: ScriptedMesh, client: Client) -> None:
    async def answer(request: EmbedRequest, context: object) -> EmbedResponse:
        return EmbedResponse(embeddings=[Embedding(values=[len(text), 0.5]) for text in request.input])

    mesh.unary["Embed"] = answer
    assert await client.embed("minilm", ["a", "bcd"]) == [[1.0, 0.5], [3.0, 0.5]]


async def test_the_fleet_is_shown(mesh: ScriptedMesh, client: Client) -> None:
    mesh.unary["GetFleet"] = failing(then=GetFleetResponse(fleet=Fleet(instances=[Instance(name="one")])))
    assert [(each.name, each.state) for each in (await client.fleet()).instances] == [("one", "unknown")]


async def test_code_runs_with_its_input_and_limits(mesh: ScriptedMesh, client: Client) -> None:
    received: list[ExecuteRequest] = []

    async def answer(request: ExecuteRequest, context: object) -> AsyncIterator[ExecuteResponse]:
        received.append(request)
        event = ExecutionEvent(sequence=1, stdout=ExecutionEvent.Output(offset=0, data=b"\xc3\xa9"))
        yield ExecuteResponse(event=event)

    mesh.streams["Execute"] = answer
    limits = executions.Limits(wall_s=2.5, memory_bytes=1 << 20)
    events = await drained(client.execute("print('é')", stdin=b"in", limits=limits))
    assert events == [executions.Stdout(sequence=1, offset=0, data=b"\xc3\xa9")]
    spec = received[0].spec
    assert (spec.code, spec.stdin, spec.limits.memory_bytes) == ("print('é')", b"in", 1 << 20)
    assert spec.limits.wall.ToMilliseconds() == 2500


def test_a_client_belongs_to_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        Client("http://127.0.0.1:1", Password(USERNAME, PASSWORD))
