"""Options that commands of the sandbox share."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click
from ollamesh.client import executions

Command = TypeVar("Command", bound=Callable[..., Any])

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Size(click.ParamType[int]):
    """Bytes, such as 64K, 512M or 1G."""

    name = "SIZE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d{1,12})([KMG]?)(?:i?B)?", str(value), re.IGNORECASE)
        if not found or not int(found[1]):
            self.fail(f"{value!r} is no size; sizes look like 64K, 512M or 1G", param, ctx)
        return int(found[1]) * UNITS[found[2].upper()]


def where(command: Command) -> Command:
    """Options that say what runs a program."""
    command = click.option(
        "--engine", default="", help="What jails it; the strongest there is if not given."
    )(command)
    return click.option(
        "--profile",
        default="",
        help="What is installed, such as python-data, bash or node; python if not given.",
    )(command)


def limited(command: Command) -> Command:
    """Options that lower limits which a session has, too."""
    command = click.option(
        "--processes", "process_count", type=click.IntRange(1, 1 << 20), help="Processes and threads at most."
    )(command)
    return click.option("--memory", "memory_bytes", type=Size(), help="Memory at most, such as 256M.")(
        command
    )


def limits_of(**asked: float | None) -> executions.Limits | None:
    """None if nothing is asked for."""
    if all(value is None for value in asked.values()):
        return None
    return executions.Limits(**asked)  # type: ignore[arg-type]  # By the names of the options.
