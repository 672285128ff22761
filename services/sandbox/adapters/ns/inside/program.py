"""The process that becomes the program.

It puts on what is left of the walls, says that it is ready, and sleeps until the code arrives: all that
can be done before is done before, so that a warm jail answers in a few milliseconds.
"""

import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from . import kernel, running
from .order import Order
from .running import Runner

OPEN_FILES_MAX = 256
# These two are counted for all jails together as well, against the limits of whoever runs the service: what one jail may
# have, times the jails of a machine, has to stay below those (on Linux by default, 8 MiB and some ten thousands).
LOCKED_BYTES_MAX = 1 << 16
PENDING_SIGNALS_MAX = 128
CORE_BYTES_MAX = 1  # With 0 the kernel would still hand cores to a program of the host, where it is set to.
DATA_FACTOR = 4  # Of the metered limit: a backstop that no healthy program reaches before the meter.

READY = b"1"

_ALLOWED = [("/", kernel.LANDLOCK_READ), ("/dev/null", kernel.LANDLOCK_WRITE_FILE)]
_WRITABLE = ["/work", "/tmp", "/dev/shm"]  # noqa: S108 -- the jail's own.


def inhabit(
    init: socket.socket, order: Order, runner_made: Callable[[], Runner], lock: Callable[[], None]
) -> NoReturn:
    """Wait on `init` for a program, become it, and end. `lock` drops what only building needed."""
    os.setsid()
    Path("/proc/self/oom_score_adj").write_text("1000")
    _limit(order)
    os.umask(0o077)
    kernel.no_new_privileges()
    kernel.landlock(_ALLOWED, _WRITABLE)
    lock()
    runner = runner_made()
    runner.prepare()
    init.send(READY)
    running.run_all(init, runner)


def _limit(order: Order) -> None:
    limits = {
        resource.RLIMIT_CORE: CORE_BYTES_MAX,
        resource.RLIMIT_NOFILE: OPEN_FILES_MAX,
        resource.RLIMIT_FSIZE: order.files_bytes,
        resource.RLIMIT_NPROC: order.process_count + 1,  # The init counts.
        resource.RLIMIT_MEMLOCK: LOCKED_BYTES_MAX,
        resource.RLIMIT_SIGPENDING: PENDING_SIGNALS_MAX,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if order.memory_bytes is not None:
        limits[resource.RLIMIT_DATA] = DATA_FACTOR * order.memory_bytes
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
