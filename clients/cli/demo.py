"""`ollamesh demo`: the main job, end to end, as it happens.

A person logs in, an agent gets a task, a model writes a program, the sandbox runs it, and the answer
comes back, all of it through the edge. Nothing is staged: what is shown is what the parts said, and the
exit code is 0 only if a real answer came back and a tool really ran.
"""

import shlex
import time
from contextlib import aclosing
from urllib.parse import urlsplit

import click
from ollamesh.client import Client
from rich.console import Console

from clients.cli.choice import EMBEDDED_MODEL, choose_model, config_for
from clients.cli.connection import call
from clients.cli.failures import Failure
from clients.cli.output import console
from clients.cli.run import check
from clients.cli.run_view import RunView
from clients.cli.settings import DEFAULT_HOME, Settings
from clients.cli.stack import say, sentences, stack_settings
from deploy.local import stack

# Easy with a tool, out of reach of a small model without one.
TASK = "What is 2 to the power of 100?"

# Both work from the repository's root without an activated environment, as they are printed.
# gRPC-Web by hand: an empty request, and the names of the models in the reply.
CURL = """\
printf '\\0\\0\\0\\0\\0' | curl -sS --data-binary @- --output - \\
  -H "authorization: Bearer $({ollamesh} token)" \\
  -H 'content-type: application/grpc-web+proto' \\
  {edge}/ollamesh.inference.v1.InferenceService/ListModels \\
  | tr -c '[:print:]' '\\n' | grep -oE '[a-z0-9._-]+:(latest|[0-9.]+[bm])'"""
SNIPPET = """\
TOKEN=$({ollamesh} token) .venv/bin/python - <<'END'
import os

import grpc
from ollamesh.inference.v1 import inference_service_pb2_grpc as inference
from ollamesh.inference.v1.completion_pb2 import ChatRequest, Message

question = Message(role="ROLE_USER", content="Say hello in three languages.")
request = ChatRequest(model="{model}", messages=[question])
request.options.output_token_count_max = 50
metadata = [("authorization", "Bearer " + os.environ["TOKEN"])]
with grpc.insecure_channel("{address}") as channel:
    stub = inference.InferenceServiceStub(channel)
    for reply in stub.Chat(request, timeout=60, metadata=metadata):
        print(reply.event.delta.text, end="", flush=True)
END"""


@click.command()
@click.pass_obj
def demo(settings: Settings) -> None:
    """Start the stack and show the main job end to end."""
    out = console()
    if settings.edge_given is None:
        _bring_up(out, settings)
    view, model = call(settings, lambda client: _main_job(client, out))
    check(view.finished)
    if not view.tool_ran:
        raise Failure("the run ended without having run a tool")
    if view.finished is None or not view.finished.answer.strip():
        raise Failure("the run ended without an answer")
    out.print("\nTry next, from the repository's root:", style="bold")
    click.echo("\n" + "\n\n".join(next_steps(settings, model)))


def _bring_up(out: Console, settings: Settings) -> None:
    began_s = time.monotonic()
    with sentences():
        stack.up(stack_settings(settings), say)
    _step(out, "stack", f"ready at {settings.edge}", since_s=began_s)


async def _main_job(client: Client, out: Console) -> tuple[RunView, str]:
    began_s = time.monotonic()
    await client.access_token()
    _step(out, "login", "a token from the auth service", since_s=began_s)
    model = await choose_model(client, None)
    _step(out, "model", model)
    if model == EMBEDDED_MODEL:
        _step(out, "", "tiny: it is told to call the tool first, and answers as well as it can")
    began_s = time.monotonic()
    thread_id = await client.create_thread("demo")
    _step(out, "thread", thread_id, since_s=began_s)
    _step(out, "task", TASK)
    out.print()
    view = RunView(out)
    try:
        started = await client.start_run(thread_id, TASK, config_for(model))
        view.accepted(started)
        async with aclosing(client.watch(started.run_id)) as events:
            async for event in events:
                view.show(event)
    finally:
        view.close()
    return view, model


def _step(out: Console, what: str, text: str, *, since_s: float | None = None) -> None:
    out.print(f"{what:<8}", style="bold", end="")
    out.print(text, end="")
    out.print(f"  {time.monotonic() - since_s:.2f} s" if since_s is not None else "", style="dim")


def next_steps(settings: Settings, model: str) -> list[str]:
    """Commands to copy: the command line, curl, and a stub. They call the mesh that was just shown."""
    options = "" if settings.home == DEFAULT_HOME else f" --home {shlex.quote(str(settings.home))}"
    options += f" --edge {shlex.quote(settings.edge_given)}" if settings.edge_given else ""
    ollamesh = f".venv/bin/ollamesh{options}"
    return [
        f"{ollamesh} chat",
        CURL.format(ollamesh=ollamesh, edge=settings.edge),
        SNIPPET.format(ollamesh=ollamesh, address=urlsplit(settings.edge).netloc, model=model),
    ]
