"""One program in one jail, as the self-tests of engines run them."""

import asyncio
from collections.abc import Awaitable, Callable

from services.sandbox.core.lifecycle import Ending
from services.sandbox.core.limits import Limits
from services.sandbox.ports import Jail, Program

Build = Callable[[Limits], Awaitable[Jail]]


async def tried(
    build: Build, code: str, stdin: bytes, *, limits: Limits, timeout_s: float
) -> tuple[Ending | None, str]:
    """Return how it ended, None if it did not in time, and what it wrote."""
    output = bytearray()
    jail = await build(limits)
    try:
        async with asyncio.timeout(timeout_s):
            jail.begin(Program(code.encode(), stdin), lambda _stream, data: output.extend(data))
            return await jail.ended(), output.decode("utf-8", "replace").strip()
    except TimeoutError:
        return None, ""
    finally:
        jail.kill()
