"""`python -m tests.service.sandbox_process [UID]`: the sandbox service, as another user if UID is given.

It prints its port. Everything is imported before it becomes that user, who may not be able to read
this checkout or the interpreter's library.
"""

import asyncio
import ctypes
import encodings.idna  # noqa: F401 - Else loaded on first use.
import os
import shutil
import sys
from collections.abc import Callable

from services.common.main import run_service
from services.sandbox.app import run
from services.sandbox.config import Config

PR_SET_DUMPABLE = 4


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # As in a process that this user started.
    if not os.access(sys.executable, os.X_OK):  # This user would have started it with another interpreter.
        sys.executable = shutil.which("python3", path=os.defpath) or sys.executable


async def run_and_tell(config: Config, stop: asyncio.Event, *, started: Callable[[int], None]) -> None:
    def tell(port: int) -> None:
        started(port)
        print(port, flush=True)  # noqa: T201 - To the test that waits for it.

    await run(config, stop, started=tell)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        become(int(sys.argv[1]))
    sys.exit(run_service("sandbox", Config.read, run_and_tell))
