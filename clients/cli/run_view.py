"""An agent's run on a terminal, as it happens."""

import time
from collections.abc import Mapping
from typing import assert_never

from ollamesh.client import runs
from rich.console import Console
from rich.status import Status

from clients.cli.call_view import RULE, CallBeingWritten, is_shown_whole, show_call
from clients.cli.output import Flow, quantity
from clients.cli.printable import printable

DECISIONS: Mapping[runs.Decision, str] = {
    "approved": "yes, by {user}",
    "edited": "yes, by {user}, with other arguments",
    "rejected": "no, by {user}: the call is not made",
    "expired": "nobody decided in time: the call is not made",
    "unknown": "decided",
}


class RunView:
    """Shows each event of a run as it arrives: what the model writes, the code it calls, what that prints.

    `finished` and `tool_ran` tell how it went.
    """

    def __init__(self, console: Console) -> None:
        self.finished: runs.Finished | None = None
        self.tool_ran = False  # At least one call was made, and did not fail.
        self.last_sequence = 0  # Of what was shown.
        self._console = console
        self._waiting: Status | None = None
        self._flow: Flow | None = None
        self._section = ""
        self._printing_calls: set[str] = set()  # Calls whose output was shown as it came.
        self._names: dict[str, str] = {}  # Of the tools, by call.
        self._writing: CallBeingWritten | None = None
        self._pieces: dict[int, str] = {}  # Of the step's calls that were shown as they were written.
        self._is_torn = False  # Not all of what was written could be shown.
        self._call_count = 0  # In this step.
        self._written = ""  # By the model in this step.
        self._asked_at_s = time.monotonic()
        self._is_live = False  # Else the times that passed here say nothing about the run.
        self._first_s: float | None = None  # Until the first sign of the model.

    def accepted(self, run: runs.Run) -> None:
        """The run was started just now, and is watched from its beginning."""
        self._is_live = True
        self._note(f"run {run.run_id}")

    def show(self, event: runs.Event) -> None:
        """Show what has happened, and that something goes on if nothing can be shown yet."""
        self.rest()
        self.last_sequence = event.sequence
        match event:
            case runs.Started() | runs.StepStarted() | runs.StepRestarted():
                self._asked(event)
            case runs.Delta():
                self._delta(event)
            case runs.ToolCalled():
                self._tool_called(event)
            case runs.ToolOutput():
                self._tool_output(event)
            case runs.ToolReturned():
                self._tool_returned(event)
            case runs.ApprovalRequested():
                self._approval_requested(event)
            case runs.ApprovalResolved():
                self._approval_resolved(event)
            case runs.StepFinished():
                self._end_flow()
            case runs.Finished():
                self._finish(event)
            case _:
                assert_never(event)

    def close(self) -> None:
        """Leave the terminal in order, wherever the run is."""
        self.rest()
        self._end_flow()

    def _asked(self, event: runs.Started | runs.StepStarted | runs.StepRestarted) -> None:
        if isinstance(event, runs.StepRestarted):
            self._head("again", "the replica that heard this was lost; the model is asked anew")
        self._section, self._written = "", ""
        self._pieces, self._is_torn, self._call_count = {}, False, 0
        self._await("waiting for the model")

    def _delta(self, delta: runs.Delta) -> None:
        self._first()
        if delta.tool_call is not None:
            self._piece(delta.tool_call)
        if delta.thinking:
            self._write("thinking", delta.thinking, style="dim")
        if delta.text:
            self._written += delta.text
            self._write("model", delta.text)

    def _tool_called(self, called: runs.ToolCalled) -> None:
        self._first()
        self._names[called.tool_call_id] = called.tool_name
        written = self._pieces.get(self._call_count)
        self._call_count += 1
        is_known = written == called.arguments_json and not self._is_torn
        if is_known and is_shown_whole(called.arguments_json):
            self._end_flow()
        else:
            self._head(called.tool_name)
            show_call(self._console, called.arguments_json)
        self._section = ""
        self._await(f"running {called.tool_name}")

    def _piece(self, piece: runs.ToolCallPiece) -> None:
        """A call as it is being written."""
        if piece.index not in self._pieces:
            self._pieces[piece.index] = ""
            self._head(piece.tool_name)
            self._writing = CallBeingWritten(self._console)
        self._pieces[piece.index] += piece.arguments_json
        if self._writing is not None and piece.index == max(self._pieces):
            self._writing.write(piece.arguments_json)
        else:
            self._is_torn = True

    def _approval_requested(self, asked: runs.ApprovalRequested) -> None:
        tool = self._names.get(asked.tool_call_id, "a call")
        until = f", until {asked.expire_time.astimezone():%H:%M}" if asked.expire_time else ""
        self._head("approval", f"{tool} waits for a person{until}: {asked.reason}")
        self._await("waiting for a person")

    def _approval_resolved(self, resolved: runs.ApprovalResolved) -> None:
        self._head("approval", DECISIONS[resolved.decision].format(user=resolved.user_id or "somebody"))
        if resolved.decision == "edited":
            show_call(self._console, resolved.arguments_json)
        self._section = ""
        self._await("going on")

    def _tool_output(self, output: runs.ToolOutput) -> None:
        self._printing_calls.add(output.tool_call_id)
        self._write("output", output.text, style="red" if output.channel == "stderr" else "")

    def _tool_returned(self, returned: runs.ToolReturned) -> None:
        self.tool_ran = self.tool_ran or not returned.failed
        if returned.tool_call_id not in self._printing_calls:
            self._write("output", returned.content, style="red" if returned.failed else "")
        self._end_flow()
        if returned.remembered:
            self._note("remembered from an equal call before")
        else:
            verb = "failed" if returned.failed else "returned"
            self._note(f"{verb} after {returned.duration_s:.2f} s")
        self._section = ""

    def _finish(self, finished: runs.Finished) -> None:
        self.finished = finished
        self._end_flow()
        if finished.answer and finished.answer.strip() != self._written.strip():
            self._write("answer", finished.answer)
            self._end_flow()
        usage = finished.usage
        facts = [
            quantity(usage.tool_call_count, "tool call"),
            f"{usage.prompt_token_count:,} + {quantity(usage.output_token_count, 'token')}",
        ]
        if self._is_live and self._first_s is not None:
            facts.append(f"first token {self._first_s:.2f} s")
            facts.append(f"total {time.monotonic() - self._asked_at_s:.2f} s")
        else:
            facts.append(f"total {usage.wall_s:.2f} s")
        self._console.print()
        self._note(" · ".join((finished.status, *facts)))

    def _write(self, section: str, text: str, *, style: str = "") -> None:
        if self._section != section:
            self._head(section)
        if self._flow is None or self._flow.style != style:
            self._end_flow()
            self._flow = Flow(self._console, prefix=RULE if section == "output" else "", style=style)
        self._flow.write(text)

    def _head(self, section: str, more: str = "") -> None:
        self._end_flow()
        self._section = section
        self._console.print(printable(section), style="bold", end=f" {printable(more)}\n" if more else "\n")

    def _note(self, text: str) -> None:
        self._console.print(text, style="dim")

    def _end_flow(self) -> None:
        if self._writing is not None:
            self._writing.end()
            self._writing = None
        if self._flow is not None:
            self._flow.end()
            self._flow = None

    def _first(self) -> None:
        if self._first_s is None:
            self._first_s = time.monotonic() - self._asked_at_s

    def _await(self, what: str) -> None:
        if self._console.is_terminal:
            self._waiting = self._console.status(what, spinner="dots")
            self._waiting.start()

    def rest(self) -> None:
        """Say no more that something goes on: somebody else writes now."""
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None
