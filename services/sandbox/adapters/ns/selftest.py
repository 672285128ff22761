"""What an engine must refuse before it is trusted: hostile acts, tried at every start.

Kernels, container runtimes and settings differ, and a wall that is missing is not seen from outside.
Each act must fail in the jail and would succeed, or at least differ, without it.
"""

import json
from pathlib import Path

from services.sandbox.adapters.trial import Build, tried
from services.sandbox.core.lifecycle import Outcome, Verdict, judge
from services.sandbox.core.limits import MEMORY_BYTES_MIN, Limits

WALLS = (Path(__file__).parent / "hostile.py").read_text()

# Prints how many processes there could be.
FORKS = """
import os, time
count = 1
try:
    while count <= 1000:
        if os.fork() == 0:
            time.sleep(60)
        count += 1
except OSError:
    pass
print(count)
"""

MEMORY = "held = []\nwhile True: held.append(b'x' * (1 << 22))"

LIMITS = Limits(memory_bytes=MEMORY_BYTES_MIN, process_count=8)  # Low, to be reached soon.
TIMEOUT_S = 10.0


async def breaches(build: Build, *, host_file: str, environment: list[str]) -> list[str]:
    """Try everything in jails that `build` makes. Return what was not refused.

    `host_file` is the absolute path of a file that exists here and not in a jail, and `environment` has
    the names of variables that are set here.
    """
    outside = json.dumps({"host_file": host_file, "environment": environment}).encode()
    verdict, printed = await _run(build, WALLS, outside)
    found = printed.splitlines()
    if verdict != Verdict(Outcome.OK):
        found.append("does not run a program")
    _, printed = await _run(build, FORKS)
    if not printed.isdigit() or int(printed) > LIMITS.process_count:
        found.append("has no limit on processes")
    verdict, _ = await _run(build, MEMORY)
    if verdict != Verdict(Outcome.OOM):
        found.append("has no limit on memory")
    return found


async def starts(build: Build, limits: Limits) -> bool:
    """Whether a program of nothing ends well, in whatever language it is."""
    verdict, _ = await _run(build, "", limits=limits)
    return verdict == Verdict(Outcome.OK)


async def _run(
    build: Build, code: str, stdin: bytes = b"", *, limits: Limits = LIMITS
) -> tuple[Verdict | None, str]:
    ending, printed = await tried(build, code, stdin, limits=limits, timeout_s=TIMEOUT_S)
    return None if ending is None else judge(None, ending), printed
