"""The workers: started, told, listened to, started anew when they die, and ended with the head.

A worker is a program of its own, not a fork: gRPC does not survive one. It gets one end of a pair of sockets, and is
known to be gone when that end is closed, which the kernel does whatever ends it.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog

from services.common.launch import Guard
from services.common.restarts import RestartBudget, RestartPolicy
from services.inference.core.ledger import InstanceView, Ledger
from services.inference.engine import Engine
from services.inference.processes.branch import Branch
from services.inference.processes.counts import AllCounts
from services.inference.processes.link import Link
from services.inference.processes.messages import Alive, Stop

log = structlog.get_logger(__name__)

MODULE = "services.inference.processes"
ALIVE_EVERY_S = 1.0
# A worker tells its counts every second. One that hangs holds slots that nobody else can give back. Silence is counted
# in the head's own rounds, one every ALIVE_EVERY_S: in time that the head itself stood still nobody could be heard.
SILENT_ROUNDS = 30
START_ROUNDS = 60  # For its imports, on a machine that is busy with others'.
EXIT_S = 5.0  # From the end of its link to the end of its process.
ENDED_EVERY_S = 0.02  # How often a process is asked whether it has ended.
COOL_DOWN_S = 60.0  # For one that dies again and again.


class WorkerFailed(Exception):
    """A worker did not come up when the service started: it would not come up later either."""


@dataclass(slots=True)
class _Worker:
    place: int
    link: Link
    branch: Branch
    popen: subprocess.Popen[bytes]
    port: int = 0  # Once it serves.


class Staff:
    """All workers of one head."""

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        counts: AllCounts,
        *,
        instances: tuple[str, ...],
        count: int,
        variables: Mapping[str, str],
    ) -> None:
        """`variables`: what the workers' environment has beside, or instead of, what the head's has."""
        self._engine = engine
        self._ledger = ledger
        self._counts = counts
        self._instances = instances
        self._count = count
        self._variables = variables
        self._workers: dict[int, _Worker] = {}
        self._served: dict[int, int] = {}  # Ports of those that have served once, by place.
        self._stop = asyncio.Event()
        self._all_serve: Callable[[int], None] | None = None

    def tell(self, view: InstanceView) -> None:
        """Tell all workers what is believed of an instance."""
        for worker in self._workers.values():
            worker.branch.tell(view)

    async def run(self, stop: asyncio.Event, *, drain_s: float, started: Callable[[int], None]) -> None:
        """Keep them running until `stop`; have them drain for up to `drain_s`; end what is left.

        `started` is told the first port once all serve. Raises WorkerFailed if one cannot even start.
        """
        self._all_serve = started
        async with asyncio.TaskGroup() as tasks:
            keepers = [tasks.create_task(self._keep(place)) for place in range(self._count)]
            await stop.wait()
            self._stop.set()
            for worker in self._workers.values():
                worker.link.send(Stop())
            await asyncio.wait(keepers, timeout=drain_s)
            for keeper in keepers:
                keeper.cancel()

    async def _keep(self, place: int) -> None:
        """Run a worker, and run it again when it ends, until the head stops."""
        budget = RestartBudget(RestartPolicy())
        while not self._stop.is_set():
            try:
                await self._live(place)
            except OSError as error:  # For want of a process, a descriptor or memory: there may be one later.
                log.warning("worker_not_started", worker=place, error=str(error))
            if self._stop.is_set():
                return
            if place not in self._served:
                raise WorkerFailed(place)
            pause_s = budget.died(asyncio.get_running_loop().time())
            pause_s = COOL_DOWN_S if pause_s is None else pause_s
            log.warning("worker_restart", worker=place, restart_in_s=pause_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause_s)

    async def _live(self, place: int) -> None:
        """Run a worker once, to its end. Raises OSError if the machine has no room for one."""
        ours, popen = _spawned(place, self._variables)
        link, share = Link(), self._counts.share()
        branch = Branch(self._engine, send=link.send, instances=self._instances, share=share)
        worker = _Worker(place, link, branch, popen)
        branch.serving = partial(self._serves, worker)
        link.gives(branch.take)
        try:
            await _connected(link, ours)
            self._workers[place] = worker
            for view in self._ledger.views():
                branch.tell(view)
            if self._stop.is_set():
                link.send(Stop())
            await self._watch(worker)
        finally:
            self._workers.pop(place, None)
            link.abort()
            try:
                how = await _end(popen)
                log.info("worker_ended", worker=place, pid=popen.pid, how=how)
            finally:
                branch.lost()  # Now that its connections are closed.

    def _serves(self, worker: _Worker, port: int) -> None:
        worker.port = self._served[worker.place] = port
        log.info("worker_serves", worker=worker.place, pid=worker.popen.pid, port=port)
        if len(self._served) == self._count and self._all_serve is not None:
            self._all_serve(self._served[0])
            self._all_serve = None

    async def _watch(self, worker: _Worker) -> None:
        """Return when the worker is gone, or hangs."""
        while not worker.link.lost:
            rounds_max = SILENT_ROUNDS if worker.port else START_ROUNDS
            if worker.branch.unheard_rounds >= rounds_max:
                log.error("worker_silent", worker=worker.place, rounds=rounds_max)
                worker.popen.kill()
                return
            worker.branch.unheard_rounds += 1
            worker.link.send(Alive())
            with suppress(TimeoutError):
                async with asyncio.timeout(ALIVE_EVERY_S):
                    await worker.link.until_lost()


def _spawned(place: int, variables: Mapping[str, str]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start a worker; return our end of the pair of sockets, and its process.

    Not asyncio's own subprocess: on uvloop that is a fork, which runs gRPC's handlers.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        argv = (sys.executable, "-m", MODULE, str(theirs.fileno()), str(place))
        try:
            popen = subprocess.Popen(  # noqa: S603 - Ourselves.
                Guard().command(argv),
                env={**os.environ, **variables},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        except BaseException:
            ours.close()
            raise
    return ours, popen


async def _connected(link: Link, ours: socket.socket) -> None:
    """Have a link use our end; the end is closed with it, or if that fails."""
    try:
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
    except BaseException:
        ours.close()
        raise


async def _end(popen: subprocess.Popen[bytes]) -> str:
    """See to it that a process has ended, and return how. It has nothing to do any more."""
    try:
        await _ended(popen)
    finally:
        popen.kill()  # Without effect on one that has been waited for.
    status = await _ended(popen)
    if status is None:  # One that waits for a broken disk or driver cannot be killed.
        return "cannot be ended"
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"


async def _ended(popen: subprocess.Popen[bytes]) -> int | None:
    """Return a process's status once it has ended; None if that takes too long.

    Asked now and then, as `Popen.wait` does. Not in a thread: where no process can be started, no thread can either.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(EXIT_S):
            while popen.poll() is None:  # noqa: ASYNC110 - Nothing tells.
                await asyncio.sleep(ENDED_EVERY_S)
    return popen.poll()
