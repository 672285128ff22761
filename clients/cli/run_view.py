"""An agent's run on a terminal, as it happens."""

import json
import time
from typing import assert_never

from ollamesh.client import runs
from rich.console import Console
from rich.status import Status

from clients.cli.output import Flow, printable, quantity

RULE = "│ "


class RunView:
    """Shows each event of a run as it arrives: what the model writes, the code it calls, what that prints.

    `finished` and `tool_ran` tell how it went.
    """

    def __init__(self, console: Console) -> None:
        self.finished: runs.Finished | None = None
        self.tool_ran = False  # At least one call was made, and did not fail.
        self._console = console
        self._waiting: Status | None = None
        self._flow: Flow | None = None
        self._section = ""
        self._printing_calls: set[str] = set()  # Calls whose output was shown as it came.
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
        self._rest()
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
                self._head("approval", f"{event.approval_id} waits for a person: {event.reason}")
            case runs.ApprovalResolved():
                self._head("approval", event.decision)
            case runs.StepFinished():
                self._end_flow()
            case runs.Finished():
                self._finish(event)
            case _:
                assert_never(event)

    def close(self) -> None:
        """Leave the terminal in order, wherever the run is."""
        self._rest()
        self._end_flow()

    def _asked(self, event: runs.Started | runs.StepStarted | runs.StepRestarted) -> None:
        if isinstance(event, runs.StepRestarted):
            self._head("again", "the replica that heard this was lost; the model is asked anew")
        self._section, self._written = "", ""
        self._await("waiting for the model")

    def _delta(self, delta: runs.Delta) -> None:
        self._first()
        if delta.thinking:
            self._write("thinking", delta.thinking, style="dim")
        if delta.text:
            self._written += delta.text
            self._write("model", delta.text)

    def _tool_called(self, called: runs.ToolCalled) -> None:
        self._first()
        self._head(called.tool_name)
        self._code(called.arguments_json)
        self._section = ""
        self._await("running")

    def _tool_output(self, output: runs.ToolOutput) -> None:
        self._printing_calls.add(output.tool_call_id)
        self._write("output", output.text, style="red" if output.channel == "stderr" else "")

    def _tool_returned(self, returned: runs.ToolReturned) -> None:
        self.tool_ran = self.tool_ran or not returned.failed
        if returned.tool_call_id not in self._printing_calls:
            self._write("output", returned.content, style="red" if returned.failed else "")
        self._end_flow()
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

    def _code(self, arguments_json: str) -> None:
        """Show a call's arguments: as code if that is what they are, else as they are."""
        try:
            arguments = json.loads(arguments_json)
        except ValueError:
            arguments = {}
        code = arguments.get("code") if isinstance(arguments, dict) and len(arguments) == 1 else None
        flow = Flow(self._console, prefix=RULE, style="cyan")
        flow.write(code if isinstance(code, str) else arguments_json)
        flow.end()

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

    def _rest(self) -> None:
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None
