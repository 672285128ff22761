"""Traffic from a process of its own, so that what it costs is not taken for what it asks."""

import asyncio
import subprocess
import sys
from typing import TypeVar

import msgspec

from tests.bench.support.report import ROOT

Record = TypeVar("Record")


async def run_apart(module: str, plan: object, record: type[Record]) -> Record:
    """Let a module that reads a plan and writes a record do so. Cancelled, it ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate(msgspec.json.encode(plan))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"{module} failed")
    return msgspec.json.decode(output, type=record)
