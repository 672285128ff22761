"""A download on a terminal: a line for each instance that moves, or, into a file, a line for each step."""

from types import TracebackType
from typing import Self

import click
from ollamesh.client.fleet import Model
from ollamesh.client.library import PullProgress
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from clients.cli.output import size
from clients.cli.printable import printable


class PullView:
    """Use it as a context manager: it leaves the terminal as it found it."""

    def __init__(self, to: Console) -> None:
        self._bars: Progress | None = None
        if to.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(binary_units=True),
                TransferSpeedColumn(),
                TimeRemainingColumn(compact=True),
                console=to,
                transient=True,
            )
        self._tasks: dict[str, TaskID] = {}
        self._digests: dict[str, str] = {}
        self._last: dict[str, str] = {}  # What was written of each instance.

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, progress: PullProgress) -> None:
        if self._bars is None:
            self._write(progress)
        else:
            self._move(self._bars, progress)

    def done(self, model: Model) -> None:
        if self._bars is not None:
            self._bars.stop()
        click.echo(printable(f"{model.name} ({size(model.size_bytes)}) is on {', '.join(model.instances)}"))

    def _write(self, progress: PullProgress) -> None:
        """Once for each step: how many bytes of it have come is not worth a line each time."""
        text = f"{progress.instance}: {progress.status}"
        if progress.total_bytes:
            text += f" ({size(progress.total_bytes)})"
        if self._last.get(progress.instance) != text:
            self._last[progress.instance] = text
            click.echo(text)

    def _move(self, bars: Progress, progress: PullProgress) -> None:
        text = printable(f"{progress.instance}: {progress.status}")
        task = self._tasks.get(progress.instance)
        if task is None:
            bars.start()
            task = self._tasks[progress.instance] = bars.add_task(text, total=None)
        if self._digests.get(progress.instance) != progress.digest:  # Another layer, with a speed of its own.
            self._digests[progress.instance] = progress.digest
            bars.reset(task, description=text, total=progress.total_bytes or None)
        bars.update(
            task,
            description=text,
            total=progress.total_bytes or None,
            completed=progress.completed_bytes,
        )
