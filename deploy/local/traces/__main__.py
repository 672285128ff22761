"""`python -m deploy.local.traces --port P --home DIR --bytes N --age S`: the part `traces` of the local stack."""

import argparse
import asyncio
import logging
import signal
import sqlite3
import sys
from pathlib import Path

from deploy.local.errors import disk_full
from deploy.local.traces.receiver import serving
from deploy.local.traces.records import FILE
from deploy.local.traces.store import TraceStore


async def _serve(store: TraceStore, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(
        store, f"127.0.0.1:{port}"
    ):  # Nobody has to say who they are, so nobody else gets here.
        await stop.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.traces", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--bytes", type=int, required=True, dest="bytes_max")
    parser.add_argument("--age", type=float, required=True, dest="age_max_s")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        store = TraceStore(given.home / FILE, bytes_max=given.bytes_max, age_max_s=given.age_max_s)
    except sqlite3.OperationalError as error:
        full = "full" in str(error)
        print(
            f"ollamesh: {disk_full(given.home) if full else f'{given.home / FILE} cannot be used ({error})'}",
            file=sys.stderr,
        )
        return 1
    asyncio.run(_serve(store, given.port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
