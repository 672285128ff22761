"""The demo against a scripted mesh: when it succeeds, and that what it says to try next can be tried."""

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ollamesh.agent.v1.agent_service_pb2 import (
    CreateThreadResponse,
    StartRunRequest,
    StartRunResponse,
    WatchRunResponse,
)
from ollamesh.agent.v1.run_pb2 import RUN_STATUS_LIMITED, RUN_STATUS_SUCCEEDED, Run, RunEvent
from ollamesh.agent.v1.thread_pb2 import Thread, ToolCall
from ollamesh.inference.v1.completion_pb2 import ChatRequest, ChatResponse, CompletionEvent
from ollamesh.inference.v1.model_pb2 import CAPABILITY_COMPLETION, ListModelsResponse, Model

from clients.cli.choice import EMBEDDED_MODEL
from tests.fakes.command_line import Cli, answering, cli, home, mesh, streaming
from tests.fakes.scripted_mesh import ScriptedMesh

__all__ = ["cli", "home", "mesh"]

ROOT = Path(__file__).parents[2]


def told_run(
    *, status: Any = RUN_STATUS_SUCCEEDED, answer: str = "5050", tool: bool = True, failed: bool = False
) -> list[WatchRunResponse]:
    call = ToolCall(tool_call_id="c1", tool_name="run_python", arguments_json='{"code": "print(5050)"}')
    returned = RunEvent.ToolReturned(tool_call_id="c1", content="5050\n", failed=failed)
    events = [
        RunEvent(started=RunEvent.Started(model="m")),
        RunEvent(step_started=RunEvent.StepStarted(step=1)),
        *(
            [RunEvent(tool_called=RunEvent.ToolCalled(call=call)), RunEvent(tool_returned=returned)]
            if tool
            else []
        ),
        RunEvent(step_finished=RunEvent.StepFinished(step=1)),
        RunEvent(finished=RunEvent.Finished(status=status, answer=answer)),
    ]
    for sequence, event in enumerate(events, start=1):
        event.sequence = sequence
    return [WatchRunResponse(event=event) for event in events]


@pytest.fixture
def started(mesh: ScriptedMesh) -> list[StartRunRequest]:
    """What the demo's run was asked for."""
    received: list[StartRunRequest] = []

    async def start(request: StartRunRequest, context: object) -> StartRunResponse:
        received.append(request)
        return StartRunResponse(run=Run(run_id="run-1", config=request.config))

    mesh.unary["CreateThread"] = answering(CreateThreadResponse(thread=Thread(thread_id="thread-1")))
    mesh.unary["StartRun"] = start
    mesh.streams["WatchRun"] = streaming(*told_run())
    return received


def test_it_tells_the_story_in_order(cli: Cli, started: list[StartRunRequest]) -> None:
    result = cli("demo")
    assert result.exit_code == 0
    places = [
        result.stdout.index(word)
        for word in (
            "login",
            "model   llama3.2:3b",
            "thread-1",
            "task",
            "run-1",
            "run_python",
            "5050",
            "first token",
        )
    ]
    assert places == sorted(places)
    assert "\x1b" not in result.stdout


def test_a_capable_model_is_not_led(cli: Cli, started: list[StartRunRequest]) -> None:
    cli("demo")
    assert (started[0].config.model, started[0].config.first_tool) == ("llama3.2:3b", "")


def test_the_embedded_model_is_led_and_this_is_said(
    cli: Cli, mesh: ScriptedMesh, started: list[StartRunRequest]
) -> None:
    mesh.unary["ListModels"] = answering(
        ListModelsResponse(models=[Model(name=EMBEDDED_MODEL, capabilities=[CAPABILITY_COMPLETION])])
    )
    assert "told to call the tool first" in cli("demo").stdout
    assert started[0].config.first_tool == "run_python"
    assert started[0].config.HasField("seed")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ({"tool": False}, "without having run a tool"),
        ({"failed": True}, "without having run a tool"),
        ({"answer": " "}, "without an answer"),
        ({"status": RUN_STATUS_LIMITED}, "ended as limited"),
    ],
)
def test_it_fails_unless_an_answer_came_and_the_tool_ran(
    cli: Cli, mesh: ScriptedMesh, started: list[StartRunRequest], script: dict[str, Any], said: str
) -> None:
    mesh.streams["WatchRun"] = streaming(*told_run(**script))
    result = cli("demo")
    assert result.exit_code == 1
    assert said in result.stderr
    assert "Try next" not in result.stdout


async def _hello(request: ChatRequest, context: object) -> AsyncIterator[ChatResponse]:
    assert request.model == "llama3.2:3b"
    assert request.messages[0].content
    event = CompletionEvent(sequence=1, delta=CompletionEvent.Delta(text="Hello, hallo, salut."))
    yield ChatResponse(event=event)


def test_the_snippet_works_as_it_is_printed(
    cli: Cli, mesh: ScriptedMesh, started: list[StartRunRequest]
) -> None:
    mesh.streams["Chat"] = _hello
    shown = cli("demo").stdout
    snippet = shown[shown.index("TOKEN=$(") :]
    done = subprocess.run(
        ["bash", "-c", snippet], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("Hello, hallo, salut.", "", 0)
