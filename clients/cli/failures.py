"""How a command fails: one sentence on standard error, and an exit code that a script can act on.

0 is done and 2 is click's own, for usage.
"""

from typing import IO, Any

import click

from clients.cli.printable import printable


class Failure(click.ClickException):
    """The work failed. The message says what is wrong and, where somebody can mend it, how."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"ollamesh: {printable(self.message)}", file=file, err=file is None)


class Unreachable(Failure):
    exit_code = 3


class Denied(Failure):
    exit_code = 4
