"""LangGraph's own saver for PostgreSQL, as its makers publish it: `published_saver.py DSN SECONDS CONCURRENCY` prints cycles/s.

Run by the peer's Python. It has a pool, as many connections as runs, and pipelines; it neither seals what it stores nor
asks who may store it.
"""

import sys

import uvloop
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver  # type: ignore[import-not-found,unused-ignore]
from psycopg.rows import dict_row  # type: ignore[import-not-found,unused-ignore]
from psycopg_pool import AsyncConnectionPool  # type: ignore[import-not-found,unused-ignore]

from tests.bench.peers.saver_cycles import cycles_per_s


async def main(dsn: str, seconds: float, concurrency: int) -> None:
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(dsn, max_size=concurrency, kwargs=options, open=False) as pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        savers = [(f"thread {number}", saver) for number in range(concurrency)]
        await cycles_per_s(savers, seconds / 4)  # Connections and plans are made.
        print(await cycles_per_s(savers, seconds))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
