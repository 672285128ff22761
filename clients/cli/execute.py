"""`ollamesh exec`: a program in the sandbox, with its output as it happens."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import BinaryIO

import click
from ollamesh.client import CallError, Client, executions

from clients.cli.connection import call
from clients.cli.execution_view import Images, View
from clients.cli.failures import Failure
from clients.cli.program_input import input_of
from clients.cli.sandbox_options import limited, limits_of, where
from clients.cli.settings import Settings

WAITING_S = 120.0  # For a jail, and for the output to arrive.
DEADLINE_S = 3600.0  # If nobody says how long it may run. Somebody watches, and has Ctrl-C.

# With --exit-code, as coreutils' `timeout`, shells and Docker have them.
TIMED_OUT, NOT_RUN, INTERRUPTED, KILLED, SIGNALLED = 124, 125, 130, 137, 128

STDIN = "<stdin>"


@click.command(name="exec")
@click.argument("file", type=click.File("rb"))
@click.option(
    "--stdin",
    "stdin",
    type=click.File("rb"),
    help="What the program reads; - passes on what is typed or piped in. Nothing if not given.",
)
@where
@click.option(
    "--session", "session_id", default="", help="Run in this session of `ollamesh sandbox sessions`."
)
@click.option(
    "--timeout", "wall_s", type=click.FloatRange(0.001, 3600), help="Seconds it may run; 10 if not given."
)
@click.option("--cpu", "cpu_s", type=click.FloatRange(0.001, 3600), help="Seconds of processor at most.")
@limited
@click.option(
    "--save-images",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The folder for images among the results; the current one if not given.",
)
@click.option("--no-images", is_flag=True, help="Save no images.")
@click.option("--no-results", is_flag=True, help="Print the program's output only, and no value.")
@click.option("--exit-code", is_flag=True, help="End as the program did; see above.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document for each event.")
@click.pass_obj
def execute(  # noqa: PLR0913 - One for each option.
    settings: Settings,
    file: BinaryIO,
    *,
    stdin: BinaryIO | None,
    profile: str,
    engine: str,
    session_id: str,
    wall_s: float | None,
    cpu_s: float | None,
    memory_bytes: int | None,
    process_count: int | None,
    folder: Path | None,
    no_images: bool,
    no_results: bool,
    exit_code: bool,
    as_json: bool,
) -> None:
    """Run the program FILE in the sandbox; - reads it from standard input.

    Standard output and error are the program's. The value of its last expression, and what it displays, follow on
    standard output; images are saved as NAME-1.png and so on. A last line on standard error says how it ended and what
    it used. Ctrl-C interrupts the program; once more, it kills it.

    The exit code is 0 if the program's was, else 1. With --exit-code it is the program's own, or 124 if it ran for too
    long, 137 if it was ended for its memory or output, 130 after Ctrl-C, 128 and more if a signal ended it, and 125 if
    it was not run.
    """
    if stdin is file:  # Standard input, both of them.
        raise click.UsageError("standard input is either the program or what it reads")
    limits = limits_of(wall_s=wall_s, cpu_s=cpu_s, memory_bytes=memory_bytes, process_count=process_count)
    options: executions.Options = {
        "profile": profile,
        "engine": engine,
        "session_id": session_id,
        "limits": limits,
    }
    saves = not no_images and (folder is not None or not as_json)
    images = Images(folder or Path(), _stem(file)) if saves else None
    view = View(as_json=as_json, shows_results=not no_results, images=images)
    deadline_s = DEADLINE_S if wall_s is None else wall_s + WAITING_S
    with _ending_as(view, wanted=exit_code):
        code = _code(file)
        call(settings, lambda client: _run(client, view, code, stdin, deadline_s, options))


async def _run(
    client: Client,
    view: View,
    code: str,
    stdin: BinaryIO | None,
    deadline_s: float,
    options: executions.Options,
) -> None:
    given = input_of(stdin) if stdin is not None else b""
    stream = client.execute(code, stdin=given, deadline_s=deadline_s, **options)
    with _interruptible(client, view):
        async with aclosing(stream) as events:
            async for event in events:
                view.show(event)


@contextmanager
def _interruptible(client: Client, view: View) -> Iterator[None]:
    """Ctrl-C interrupts the program, then kills it, then leaves it; before it runs, it leaves at once."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    acts: list[asyncio.Task[None]] = []  # One for each Ctrl-C.

    async def act() -> None:
        count = len(acts)
        try:
            if view.execution_id and count == 1:
                await client.sandbox.interrupt(view.execution_id)
                click.secho("interrupted; Ctrl-C kills it", err=True, dim=True)
            elif view.execution_id and count == 2:
                await client.sandbox.kill(view.execution_id)
            else:
                task.cancel()
        except CallError:
            task.cancel()

    loop.add_signal_handler(signal.SIGINT, lambda: acts.append(loop.create_task(act())))
    try:
        yield
    except asyncio.CancelledError:
        if acts:
            raise click.Abort from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@contextmanager
def _ending_as(view: View, *, wanted: bool) -> Iterator[None]:
    """End the command as the program ended: by its own exit code if that is `wanted`."""
    try:
        yield
    except Failure as error:
        if not wanted:
            raise
        error.show()
        raise click.exceptions.Exit(NOT_RUN) from None
    except click.Abort:
        if not wanted:
            raise
        raise click.exceptions.Exit(INTERRUPTED) from None
    exited = view.exited
    if exited is None or exited.outcome != "ok":
        raise click.exceptions.Exit(_exit_code(exited) if wanted else 1)


def _exit_code(exited: executions.Exited | None) -> int:
    match exited and exited.outcome:
        case "ok" | "error" if exited is not None:
            return exited.exit_code
        case "signalled" if exited is not None:
            return SIGNALLED + exited.signal
        case "timeout":
            return TIMED_OUT
        case "cancelled":
            return INTERRUPTED
        case "oom" | "output_limit":
            return KILLED
        case _:
            return NOT_RUN


def _code(file: BinaryIO) -> str:
    try:
        return file.read().decode()
    except UnicodeDecodeError:
        raise Failure(f"{file.name} is not UTF-8 text") from None


def _stem(file: BinaryIO) -> str:
    """What images of the program are called."""
    name = getattr(file, "name", STDIN)
    return "image" if name == STDIN else Path(name).stem
