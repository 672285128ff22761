"""The engine `ns` in this process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.sandbox.adapters.ns.engine import NsJails
from services.sandbox.core.lifecycle import Ending, Verdict, judge
from services.sandbox.core.limits import Limits
from services.sandbox.ports import Program
from tests.service.sandbox_app import TIMEOUT_S, built_root

USUAL = Limits()


@asynccontextmanager
async def engine(
    *, starting: str = "the engine is starting", warm_count: int = 1, folder: Path | None = None
) -> AsyncIterator[NsJails]:
    """An engine that has come up, or has found out why it cannot."""
    made = NsJails(folder or built_root(), usual=USUAL, warm_count=warm_count)
    task = asyncio.create_task(made.run())
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while made.problem == starting:
                await asyncio.sleep(0.01)
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])


async def run(jails: NsJails, code: str) -> tuple[Verdict | None, str]:
    ending, output = await ended(jails, code)
    return judge(None, ending), output


async def ended(jails: NsJails, code: str, limits: Limits = USUAL) -> tuple[Ending, str]:
    output = bytearray()
    jail = await jails.take(limits)
    jail.begin(Program(code.encode(), b""), lambda _stream, data: output.extend(data))
    async with asyncio.timeout(TIMEOUT_S):
        return await jail.ended(), output.decode()
