"""`ollamesh run`: an agent does a task, and every step of it is shown."""

from contextlib import aclosing

import click
from ollamesh.client import Client, runs

from clients.cli.choice import choose_model, config_for
from clients.cli.connection import call
from clients.cli.failures import Failure
from clients.cli.output import console, print_event, print_line
from clients.cli.run_view import RunView
from clients.cli.settings import Settings

WATCH_DEADLINE_S = 3600.0


@click.command()
@click.argument("task", required=False)
@click.option("--model", help="A name of `ollamesh models ls`; the best one if not given.")
@click.option("--watch", "watched", metavar="RUN_ID", help="Show a run that was started before.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document for each event.")
@click.pass_obj
def run(
    settings: Settings, task: str | None, model: str | None, watched: str | None, *, as_json: bool
) -> None:
    """Have an agent do TASK, and watch it.

    The agent may write Python and have it run in the sandbox. A run goes on when its watcher leaves.
    """
    if (task is None) == (watched is None):
        raise click.UsageError("give a TASK, or --watch RUN_ID")
    view = RunView(console())
    run_id, finished = watched, None

    async def work(client: Client) -> None:
        nonlocal run_id, finished
        if task is not None:
            chosen = await choose_model(client, model)
            started = await client.start_run(await client.create_thread(), task, config_for(chosen))
            run_id = started.run_id
            if as_json:
                print_line("accepted", run_id=run_id, thread_id=started.thread_id, model=started.model)
            else:
                view.accepted(started)
        assert run_id
        async with aclosing(client.watch(run_id, deadline_s=WATCH_DEADLINE_S)) as events:
            async for event in events:
                if as_json:
                    print_event(event)
                else:
                    view.show(event)
                finished = event if isinstance(event, runs.Finished) else None

    try:
        call(settings, work)
    except KeyboardInterrupt:
        if run_id is None:
            raise
        raise Failure(f"stopped watching; the run goes on: `ollamesh run --watch {run_id}`") from None
    finally:
        view.close()
    check(finished)


def check(finished: runs.Finished | None) -> None:
    """Raise Failure unless the run succeeded."""
    if finished is None:
        raise Failure("the run was not told to its end")
    if finished.status != "succeeded":
        why = f": {finished.failure_message} ({finished.failure_reason})" if finished.failure_reason else ""
        raise Failure(f"the run ended as {finished.status}{why}")
