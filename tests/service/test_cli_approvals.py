"""Calls that wait for a person, on the command line and on a real terminal."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ollamesh.agent.v1.agent_service_pb2 import (
    CancelRunResponse,
    CreateThreadResponse,
    GetRunRequest,
    GetRunResponse,
    StartRunRequest,
    StartRunResponse,
    SubmitApprovalRequest,
    SubmitApprovalResponse,
    WatchRunRequest,
    WatchRunResponse,
)
from ollamesh.agent.v1.run_pb2 import (
    APPROVAL_DECISION_APPROVED,
    APPROVAL_DECISION_EDITED,
    APPROVAL_DECISION_REJECTED,
    RUN_STATUS_CANCELLED,
    RUN_STATUS_INTERRUPTED,
    RUN_STATUS_RUNNING,
    RUN_STATUS_SUCCEEDED,
    Run,
    RunEvent,
)
from ollamesh.agent.v1.thread_pb2 import Thread, ToolCall

from services.agent.errors import ApprovalNotFound
from services.common.errors import InvalidRequest, Violation
from tests.fakes.command_line import Cli, answering, cli, home, json_lines, mesh
from tests.fakes.scripted_mesh import ScriptedMesh
from tests.service.test_cli_terminal import CTRL_C, CTRL_D, on_a_terminal

__all__ = ["cli", "home", "mesh"]

HASH = bytes(range(32))
ARGUMENTS = '{"to": "eve@example.com", "text": "hello"}'


class Asking:
    """A run that asks about one call, and goes on once that is decided. Sends what follows a sequence."""

    def __init__(self, mesh: ScriptedMesh, *, refusals: list[Exception] | None = None) -> None:
        self.submitted: list[SubmitApprovalRequest] = []
        self.started: list[StartRunRequest] = []
        self.watched_after: list[int] = []
        self._refusals = refusals or []
        self._events = [
            RunEvent(started=RunEvent.Started(model="llama3.2:3b")),
            RunEvent(step_started=RunEvent.StepStarted(step=1)),
            RunEvent(tool_called=RunEvent.ToolCalled(call=_call("c1"))),
            RunEvent(approval_requested=_question("q1", "c1")),
        ]
        self._news = asyncio.Event()
        mesh.unary["CreateThread"] = answering(CreateThreadResponse(thread=Thread(thread_id="thread-1")))
        mesh.unary["StartRun"] = self.start
        mesh.unary["GetRun"] = self.get
        mesh.unary["SubmitApproval"] = self.submit
        mesh.streams["WatchRun"] = self.watch

    async def start(self, request: StartRunRequest, context: object) -> StartRunResponse:
        self.started.append(request)
        return StartRunResponse(run=Run(run_id="run-1", thread_id=request.thread_id, config=request.config))

    async def get(self, request: GetRunRequest, context: object) -> GetRunResponse:
        run = Run(run_id=request.run_id, status=RUN_STATUS_RUNNING, last_sequence=len(self._events))
        if not self.submitted:
            run.status = RUN_STATUS_INTERRUPTED
            run.pending_approvals.add().CopyFrom(_question("q1", "c1"))
        return GetRunResponse(run=run)

    async def watch(self, request: WatchRunRequest, context: object) -> AsyncIterator[WatchRunResponse]:
        self.watched_after.append(request.after_sequence)
        told = request.after_sequence
        while True:
            for event in self._events[told:]:
                told += 1
                event.sequence = told
                yield WatchRunResponse(event=event)
                if event.HasField("finished"):
                    return
            self._news.clear()
            await self._news.wait()

    async def submit(self, request: SubmitApprovalRequest, context: object) -> SubmitApprovalResponse:
        if self._refusals:
            raise self._refusals.pop(0)
        self.submitted.append(request)
        decision: Any = {
            "approve": APPROVAL_DECISION_APPROVED,
            "edit": APPROVAL_DECISION_EDITED,
            "reject": APPROVAL_DECISION_REJECTED,
        }[request.WhichOneof("decision") or ""]
        resolved = RunEvent.ApprovalResolved(
            approval_id="q1", decision=decision, user_id="ann", arguments_json=request.edit.arguments_json
        )
        self._events.append(RunEvent(approval_resolved=resolved))
        self.go_on()
        return SubmitApprovalResponse(run=Run(run_id="run-1", status=RUN_STATUS_RUNNING))

    def go_on(self) -> None:
        """The call returns, and the run ends."""
        self._events += [
            RunEvent(tool_returned=RunEvent.ToolReturned(tool_call_id="c1", content="sent")),
            RunEvent(step_finished=RunEvent.StepFinished(step=1)),
            RunEvent(finished=RunEvent.Finished(status=RUN_STATUS_SUCCEEDED, answer="All done.")),
        ]
        self._news.set()


def _call(call_id: str) -> ToolCall:
    return ToolCall(tool_call_id=call_id, tool_name="mail", arguments_json=ARGUMENTS)


def _question(approval_id: str, call_id: str) -> RunEvent.ApprovalRequested:
    question = RunEvent.ApprovalRequested(
        approval_id=approval_id, tool_call_id=call_id, call_hash=HASH, reason="the model has read a page"
    )
    question.expire_time.FromSeconds(1_900_000_000)
    return question


# ---- On a terminal ---------------------------------------------------------------------------------


@pytest.fixture
async def near() -> AsyncIterator[ScriptedMesh]:
    async with ScriptedMesh().serving() as mesh:
        yield mesh


ASKED = "mail? [a]pprove, [e]dit, [r]eject, decide [l]ater: "


async def test_a_person_approves(near: ScriptedMesh, tmp_path: Path) -> None:
    asking = Asking(near)
    async with on_a_terminal(near, tmp_path, "run", "--model", "tiny", "Mail her") as terminal:
        await terminal.until(ASKED)
        assert "eve@example.com" in terminal.shown
        assert "the model has read a page" in terminal.shown
        terminal.press(b"\n")
        await terminal.until(ASKED, times=2)  # What is no answer is none.
        terminal.press(b"a\n")
        assert await terminal.end() == 0
    assert "All done." in terminal.shown
    assert "yes, by ann" in terminal.shown
    [request] = asking.submitted
    assert (request.run_id, request.approval_id, request.call_hash) == ("run-1", "q1", HASH)
    assert request.HasField("approve")


async def test_a_person_rejects_and_says_why(near: ScriptedMesh, tmp_path: Path) -> None:
    asking = Asking(near)
    async with on_a_terminal(near, tmp_path, "run", "--model", "tiny", "Mail her") as terminal:
        await terminal.until(ASKED)
        terminal.press(b"r\n")
        await terminal.until("say nothing: ")
        terminal.press("she is no friend, I fear ü\n".encode())
        assert await terminal.end() == 0
    assert asking.submitted[0].reject.reason == "she is no friend, I fear ü"
    assert "no, by ann" in terminal.shown


async def test_a_person_edits_the_call_in_their_editor(
    near: ScriptedMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Asking(near, refusals=[InvalidRequest([Violation("edit.arguments_json", "who is carl?")])])
    count = tmp_path / "count"
    edits = ["{", '{"to": "carl"}', '{"to": "bob"}']
    lines = [f"{place}) printf '%s' '{text}' > \"$1\";;" for place, text in enumerate(edits)]
    editor = tmp_path / "editor.sh"
    editor.write_text(
        f"n=$(cat {count} 2>/dev/null || echo 0)\necho $((n + 1)) > {count}\ncase $n in {' '.join(lines)} esac\n"
    )
    monkeypatch.setenv("EDITOR", f"sh {editor}")
    (tmp_path / "home").mkdir()
    async with on_a_terminal(near, tmp_path / "home", "run", "--model", "tiny", "Mail her") as terminal:
        for times, complaint in enumerate(["no JSON object", "who is carl?"], 1):
            await terminal.until(ASKED, times=times)
            terminal.press(b"e\n")
            await terminal.until(complaint)
        await terminal.until(ASKED, times=3)
        terminal.press(b"e\n")
        assert await terminal.end() == 0
    assert asking.submitted[0].edit.arguments_json == '{"to": "bob"}'


@pytest.mark.parametrize("keys", [b"l\n", CTRL_D])
async def test_a_person_decides_later_and_leaves(near: ScriptedMesh, tmp_path: Path, keys: bytes) -> None:
    asking = Asking(near)
    async with on_a_terminal(near, tmp_path, "run", "--model", "tiny", "Mail her") as terminal:
        await terminal.until(ASKED)
        terminal.press(keys)
        await terminal.until("ollamesh approvals approve run-1 q1")
        terminal.press(CTRL_C)
        assert await terminal.end() == 1
    assert "ollamesh run --resume run-1 --after 4" in " ".join(terminal.shown.split())
    assert not asking.submitted


async def test_ctrl_c_at_the_question_decides_nothing(near: ScriptedMesh, tmp_path: Path) -> None:
    asking = Asking(near)
    async with on_a_terminal(near, tmp_path, "run", "--model", "tiny", "Mail her") as terminal:
        await terminal.until(ASKED)
        terminal.press(CTRL_C)
        assert await terminal.end() == 1
    assert "the run goes on" in terminal.shown
    assert not asking.submitted


async def test_a_question_that_was_decided_meanwhile_ends_no_command(
    near: ScriptedMesh, tmp_path: Path
) -> None:
    asking = Asking(near, refusals=[ApprovalNotFound()])
    async with on_a_terminal(near, tmp_path, "run", "--model", "tiny", "Mail her") as terminal:
        await terminal.until(ASKED)
        terminal.press(b"a\n")
        await terminal.until("APPROVAL_NOT_FOUND")
        asking.go_on()
        assert await terminal.end() == 0


async def test_a_run_that_is_come_back_to_asks_what_is_open_and_no_more(
    near: ScriptedMesh, tmp_path: Path
) -> None:
    asking = Asking(near)
    (tmp_path / "one").mkdir()
    async with on_a_terminal(near, tmp_path / "one", "run", "--resume", "run-1") as terminal:
        await terminal.until(ASKED)
        terminal.press(b"a\n")
        assert await terminal.end() == 0
    (tmp_path / "two").mkdir()
    async with on_a_terminal(near, tmp_path / "two", "run", "--resume", "run-1") as terminal:
        assert await terminal.end() == 0
    assert "mail?" not in terminal.shown
    assert "All done." in terminal.shown
    assert len(asking.submitted) == 1


async def test_what_comes_before_is_not_shown_again(near: ScriptedMesh, tmp_path: Path) -> None:
    asking = Asking(near)
    asking.go_on()
    arguments = ("run", "--resume", "run-1", "--after", "4")
    async with on_a_terminal(near, tmp_path, *arguments) as terminal:
        assert await terminal.end() == 0
    assert asking.watched_after == [4]
    assert "eve@example.com" not in terminal.shown


# ---- By commands -----------------------------------------------------------------------------------


@pytest.fixture
def asking(mesh: ScriptedMesh) -> Asking:
    return Asking(mesh)


def test_what_a_run_waits_for_is_listed(cli: Cli, asking: Asking) -> None:
    result = cli("approvals", "ls", "run-1")
    assert (result.exit_code, result.stdout.splitlines()[:3]) == (
        0,
        ["mail", f"│ {ARGUMENTS}", "the model has read a page"],
    )
    [told] = json.loads(cli("approvals", "ls", "run-1", "--json").stdout)
    assert (told["approval_id"], told["call_hash"], told["tool_name"]) == ("q1", HASH.hex(), "mail")
    assert told["arguments_json"] == ARGUMENTS


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["approve", "run-1"], "approve"),
        (["approve", "run-1", "q1", "--hash", HASH.hex()], "approve"),
        (["approve", "run-1", "q1", "--arguments", '{"to": "bob"}'], "edit"),
        (["reject", "run-1", "--reason", "no"], "reject"),
    ],
)
def test_a_call_is_decided_by_a_command(cli: Cli, asking: Asking, arguments: list[str], kind: str) -> None:
    result = cli("approvals", *arguments)
    assert result.exit_code == 0, result.output
    [request] = asking.submitted
    assert request.WhichOneof("decision") == kind
    assert request.call_hash == HASH
    assert "ollamesh run --resume run-1" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["q2"], "no such decision"),
        (["q1", "--hash", "00"], "another call"),
    ],
)
def test_another_call_is_not_decided_in_its_place(
    cli: Cli, asking: Asking, arguments: list[str], complaint: str
) -> None:
    result = cli("approvals", "approve", "run-1", *arguments)
    assert result.exit_code == 1
    assert complaint in result.stderr
    assert not asking.submitted


def test_a_script_is_told_of_questions_and_asked_none(cli: Cli, asking: Asking) -> None:
    asking.go_on()
    lines = json_lines(cli("run", "x", "--json"))
    [asked] = [line for line in lines if line["event"] == "approval_requested"]
    assert (asked["approval_id"], asked["call_hash"]) == ("q1", HASH.hex())
    assert lines[-1]["event"] == "finished"


def test_a_run_is_started_as_the_options_say(cli: Cli, asking: Asking) -> None:
    asking.go_on()
    options = ("--tools", "mail,http_fetch", "--ask", "mail", "--thread", "t-7", "--busy", "reject")
    assert cli("run", "x", "--model", "tiny", *options).exit_code == 0
    assert cli("run", "x", "--assistant", "a-1").exit_code == 0
    first, second = asking.started
    assert (list(first.config.tools), list(first.config.approval_tools)) == (["mail", "http_fetch"], ["mail"])
    assert (first.thread_id, first.busy_policy, first.config.model) == ("t-7", 2, "tiny")
    assert (second.assistant_id, second.config.model, list(second.config.tools)) == ("a-1", "", [])


def test_a_run_is_cancelled(cli: Cli, mesh: ScriptedMesh) -> None:
    mesh.unary["CancelRun"] = answering(CancelRunResponse(run=Run(status=RUN_STATUS_CANCELLED)))
    result = cli("run", "--cancel", "run-1")
    assert (result.exit_code, result.stdout) == (0, "the run ended as cancelled\n")


def test_a_run_without_a_name_is_refused_by_its_field(cli: Cli, asking: Asking) -> None:
    result = cli("run", "--resume", "")
    assert (result.exit_code, not asking.watched_after) == (1, True)
    assert "run_id" in result.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["x", "--cancel", "r"], ["--resume", "r", "--cancel", "r"], ["x", "--after", "1"]]
)
def test_options_that_contradict_each_other_are_refused(cli: Cli, arguments: list[str]) -> None:
    assert cli("run", *arguments).exit_code == 2
