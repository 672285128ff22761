"""`ollamesh exec`: a Python program in the sandbox, with its output as it happens."""

import codecs
import sys
from contextlib import aclosing
from typing import BinaryIO

import click
from ollamesh.client import Client, executions

from clients.cli.connection import call
from clients.cli.failures import Failure
from clients.cli.output import print_event, printable, size
from clients.cli.settings import Settings

WALL_S = 10.0  # The service's default.
WAITING_S = 120.0  # For a jail, and for the output to arrive.


@click.command(name="exec")
@click.argument("file", type=click.File("rb"))
@click.option("--stdin", "stdin", type=click.File("rb"), help="What the program reads; nothing if not given.")
@click.option(
    "--timeout", "wall_s", type=click.FloatRange(0.001, 3600), help="Seconds it may run; 10 if not given."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document for each event.")
@click.pass_obj
def execute(
    settings: Settings, file: BinaryIO, stdin: BinaryIO | None, wall_s: float | None, *, as_json: bool
) -> None:
    """Run the Python program FILE in the sandbox; - reads it from standard input.

    Standard output and error are the program's. A last line on standard error says how it ended and what
    it used. The exit code is 0 if the program's was, else 1.
    """
    try:
        code = file.read().decode()
    except UnicodeDecodeError:
        raise Failure(f"{file.name} is not UTF-8 text") from None
    limits, deadline_s = executions.Limits(wall_s=wall_s), (wall_s or WALL_S) + WAITING_S
    given = stdin.read() if stdin else b""

    async def work(client: Client) -> executions.Exited | None:
        printer = _Printer(as_json=as_json)
        async with aclosing(
            client.execute(code, stdin=given, limits=limits, deadline_s=deadline_s)
        ) as events:
            async for event in events:
                printer.show(event)
        return printer.exited

    exited = call(settings, work)
    if exited is None or exited.outcome != "ok":
        raise click.exceptions.Exit(1)


class _Printer:
    """Gives the program's bytes to ours, or to a terminal in a form that it does not obey."""

    def __init__(self, *, as_json: bool) -> None:
        self.exited: executions.Exited | None = None
        self._as_json = as_json
        make = codecs.getincrementaldecoder("utf-8")
        self._decoders = {executions.Stdout: make("replace"), executions.Stderr: make("replace")}

    def show(self, event: executions.Event) -> None:
        match event:
            case executions.Stdout() | executions.Stderr():
                self._output(event)
            case executions.Exited():
                self.exited = event
                self._end(event)
            case _:
                if self._as_json:
                    print_event(event)

    def _output(self, event: executions.Stdout | executions.Stderr) -> None:
        stream = sys.stdout if isinstance(event, executions.Stdout) else sys.stderr
        if self._as_json:
            print_event(event, data=self._decoders[type(event)].decode(event.data))
        elif stream.isatty():
            stream.write(printable(self._decoders[type(event)].decode(event.data)))
            stream.flush()
        else:
            stream.buffer.write(event.data)
            stream.buffer.flush()

    def _end(self, exited: executions.Exited) -> None:
        if self._as_json:
            print_event(exited)
            return
        facts = [_ending(exited), f"{exited.wall_s:.2f} s", f"{exited.cpu_s:.2f} s of processor"]
        if exited.peak_memory_bytes:
            facts.append(size(exited.peak_memory_bytes))
        if exited.stdout_truncated or exited.stderr_truncated:
            facts.append("output cut off")
        click.secho(" · ".join(facts), err=True, dim=True)


def _ending(exited: executions.Exited) -> str:
    match exited.outcome:
        case "ok" | "error":
            return f"exit code {exited.exit_code}"
        case "signalled":
            return f"ended by signal {exited.signal}"
        case outcome:
            return printable(exited.message) or outcome
