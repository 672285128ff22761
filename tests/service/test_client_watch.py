"""A watched run is told once and whole, whatever becomes of the connection."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from ollamesh.agent.v1.agent_service_pb2 import (
    CreateThreadRequest,
    CreateThreadResponse,
    StartRunRequest,
    StartRunResponse,
    WatchRunRequest,
    WatchRunResponse,
)
from ollamesh.agent.v1.run_pb2 import RUN_STATUS_SUCCEEDED, Run, RunEvent
from ollamesh.agent.v1.thread_pb2 import Thread
from ollamesh.client import CallError, Client, Password, resuming, runs

from services.common.errors import Kind, MeshError
from tests.fakes.scripted_mesh import PASSWORD, USERNAME, ScriptedMesh, Unavailable
from tests.service.client_rig import impatient, mesh

__all__ = ["impatient", "mesh"]

LAST = 6


class RunNotFound(MeshError):
    kind, reason = Kind.MISSING, "RUN_NOT_FOUND"
    message = "there is no such run"


def events_after(sequence: int, last: int = LAST) -> list[WatchRunResponse]:
    """What a run of five words has to tell."""
    told = []
    for number in range(sequence + 1, last + 1):
        event = RunEvent(sequence=number)
        if number == LAST:
            event.finished.status = RUN_STATUS_SUCCEEDED
        else:
            event.delta.text = f"word{number} "
        told.append(WatchRunResponse(event=event))
    return told


class Watch:
    """Breaks after so many events, as `breaks` says, and then tells the rest."""

    def __init__(self, *breaks: tuple[int, Exception]) -> None:
        self.breaks = list(breaks)
        self.asked: list[int] = []

    async def __call__(self, request: WatchRunRequest, context: Any) -> AsyncIterator[WatchRunResponse]:
        self.asked.append(request.after_sequence)
        last, failure = self.breaks.pop(0) if self.breaks else (LAST, None)
        for response in events_after(request.after_sequence, last):
            yield response
        if isinstance(failure, MeshError):
            raise failure
        if failure is not None:
            await context.abort(grpc.StatusCode.INTERNAL, str(failure))


async def watched(mesh: ScriptedMesh, **options: Any) -> list[int]:
    async with Client(mesh.url, Password(USERNAME, PASSWORD)) as mesh_client:
        return [event.sequence async for event in mesh_client.watch("run-1", **options)]


async def test_a_run_is_watched_to_its_end(mesh: ScriptedMesh) -> None:
    mesh.streams["WatchRun"] = Watch()
    assert await watched(mesh) == [1, 2, 3, 4, 5, 6]


async def test_it_goes_on_where_the_connection_was_lost(mesh: ScriptedMesh) -> None:
    reset = Exception("Received RST_STREAM with error code 2")
    watch = mesh.streams["WatchRun"] = Watch((2, Unavailable()), (4, reset))
    assert await watched(mesh) == [1, 2, 3, 4, 5, 6]
    assert watch.asked == [0, 2, 4]


async def test_it_starts_where_it_is_told_to(mesh: ScriptedMesh) -> None:
    watch = mesh.streams["WatchRun"] = Watch((5, Unavailable()))
    assert await watched(mesh, after_sequence=4) == [5, 6]
    assert watch.asked == [4, 5]


async def test_it_survives_the_server() -> None:
    """Not a status but a socket that is gone: the server is stopped and another one started."""
    received: list[int] = []
    mesh = ScriptedMesh()
    mesh.streams["WatchRun"] = _hanging_after_3

    async def read() -> None:
        async with Client(mesh.url, Password(USERNAME, PASSWORD)) as mesh_client:
            async for event in mesh_client.watch("run-1"):
                received.append(event.sequence)  # noqa: PERF401 - Looked at while it grows.

    async with mesh.serving():
        reader = asyncio.create_task(read())
        async with asyncio.timeout(10):
            while len(received) < 3:
                await asyncio.sleep(0.005)
    mesh.streams["WatchRun"] = Watch()
    async with mesh.serving(mesh.port):
        await asyncio.wait_for(reader, 20)
    assert received == [1, 2, 3, 4, 5, 6]


async def _hanging_after_3(request: WatchRunRequest, context: object) -> AsyncIterator[WatchRunResponse]:
    for response in events_after(request.after_sequence, 3):
        yield response
    await asyncio.Event().wait()


@pytest.mark.usefixtures("impatient")
async def test_it_gives_up_in_the_end(mesh: ScriptedMesh) -> None:
    watch = mesh.streams["WatchRun"] = Watch(*[(0, Unavailable())] * 100)
    with pytest.raises(CallError, match="STORE_UNAVAILABLE"):
        await watched(mesh)
    assert len(watch.asked) == resuming.RECONNECTS_MAX + 1


@pytest.mark.usefixtures("impatient")
async def test_progress_restores_its_patience(mesh: ScriptedMesh) -> None:
    losses = [(last, Unavailable()) for last in (1, 2, 3, 4, 5) for _ in range(resuming.RECONNECTS_MAX - 1)]
    watch = mesh.streams["WatchRun"] = Watch(*losses)
    assert await watched(mesh) == [1, 2, 3, 4, 5, 6]
    assert len(watch.asked) == len(losses) + 1


async def test_other_failures_are_final(mesh: ScriptedMesh) -> None:
    watch = mesh.streams["WatchRun"] = Watch((1, RunNotFound()), (1, Exception("internal error")))
    for reason in ("RUN_NOT_FOUND", "INTERNAL"):
        with pytest.raises(CallError, match=reason):
            await watched(mesh)
    assert len(watch.asked) == 2


async def test_its_deadline_spans_all_connections(mesh: ScriptedMesh) -> None:
    mesh.streams["WatchRun"] = Watch(*[(0, Unavailable())] * 100)
    with pytest.raises(CallError, match="STORE_UNAVAILABLE"):
        await asyncio.wait_for(watched(mesh, deadline_s=0.3), 30)
    assert mesh.remaining_s["WatchRun"] <= 0.31


async def test_it_waits_as_long_as_the_service_asks_if_the_deadline_allows(mesh: ScriptedMesh) -> None:
    watch = mesh.streams["WatchRun"] = Watch((1, Unavailable(retry_after_s=60)))
    with pytest.raises(CallError, match="STORE_UNAVAILABLE"):
        await asyncio.wait_for(watched(mesh, deadline_s=59), 30)
    assert watch.asked == [0]


async def test_a_kind_that_is_newer_than_the_client_is_skipped_but_counts(mesh: ScriptedMesh) -> None:
    asked: list[int] = []

    async def answer(request: WatchRunRequest, context: object) -> AsyncIterator[WatchRunResponse]:
        asked.append(request.after_sequence)
        if request.after_sequence == 0:
            yield WatchRunResponse(event=RunEvent(sequence=1))
            raise Unavailable
        for response in events_after(request.after_sequence):
            yield response

    mesh.streams["WatchRun"] = answer
    assert await watched(mesh) == [2, 3, 4, 5, 6]
    assert asked == [0, 1]


async def test_a_run_is_started_once_and_told_to_its_end(mesh: ScriptedMesh) -> None:
    started: list[StartRunRequest] = []

    async def create(request: CreateThreadRequest, context: object) -> CreateThreadResponse:
        return CreateThreadResponse(thread=Thread(thread_id="thread-1"))

    async def start(request: StartRunRequest, context: object) -> StartRunResponse:
        started.append(request)
        if len(started) == 1:  # The reply is lost: the request_id makes the second try safe.
            raise Unavailable
        return StartRunResponse(run=Run(run_id="run-1", thread_id=request.thread_id))

    mesh.unary |= {"CreateThread": create, "StartRun": start}
    mesh.streams["WatchRun"] = Watch()
    config = runs.Config(
        model="tiny", tools=("run_python",), first_tool="run_python", seed=7, step_count_max=2
    )
    async with Client(mesh.url, Password(USERNAME, PASSWORD)) as mesh_client:
        events = [event async for event in mesh_client.run("count", config)]
    assert isinstance(events[-1], runs.Finished)
    assert events[-1].status == "succeeded"
    first, second = started
    assert first == second
    assert first.request_id
    assert (first.thread_id, first.input, first.config.model) == ("thread-1", "count", "tiny")
    assert (list(first.config.tools), first.config.first_tool) == (["run_python"], "run_python")
    assert (first.config.seed, first.config.limits.step_count) == (7, 2)
