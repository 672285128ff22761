"""Chats and runs on the command line: what is asked, what is shown, and the exit code."""

import re
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import pytest
from ollamesh.agent.v1.agent_service_pb2 import (
    CreateThreadResponse,
    StartRunRequest,
    StartRunResponse,
    WatchRunRequest,
    WatchRunResponse,
)
from ollamesh.agent.v1.error_reason_pb2 import ErrorReason
from ollamesh.agent.v1.run_pb2 import (
    OUTPUT_CHANNEL_STDOUT,
    RUN_STATUS_FAILED,
    RUN_STATUS_SUCCEEDED,
    Run,
    RunEvent,
)
from ollamesh.agent.v1.thread_pb2 import Thread, ToolCall
from ollamesh.inference.v1.completion_pb2 import (
    FINISH_REASON_STOP,
    ChatRequest,
    ChatResponse,
    CompletionEvent,
)
from ollamesh.inference.v1.model_pb2 import ListModelsResponse

from tests.fakes.command_line import Cli, answering, cli, home, json_lines, mesh, streaming
from tests.fakes.scripted_mesh import ScriptedMesh

__all__ = ["cli", "home", "mesh"]


# ---- Chat ------------------------------------------------------------------------------------------


def completion(*texts: str) -> list[ChatResponse]:
    events = [CompletionEvent(delta=CompletionEvent.Delta(text=text, token_count=1)) for text in texts]
    finished = CompletionEvent(finished=CompletionEvent.Finished(reason=FINISH_REASON_STOP))
    finished.finished.usage.output_token_count = 20
    finished.finished.timings.output.FromMilliseconds(500)
    return [ChatResponse(event=event) for event in (*events, finished)]


def test_a_piped_question_is_answered(cli: Cli, mesh: ScriptedMesh) -> None:
    asked: list[ChatRequest] = []

    async def answer(request: ChatRequest, context: object) -> AsyncIterator[ChatResponse]:
        asked.append(request)
        for response in completion("It ", "scatters.\n", "So it is."):
            yield response

    mesh.streams["Chat"] = answer
    result = cli("chat", "--system", "Be brief.", stdin="Why is\nthe sky blue?\n")
    assert (result.exit_code, result.stdout) == (0, "It scatters.\nSo it is.\n")
    assert result.stderr.startswith("20 tokens · 40.0 tokens/s · first token ")
    (request,) = asked
    assert request.model == "llama3.2:3b"
    assert [message.content for message in request.messages] == ["Be brief.", "Why is\nthe sky blue?"]


def test_no_question_needs_no_answer(cli: Cli, mesh: ScriptedMesh) -> None:
    assert cli("chat", stdin=" \n").exit_code == 0
    assert "Chat" not in mesh.calls


def test_a_mesh_without_a_model_says_so(cli: Cli, mesh: ScriptedMesh) -> None:
    mesh.unary["ListModels"] = answering(ListModelsResponse())
    result = cli("chat", stdin="hello")
    assert result.exit_code == 1
    assert "no model that can talk" in result.stderr


# ---- Runs ------------------------------------------------------------------------------------------


def told_run(status: Any = RUN_STATUS_SUCCEEDED, answer: str = "It is 42.") -> list[WatchRunResponse]:
    call = ToolCall(tool_call_id="c1", tool_name="run_python", arguments_json='{"code": "print(6 * 7)\\n"}')
    finished = RunEvent.Finished(status=status, answer=answer)
    finished.usage.tool_call_count = 1
    if status == RUN_STATUS_FAILED:
        finished.failure_reason = ErrorReason.ERROR_REASON_MODEL_FAILED
        finished.failure_message = "the model is gone"
    events = [
        RunEvent(started=RunEvent.Started(model="llama3.2:3b")),
        RunEvent(step_started=RunEvent.StepStarted(step=1)),
        RunEvent(delta=RunEvent.Delta(text="Let me compute.")),
        RunEvent(tool_called=RunEvent.ToolCalled(call=call)),
        RunEvent(
            tool_output=RunEvent.ToolOutput(tool_call_id="c1", channel=OUTPUT_CHANNEL_STDOUT, text="42\n")
        ),
        RunEvent(tool_returned=RunEvent.ToolReturned(tool_call_id="c1", content="42\n")),
        RunEvent(step_finished=RunEvent.StepFinished(step=1)),
        RunEvent(finished=finished),
    ]
    for sequence, event in enumerate(events, start=1):
        event.sequence = sequence
    return [WatchRunResponse(event=event) for event in events]


@pytest.fixture
def started(mesh: ScriptedMesh) -> list[StartRunRequest]:
    """What the runs of a test were asked for."""
    received: list[StartRunRequest] = []

    async def start(request: StartRunRequest, context: object) -> StartRunResponse:
        received.append(request)
        return StartRunResponse(run=Run(run_id="run-1", thread_id="thread-1", config=request.config))

    mesh.unary["CreateThread"] = answering(CreateThreadResponse(thread=Thread(thread_id="thread-1")))
    mesh.unary["StartRun"] = start
    mesh.streams["WatchRun"] = streaming(*told_run())
    return received


def test_a_run_is_shown_as_it_happens(cli: Cli, started: list[StartRunRequest]) -> None:
    result = cli("run", "What is 6 * 7?")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "run run-1",
        "thread thread-1",
        "model",
        "Let me compute.",
        "run_python",
        "│ print(6 * 7)",
        "output",
        "│ 42",
        "returned after 0.00 s",
        "answer",
        "It is 42.",
        "",
        mock.ANY,
    ]
    figures = r"succeeded · 1 tool call · 0 \+ 0 tokens · first token \d.\d\d s · total \d.\d\d s"
    assert re.fullmatch(figures, result.stdout.splitlines()[-1])
    (request,) = started
    assert (request.input, request.config.model) == ("What is 6 * 7?", "llama3.2:3b")
    assert (list(request.config.tools), request.config.first_tool) == (["run_python"], "")


def test_an_answer_that_was_just_written_is_not_repeated(
    cli: Cli, mesh: ScriptedMesh, started: list[StartRunRequest]
) -> None:
    mesh.streams["WatchRun"] = streaming(*told_run(answer="Let me compute."))
    assert cli("run", "x").stdout.count("Let me compute.") == 1


def test_a_run_is_told_to_a_script(cli: Cli, started: list[StartRunRequest]) -> None:
    lines = json_lines(cli("run", "x", "--json"))
    assert lines[0] == {
        "event": "accepted",
        "run_id": "run-1",
        "thread_id": "thread-1",
        "model": "llama3.2:3b",
    }
    assert [line["event"] for line in lines[1:]] == [
        "started",
        "step_started",
        "delta",
        "tool_called",
        "tool_output",
        "tool_returned",
        "step_finished",
        "finished",
    ]
    assert [line["sequence"] for line in lines[1:]] == list(range(1, 9))
    assert (lines[-1]["status"], lines[-1]["answer"]) == ("succeeded", "It is 42.")


def test_a_run_is_watched_again(cli: Cli, mesh: ScriptedMesh) -> None:
    async def watch(request: WatchRunRequest, context: object) -> AsyncIterator[WatchRunResponse]:
        assert request.run_id == "run-7"
        for response in told_run():
            yield response

    mesh.streams["WatchRun"] = watch
    result = cli("run", "--watch", "run-7")
    assert result.exit_code == 0
    assert "It is 42." in result.stdout
    assert "StartRun" not in mesh.calls


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_failed_run_fails_the_command(
    cli: Cli, mesh: ScriptedMesh, started: list[StartRunRequest], form: list[str]
) -> None:
    mesh.streams["WatchRun"] = streaming(*told_run(RUN_STATUS_FAILED, answer=""))
    result = cli("run", "x", *form)
    assert result.exit_code == 1
    assert result.stderr == "ollamesh: the run ended as failed: the model is gone (MODEL_FAILED)\n"
