"""`ollamesh approvals`: decide calls that wait for a person, of runs that nobody watches just now."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass

import click
from ollamesh.client import Client, runs

from clients.cli.call_view import show_call
from clients.cli.connection import call
from clients.cli.failures import Failure
from clients.cli.output import console, print_json
from clients.cli.printable import printable
from clients.cli.settings import Settings

RUN = click.argument("run_id")
APPROVAL = click.argument("approval_id", required=False)
HASH = click.option(
    "--hash",
    "call_hash",
    metavar="HEX",
    help="Decide only if this is the hash of the call, as --json tells it.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A question and the call that it is about."""

    question: runs.Approval
    call: runs.ToolCalled


@click.group()
def approvals() -> None:
    """Show and decide the calls of a run that wait for a person."""


@approvals.command()
@RUN
@JSON
@click.pass_obj
def ls(settings: Settings, run_id: str, *, as_json: bool) -> None:
    """Show what a run waits for."""
    waiting = call(settings, lambda client: _waiting(client, run_id))
    if as_json:
        print_json([_plain(each) for each in waiting])
        return
    for each in waiting:
        _show(each)


@approvals.command()
@RUN
@APPROVAL
@click.option("--arguments", metavar="JSON", help="Have the call made with these arguments instead.")
@HASH
@JSON
@click.pass_obj
def approve(
    settings: Settings,
    run_id: str,
    approval_id: str | None,
    *,
    arguments: str | None,
    call_hash: str | None,
    as_json: bool,
) -> None:
    """Have a call made. APPROVAL_ID may be left out if the run waits for one only."""

    async def decide(client: Client, question: runs.Approval) -> runs.Run:
        if arguments is None:
            return await client.agent.approve(run_id, question)
        return await client.agent.edit(run_id, question, arguments)

    async def work(client: Client) -> tuple[Waiting, runs.Run]:
        chosen = _chosen(await _waiting(client, run_id), approval_id, call_hash)
        return chosen, await decide(client, chosen.question)

    _tell(*call(settings, work), as_json=as_json)


@approvals.command()
@RUN
@APPROVAL
@click.option("--reason", default="", help="Why; the model is told.")
@HASH
@JSON
@click.pass_obj
def reject(
    settings: Settings,
    run_id: str,
    approval_id: str | None,
    *,
    reason: str,
    call_hash: str | None,
    as_json: bool,
) -> None:
    """Have a call not made. The run goes on without it."""

    async def work(client: Client) -> tuple[Waiting, runs.Run]:
        chosen = _chosen(await _waiting(client, run_id), approval_id, call_hash)
        return chosen, await client.agent.reject(run_id, chosen.question, reason)

    _tell(*call(settings, work), as_json=as_json)


async def _waiting(client: Client, run_id: str) -> Sequence[Waiting]:
    run = await client.agent.get(run_id)
    calls: dict[str, runs.ToolCalled] = {}
    if not run.pending_approvals:
        return []
    async with aclosing(client.agent.watch(run_id)) as events:
        async for event in events:
            if isinstance(event, runs.ToolCalled):
                calls[event.tool_call_id] = event
            if event.sequence >= run.last_sequence:
                break
    return [Waiting(each, calls[each.tool_call_id]) for each in run.pending_approvals]


def _chosen(waiting: Sequence[Waiting], approval_id: str | None, call_hash: str | None) -> Waiting:
    found = [each for each in waiting if approval_id in {None, each.question.approval_id}]
    if not found:
        raise Failure("the run waits for no such decision")
    if len(found) > 1:
        raise Failure("the run waits for several decisions; `ollamesh approvals ls` shows them, name one")
    if call_hash is not None and call_hash.lower() != found[0].question.call_hash.hex():
        raise Failure("it is another call than the one with that hash; nothing was decided")
    return found[0]


def _tell(decided: Waiting, run: runs.Run, *, as_json: bool) -> None:
    if as_json:
        print_json({"approval": _plain(decided), "run_id": run.run_id, "status": run.status})
        return
    _show(decided)
    click.secho(f"decided; `ollamesh run --resume {run.run_id}` shows how it goes on", err=True, dim=True)


def _show(waiting: Waiting) -> None:
    question, out = waiting.question, console()
    until = f" · until {question.expire_time.astimezone():%Y-%m-%d %H:%M:%S}" if question.expire_time else ""
    out.print(printable(waiting.call.tool_name), style="bold")
    show_call(out, waiting.call.arguments_json)
    out.print(printable(question.reason))
    out.print(f"{question.approval_id}{until}", style="dim")


def _plain(waiting: Waiting) -> dict[str, object]:
    return {
        **asdict(waiting.question),
        "tool_name": waiting.call.tool_name,
        "arguments_json": waiting.call.arguments_json,
    }
