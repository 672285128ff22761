"""`python -m tests.fakes.fake_ollama --listen HOST:PORT [--token-ms N]`, with Ollama's own knobs."""

import argparse
import asyncio
import os
import signal
import sys

from deploy.local.runtime.config import Config
from services.common.config import Environment
from tests.fakes.fake_ollama.server import FakeOllama


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.fake_ollama")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--token-ms", type=float, default=0.0, help="pause before each token")
    arguments = parser.parse_args()
    host, _, port = arguments.listen.rpartition(":")
    config = Config.from_env(Environment(os.environ))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    fake = FakeOllama(
        parallel=config.parallel,
        waiting_max=config.waiting_max,
        keep_alive_s=config.keep_alive_s,
        token_s=arguments.token_ms / 1000,
    )
    await fake.serve(host=host, port=int(port))
    sys.stdout.write(f"listening on {fake.url}\n")
    sys.stdout.flush()
    await stop.wait()
    await fake.close()


if __name__ == "__main__":
    asyncio.run(main())
