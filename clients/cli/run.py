"""`ollamesh run`: an agent does a task, and every step of it is shown."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import get_args

import click
import grpc
from ollamesh.client import CallError, Client, runs

from clients.cli.choice import choose_model, config_for
from clients.cli.connection import call
from clients.cli.deciding import Decider
from clients.cli.failures import Failure
from clients.cli.output import console, print_event, print_line
from clients.cli.run_view import RunView
from clients.cli.settings import Settings

WATCH_DEADLINE_S = 3600.0  # Of one stream, as long as the edge lets it last;
WATCHES_MAX = 25  # one after the other, for longer than a run may wait for a person.
Names = tuple[str, ...]


def _names(_: click.Context, __: click.Parameter, text: str | None) -> Names | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


@click.command()
@click.argument("task", required=False)
@click.option("--model", help="A name of `ollamesh models ls`; the best one if not given.")
@click.option("--assistant", "assistant_id", metavar="ID", help="Whose configuration to start from.")
@click.option(
    "--tools",
    metavar="NAMES",
    callback=_names,
    help="What the agent may use: a,b,c; run_python if not given.",
)
@click.option("--ask", metavar="NAMES", callback=_names, help="Tools whose every call waits for a person.")
@click.option("--thread", "thread_id", metavar="ID", help="Go on with this conversation.")
@click.option(
    "--busy",
    type=click.Choice(get_args(runs.BusyPolicy)),
    default="enqueue",
    help="What to do if the conversation is busy; wait for it if not given.",
)
@click.option("--resume", "--watch", "watched", metavar="RUN_ID", help="Show a run that was started before.")
@click.option("--after", type=click.IntRange(0), metavar="N", help="With --resume: what followed event N.")
@click.option("--cancel", "cancelled", metavar="RUN_ID", help="End a run that was started before.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document for each event.")
@click.pass_obj
def run(  # noqa: PLR0913 - One for each option.
    settings: Settings,
    task: str | None,
    *,
    model: str | None,
    assistant_id: str | None,
    tools: Names | None,
    ask: Names | None,
    thread_id: str | None,
    busy: runs.BusyPolicy,
    watched: str | None,
    after: int | None,
    cancelled: str | None,
    as_json: bool,
) -> None:
    """Have an agent do TASK, and watch it.

    The agent may write Python and have it run in the sandbox. A run goes on when its watcher leaves: Ctrl-C prints the
    command that comes back to it. Calls that wait for a person are decided here, on a terminal, or by `ollamesh
    approvals`. Where its time went, `ollamesh trace RUN_ID` shows.
    """
    if [task, watched, cancelled].count(None) != 2:
        raise click.UsageError("give a TASK, or --resume RUN_ID, or --cancel RUN_ID")
    if after is not None and watched is None:
        raise click.UsageError("--after goes with --resume")
    if cancelled is not None:
        ended = call(settings, lambda client: client.agent.cancel(cancelled))
        click.echo(f"the run ended as {ended.status}")
        return
    showing = Showing(settings, as_json=as_json)

    async def work(client: Client) -> None:
        if task is not None:
            config = await _config(client, model, assistant_id, tools, ask)
            thread = thread_id or await client.create_thread()
            started = await client.agent.start(
                thread, task, config, assistant_id=assistant_id or "", busy_policy=busy
            )
            showing.accepted(started)
        elif watched is not None:
            showing.run_id = watched
        await showing.watch(client, after_sequence=after or 0, is_new=task is not None)

    showing.to_the_end(lambda: call(settings, work))


async def _config(
    client: Client, model: str | None, assistant_id: str | None, tools: Names | None, ask: Names | None
) -> runs.Config:
    """With an assistant, only what was said here; else what the model needs."""
    if assistant_id:
        config = runs.Config(model=model or "")
    else:
        config = config_for(await choose_model(client, model))
    if tools is not None:
        first = config.first_tool if config.first_tool in tools else ""
        config = replace(config, tools=tools, first_tool=first)
    return replace(config, approval_tools=ask or ())


class Showing:
    """One run, shown as it goes to whoever called the command."""

    def __init__(self, settings: Settings, *, as_json: bool) -> None:
        self.run_id: str | None = None
        self._settings, self._as_json = settings, as_json
        self._console = console()
        self._view = RunView(self._console)
        self._finished: runs.Finished | None = None
        self._last_sequence = 0

    def accepted(self, started: runs.Run) -> None:
        """It was started just now."""
        self.run_id = started.run_id
        if self._as_json:
            print_line("accepted", run_id=started.run_id, thread_id=started.thread_id, model=started.model)
        else:
            self._view.accepted(started)
            self._console.print(f"thread {started.thread_id}", style="dim")  # Which `--thread` wants.

    async def watch(self, client: Client, *, after_sequence: int, is_new: bool) -> None:
        """Show what follows, to the end of the run, and have its questions answered if somebody is there."""
        assert self.run_id is not None
        self._last_sequence = after_sequence
        decider = await self._decider(client, self.run_id, is_new=is_new)
        now_s = asyncio.get_running_loop().time
        for _ in range(WATCHES_MAX):
            began_s = now_s()
            try:
                await self._follow(client, self.run_id, decider)
            except CallError as error:
                if (
                    error.code is not grpc.StatusCode.DEADLINE_EXCEEDED
                    or now_s() < began_s + WATCH_DEADLINE_S / 2
                ):
                    raise  # It was not the stream's time that was over.
            else:
                return

    async def _follow(self, client: Client, run_id: str, decider: Decider | None) -> None:
        watched = client.agent.watch(run_id, after_sequence=self._last_sequence, deadline_s=WATCH_DEADLINE_S)
        async with aclosing(watched) as events:
            async for event in events:
                if self._as_json:
                    print_event(event)
                else:
                    self._view.show(event)
                self._last_sequence = event.sequence
                self._finished = event if isinstance(event, runs.Finished) else None
                if decider is not None:
                    await decider.heed(event)

    def to_the_end(self, work: Callable[[], None]) -> None:
        """Do `work`, and fail as the run did, or with how to come back to it."""
        try:
            work()
        except KeyboardInterrupt:
            if self.run_id is None:
                raise
            back = f"ollamesh run --resume {self.run_id} --after {self._last_sequence}"
            raise Failure(f"stopped watching; the run goes on: `{back}`") from None
        finally:
            self._view.close()
        check(self._finished)

    async def _decider(self, client: Client, run_id: str, *, is_new: bool) -> Decider | None:
        if self._as_json or not (sys.stdin.isatty() and self._console.is_terminal):
            return None
        told_count = 0 if is_new else (await client.agent.get(run_id)).last_sequence
        return Decider(
            client, self._view, self._console, run_id=run_id, edge=self._settings.edge, told_count=told_count
        )


def check(finished: runs.Finished | None) -> None:
    """Raise Failure unless the run succeeded."""
    if finished is None:
        raise Failure("the run was not told to its end")
    if finished.status != "succeeded":
        why = f": {finished.failure_message} ({finished.failure_reason})" if finished.failure_reason else ""
        raise Failure(f"the run ended as {finished.status}{why}")
