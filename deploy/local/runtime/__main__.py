"""`python -m deploy.local.runtime --listen HOST:PORT --models DIR`"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import aiohttp

from deploy.local.models.install import installed
from deploy.local.runtime.api.app import application, serving
from deploy.local.runtime.config import Config
from deploy.local.runtime.engine import Engine
from services.common.config import ConfigError, Environment

READ_BUFFER_BYTES = 2**20  # The longest line of llama.cpp's event stream.
EXIT_FAILED, EXIT_MISCONFIGURED = 1, 2


def main() -> int:
    arguments = _arguments()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        config = Config.from_env(Environment(os.environ))
    except ConfigError as error:
        return _fail(str(error), EXIT_MISCONFIGURED)
    if not installed(arguments.models):
        return _fail(
            f"the models are not in {arguments.models}; run `python -m deploy.local.models {arguments.models}`"
        )
    host, _, port = arguments.listen.rpartition(":")
    try:
        asyncio.run(run(config, arguments.models, host=host, port=int(port)))
    except OSError as error:
        return _fail(f"cannot listen on {arguments.listen}: {error.strerror}")
    return 0


async def run(config: Config, folder: Path, *, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; prints the address when it is open."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
    # llama.cpp hangs up on idle connections without notice, so none is kept. The residencies bound how many.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, read_bufsize=READ_BUFFER_BYTES
    ) as session:
        engine = Engine(config, folder, session)
        try:
            async with serving(application(engine), host=host, port=port) as bound_port:
                print(f"listening on http://{host}:{bound_port}", flush=True)
                await stop.wait()
        finally:
            await engine.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local.runtime", description="Ollama's API over llama.cpp."
    )
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="port 0: any free one")
    parser.add_argument("--models", required=True, type=Path, metavar="DIR")
    return parser.parse_args()


def _fail(sentence: str, status: int = EXIT_FAILED) -> int:
    print(f"ollamesh: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
