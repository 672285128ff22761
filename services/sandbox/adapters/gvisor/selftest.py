"""What the engine must refuse before it is trusted: hostile acts, tried at every start."""

import json
from dataclasses import replace
from pathlib import Path

from services.sandbox.adapters.trial import Build, tried
from services.sandbox.core.lifecycle import Ending, Outcome, Verdict, judge
from services.sandbox.core.limits import MEMORY_BYTES_MIN, LimitKind, Limits

WALLS = (Path(__file__).parent / "hostile.py").read_text()

# Makes processes without end, and does not mind a refusal.
FORKS = """
import os, time
while True:
    try:
        if os.fork() == 0:
            time.sleep(60)
    except OSError:
        pass
"""

MEMORY = "held = []\nwhile True: held.append(b'x' * (1 << 22))"
FILES = "with open('/work/large', 'wb') as file:\n    while True: file.write(b'x' * (1 << 20))"

# Low, to be reached soon; only that a copy of a Python process takes some 8 MiB in gVisor, and so do its copies.
LIMITS = Limits(memory_bytes=2 * MEMORY_BYTES_MIN, process_count=8, files_bytes=4 << 20)
ROOMY = replace(LIMITS, memory_bytes=8 * MEMORY_BYTES_MIN)
TIMEOUT_S = 20.0
_VERSION = Path("/proc/version").read_text()


async def breaches(build: Build, *, host_file: str, environment: list[str]) -> list[str]:
    """Try everything in jails that `build` makes. Return what was not refused.

    `host_file` is the absolute path of a file that exists here and not in a jail, and `environment` has
    the names of variables that are set here.
    """
    outside = {"host_file": host_file, "environment": environment, "version": _VERSION}
    ending, printed = await _run(build, WALLS, json.dumps(outside).encode())
    found = printed.splitlines()
    if ending is None or judge(None, ending) != Verdict(Outcome.OK):
        found.append("does not run a program")
    ending, _ = await _run(build, FORKS, limits=ROOMY)
    if ending is None or LimitKind.PROCESSES not in ending.reached:
        found.append("has no limit on processes")
    ending, _ = await _run(build, MEMORY)
    if ending is None or ending.breach is not LimitKind.MEMORY:
        found.append("has no limit on memory")
    ending, printed = await _run(build, FILES)
    if ending is None or "Error" not in printed:
        found.append("has no limit on files")
    return found


async def _run(
    build: Build, code: str, stdin: bytes = b"", *, limits: Limits = LIMITS
) -> tuple[Ending | None, str]:
    """Return how it ended, None if it did not, and what it wrote."""
    return await tried(build, code, stdin, limits=limits, timeout_s=TIMEOUT_S)
