"""How every service starts: read the environment whole, run until a signal, say plainly what is wrong."""

import asyncio
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import uvloop

from services.common.config import ConfigError, Environment
from services.common.logs.setup import configure_logging, learn_secrets, loop_failures_logged, read_level

Config = TypeVar("Config")
Given_contra = TypeVar("Given_contra", contravariant=True)

EXIT_MISCONFIGURED = 2


class Run(Protocol[Given_contra]):
    """A service: serves until `stop`, and tells its port once it does."""

    def __call__(
        self, config: Given_contra, stop: asyncio.Event, *, started: Callable[[int], None]
    ) -> Coroutine[Any, Any, None]: ...


def run_service(
    name: str,
    read: Callable[[Environment], Config],
    run: Run[Config],
) -> int:
    """Run a service until SIGTERM or SIGINT. Return the exit status of its process."""
    env = Environment(os.environ)
    configure_logging(name, level=read_level(env))
    config = read(env)
    learn_secrets(env.secrets)
    try:
        env.check()
    except ConfigError as error:
        for mistake in error.mistakes:
            sys.stderr.write(f"{name}: {mistake}\n")
        return EXIT_MISCONFIGURED

    async def main() -> None:
        stop = asyncio.Event()
        loop_failures_logged(asyncio.get_running_loop())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await run(config, stop, started=_settle)

    uvloop.run(main())
    return 0


def _settle(_port: int) -> None:
    """What was imported and built lives as long as the process: collections need not look at it again.

    Imports leave a fifth of the memory free behind them, which the C library would keep: it goes back. Here and
    not in the server, which tests also run, in processes that go on to build other things.
    """
    gc.collect()
    gc.freeze()
    with suppress(AttributeError):  # Only glibc has it.
        ctypes.CDLL(None).malloc_trim(0)
