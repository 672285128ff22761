"""Asks whoever sits at the terminal about calls that wait for a person, while the run is shown."""

import asyncio
import json
import os
import sys
import termios

import click
from ollamesh.client import CallError, Client, runs
from rich.console import Console

from clients.cli.call_view import show_call
from clients.cli.connection import failure_of
from clients.cli.printable import printable
from clients.cli.run_view import RunView

LINE_BYTES_MAX = 4096
CHOICES = "[a]pprove, [e]dit, [r]eject, decide [l]ater"


class Decider:
    """Follows the events of one run. Questions that are decided meanwhile, elsewhere or by time, are not asked."""

    def __init__(
        self, client: Client, view: RunView, console: Console, *, run_id: str, edge: str, told_count: int
    ) -> None:
        """`told_count` events were told before: what they ask may be decided, as only the last of them says."""
        self._client, self._view, self._console = client, view, console
        self._run_id, self._edge = run_id, edge
        self._told_count = told_count
        self._calls: dict[str, runs.ToolCalled] = {}
        self._shown = ""  # The call that was shown last.
        self._open: dict[str, runs.ApprovalRequested] = {}

    async def heed(self, event: runs.Event) -> None:
        """Ask what there is to be asked now. Nothing is lost meanwhile: the run's events wait in the mesh."""
        match event:
            case runs.ToolCalled():
                self._calls[event.tool_call_id] = event
                self._shown = event.tool_call_id
            case runs.ApprovalRequested():
                self._open[event.approval_id] = event
            case runs.ApprovalResolved():
                self._open.pop(event.approval_id, None)
        if event.sequence >= self._told_count:
            for question in list(self._open.values()):
                await self._ask(question)
            self._open.clear()

    async def _ask(self, question: runs.ApprovalRequested) -> None:
        self._view.rest()
        call = self._calls.get(question.tool_call_id)
        if call is None:  # Told before what is shown now.
            click.echo(later(self._run_id, question.approval_id))
            return
        if self._shown != question.tool_call_id:  # Nobody should have to guess which of several it is.
            self._console.print(printable(call.tool_name), style="bold")
            show_call(self._console, call.arguments_json)
            self._shown = question.tool_call_id
        while not await self._decided(question, call):
            pass

    async def _decided(self, question: runs.ApprovalRequested, call: runs.ToolCalled) -> bool:
        """Ask once. Return whether there is nothing more to ask."""
        answer = await typed(f"{printable(call.tool_name)}? {CHOICES}: ")
        agent = self._client.agent
        try:
            match answer and answer[:1].lower():
                case "a" | "y":
                    await agent.approve(self._run_id, question)
                case "e":
                    if (arguments := await self._edited(call.arguments_json)) is None:
                        return False
                    await agent.edit(self._run_id, question, arguments)
                case "r" | "n":
                    reason = await typed("why? The model is told; nothing if you say nothing: ")
                    await agent.reject(self._run_id, question, reason or "")
                case "l" | None:
                    click.echo(later(self._run_id, question.approval_id))
                case _:
                    return False
        except CallError as error:
            failure_of(error, self._edge).show()
            return error.reason != "INVALID_REQUEST"  # Of an edited call, which may be edited again.
        return True

    async def _edited(self, arguments_json: str) -> str | None:
        """Other arguments, from the user's editor; None if there are none."""
        text = json.dumps(json.loads(arguments_json), indent=2, ensure_ascii=False)
        # In a thread, for the connection to the mesh is kept up meanwhile.
        edited = await asyncio.to_thread(click.edit, text, extension=".json")
        if edited is None:
            click.echo("nothing was changed")
            return None
        try:
            is_call = isinstance(json.loads(edited), dict)
        except (ValueError, RecursionError):
            is_call = False
        if not is_call:
            click.echo("ollamesh: that is no JSON object, as a call takes one", err=True)
            return None
        show_call(self._console, edited)
        return edited


def later(run_id: str, approval_id: str) -> str:
    """How to decide elsewhere."""
    return f"it waits: `ollamesh approvals approve {run_id} {approval_id}`, or `reject`"


async def typed(prompt: str) -> str | None:
    """A line from the terminal, of what is typed from now on; None at its end (Ctrl-D).

    Keys that were pressed before the question was there are no answer to it. No thread waits in a read, which Ctrl-C
    could not end.
    """
    descriptor = sys.stdin.fileno()
    termios.tcflush(descriptor, termios.TCIFLUSH)
    click.secho(prompt, bold=True, nl=False)
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    try:
        line = os.read(descriptor, LINE_BYTES_MAX)
    except OSError:
        line = b""  # The terminal is gone.
    if not line:
        click.echo()
        return None
    return line.decode(errors="replace").strip()
