"""How every service starts: read the environment whole, run until a signal, say plainly what is wrong."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from services.common.config import ConfigError, Environment
from services.common.telemetry import configure_logging

Config = TypeVar("Config")

EXIT_MISCONFIGURED = 2


def run_service(
    name: str,
    read: Callable[[Environment], Config],
    run: Callable[[Config, asyncio.Event], Coroutine[Any, Any, None]],
) -> int:
    """Run a service until SIGTERM or SIGINT. Return the exit status of its process."""
    configure_logging(name)
    env = Environment(os.environ)
    config = read(env)
    try:
        env.check()
    except ConfigError as error:
        for mistake in error.mistakes:
            sys.stderr.write(f"{name}: {mistake}\n")
        return EXIT_MISCONFIGURED

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        gc.freeze()  # What was imported lives for ever; collections need not look at it again.
        await run(config, stop)

    uvloop.run(main())
    return 0
