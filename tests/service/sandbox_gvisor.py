"""The engine `gvisor` in this process, where runsc is installed; and why a test of it is left out, where not."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.sandbox.adapters.gvisor.engine import GvisorJails
from services.sandbox.adapters.gvisor.jail import GvisorJail
from services.sandbox.core.lifecycle import Ending
from services.sandbox.core.limits import Limits
from services.sandbox.ports import Program, Stream
from tests.service.sandbox_app import REPOSITORY, built_root

FETCHED = REPOSITORY / ".tools/gvisor/runsc"  # By `make gvisor`.
STARTING = "the engine is starting"
USUAL = Limits()
TIMEOUT_S = 60  # A jail takes a quarter of a second of a processor, and its self-test several.


def runsc() -> Path | None:
    named = os.environ.get("OLLAMESH_SANDBOX_RUNSC") or shutil.which("runsc")
    if named is not None:
        return Path(named)
    return FETCHED if FETCHED.exists() else None


needs_runsc = pytest.mark.skipif(runsc() is None, reason="runsc is not installed: run make gvisor")


@asynccontextmanager
async def engine(*, warm_count: int = 1, usual: Limits = USUAL) -> AsyncIterator[GvisorJails]:
    """An engine that has come up, or has found out why it cannot."""
    made = GvisorJails(built_root(), runsc=runsc(), usual=usual, warm_count=warm_count)
    task = asyncio.create_task(made.run())
    async with asyncio.timeout(TIMEOUT_S):
        while made.problem == STARTING:
            await asyncio.sleep(0.01)
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])


@dataclass(frozen=True, slots=True)
class Ran:
    ending: Ending
    written: Mapping[Stream, bytearray]

    @property
    def stdout(self) -> str:
        return self.written[Stream.STDOUT].decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        return self.written[Stream.STDERR].decode("utf-8", "replace")


def begin(jail: GvisorJail, program: Program) -> Mapping[Stream, bytearray]:
    """Return what will hold the output."""
    written = {stream: bytearray() for stream in Stream}
    jail.begin(program, lambda stream, data: written[stream].extend(data))
    return written


async def run(jails: GvisorJails, code: str, *, stdin: bytes = b"", limits: Limits = USUAL) -> Ran:
    jail = await jails.take(limits)
    try:
        written = begin(jail, Program(code.encode(), stdin))
        async with asyncio.timeout(TIMEOUT_S):
            return Ran(await jail.ended(), written)
    finally:
        jail.kill()
