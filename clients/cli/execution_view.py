"""What `ollamesh exec` shows of an execution: output as it comes, results as a REPL does, images as files."""

import base64
import codecs
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click
from ollamesh.client import executions

from clients.cli.output import print_event, size
from clients.cli.printable import printable

# In the order in which one is chosen, if a result has several.
IMAGES = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/svg+xml": "svg",
}
NUMBER_MAX = 9999
WAIT_SHOWN_S = 0.1
TEXT = ("text/", "application/json", "image/svg+xml")


class Images:
    """Saves images in a folder, each under a number that no file has yet."""

    def __init__(self, folder: Path, stem: str) -> None:
        self._folder, self._stem = folder, stem

    def save(self, data: bytes, suffix: str) -> Path:
        """Raises OSError if it cannot be saved."""
        for number in range(1, NUMBER_MAX + 1):
            path = self._folder / f"{self._stem}-{number}.{suffix}"
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                continue
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            return path
        raise FileExistsError(f"there are {NUMBER_MAX} of them already")


class View:
    """Gives the program's bytes to ours, or to a terminal in a form that it does not obey."""

    def __init__(self, *, as_json: bool, shows_results: bool, images: Images | None) -> None:
        self.exited: executions.Exited | None = None
        self.execution_id = ""  # Empty until it runs.
        self._as_json, self._shows_results, self._images = as_json, shows_results, images
        make = codecs.getincrementaldecoder("utf-8")
        self._in_line = False  # Whether what is out on standard output ends within a line.
        self._decoders = {executions.Stdout: make("replace"), executions.Stderr: make("replace")}

    def show(self, event: executions.Event) -> None:
        match event:
            case executions.Stdout() | executions.Stderr():
                self._output(event)
            case executions.Result():
                self._result(event)
            case executions.Exited():
                self.exited = event
                self._end(event)
            case executions.Started():
                self.execution_id = event.execution_id
                self._begin(event)
            case executions.Queued():
                if self._as_json:
                    print_event(event)

    def _begin(self, started: executions.Started) -> None:
        if self._as_json:
            print_event(started)
        elif started.session_restarted:
            click.echo("ollamesh: the session was restarted; its variables and files are gone", err=True)

    def _output(self, event: executions.Stdout | executions.Stderr) -> None:
        if self._as_json:
            print_event(event, data=self._decoders[type(event)].decode(event.data))
            return
        is_stdout = isinstance(event, executions.Stdout)
        self._write(event.data, self._decoders[type(event)], to_stdout=is_stdout)

    def _write(self, data: bytes, decoder: codecs.IncrementalDecoder, *, to_stdout: bool) -> None:
        stream = sys.stdout if to_stdout else sys.stderr
        if to_stdout and data:
            self._in_line = not data.endswith(b"\n")
        if stream.isatty():
            stream.write(printable(decoder.decode(data)))
            stream.flush()
        else:
            stream.buffer.write(data)
            stream.buffer.flush()

    def _result(self, event: executions.Result) -> None:
        saved = self._save(event.data)
        if self._as_json:
            print_event(event, data={mime: _in_json(mime, data) for mime, data in event.data.items()})
        elif self._shows_results and not saved and "text/plain" in event.data:
            line = (b"\n" if self._in_line else b"") + event.data["text/plain"] + b"\n"
            self._write(line, self._decoders[executions.Stdout], to_stdout=True)

    def _save(self, forms: Mapping[str, bytes]) -> bool:
        """Save the image of a result, if it has one; return whether it did."""
        mime = next((mime for mime in IMAGES if mime in forms), None)
        if self._images is None or mime is None:
            return False
        try:
            path = self._images.save(forms[mime], IMAGES[mime])
        except OSError as error:
            click.echo(f"ollamesh: an image was not saved: {error}", err=True)
            return False
        click.secho(f"saved {path}", err=True, dim=True)
        return True

    def _end(self, exited: executions.Exited) -> None:
        if self._as_json:
            print_event(exited)
            return
        if exited.session_ended:
            click.echo("ollamesh: the session has ended", err=True)
        elif exited.session_restarted:
            lost = "variables and files are" if exited.session_files_lost else "variables are"
            click.echo(f"ollamesh: the session was restarted; its {lost} gone", err=True)
        click.secho(" · ".join(_facts(exited)), err=True, dim=True)


def _facts(exited: executions.Exited) -> list[str]:
    facts = [_ending(exited), f"{exited.wall_s:.2f} s", f"{exited.cpu_s:.2f} s of processor"]
    if exited.peak_memory_bytes:
        facts.append(size(exited.peak_memory_bytes))
    if exited.queue_s >= WAIT_SHOWN_S:
        facts.append(f"waited {exited.queue_s:.2f} s")
    if exited.limits_reached:
        facts.append(f"limits reached: {', '.join(exited.limits_reached)}")
    if exited.stdout_truncated or exited.stderr_truncated:
        facts.append("output cut off")
    if exited.results_truncated:
        facts.append("results left out")
    return facts


def _ending(exited: executions.Exited) -> str:
    match exited.outcome:
        case "ok" | "error":
            return f"exit code {exited.exit_code}"
        case "signalled":
            return f"ended by signal {exited.signal}"
        case outcome:
            return printable(exited.message) or outcome


def _in_json(mime: str, data: bytes) -> str:
    """Text as it is, all else in base64."""
    if mime.startswith(TEXT):
        return data.decode(errors="replace")
    return base64.b64encode(data).decode()
