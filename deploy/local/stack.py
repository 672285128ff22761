"""What the command line and the tests call: `up`, `down`, `status`.

Synchronous, and not to be called from inside an event loop. Nothing is printed: `say` gets a line for
people now and then, and every failure is a StackError, whose text is the sentence to show.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence

from msgspec import Struct

from deploy.local import board, control
from deploy.local.board import PartNotice
from deploy.local.control import Outcome, Say
from deploy.local.identities import expiries
from deploy.local.probes import ProbeError, check
from deploy.local.process import Memory, memory_of_trees
from deploy.local.settings import Settings

UP_STATES = frozenset({"ready", "done"})


class PartStatus(Struct, frozen=True, kw_only=True):
    name: str
    state: str  # As the supervisor sees it: core/supervision.py.
    health: str  # "ok", or what is wrong, asked just now.
    port: int | None
    pid: int | None
    rss_bytes: int  # With all child processes.
    restarts: int
    since: float  # Seconds since the epoch.
    log: str
    metrics: str = ""  # The URL of what it measures.


class Status(Struct, frozen=True, kw_only=True):
    running: bool
    ready: bool
    home: str
    edge: str | None = None
    edge_tls: str | None = None
    model_source: str | None = None
    supervisor_pid: int | None = None
    parts: tuple[PartStatus, ...] = ()
    total_rss_bytes: int = 0  # The parts, the supervisor and its warden.
    certificates_until: float | None = None  # When the first of them expires, in seconds since the epoch.
    memory_measure: str = "pss"  # "rss" where the kernel does not tell: then shared pages count repeatedly.


def up(settings: Settings, say: Say) -> Outcome:
    """Start the stack in the background and return when all of it is ready. A second call is a no-op."""
    argv = (sys.executable, "-m", "deploy.local.supervise")
    return control.up(settings.home, argv, settings.variables(), say)


def down(settings: Settings, say: Say) -> bool:
    """Stop the stack and return when no process of it is left. False if there was none."""
    return control.down(settings.home, say)


def status(settings: Settings) -> Status:
    """Health and memory as they are now, the rest as the supervisor knows it."""
    running = board.of_running(settings.home)
    if running is None:
        return Status(running=False, ready=False, home=str(settings.home))
    healths = asyncio.run(_healths(running.parts))
    top = (running.warden or running.supervisor).pid
    pids = [part.process.pid for part in running.parts if part.process]
    memory = memory_of_trees([top, *pids])
    parts = tuple(_part(part, health, memory) for part, health in zip(running.parts, healths, strict=True))
    return Status(
        running=True,
        ready=bool(parts) and all(part.state in UP_STATES and part.health == "ok" for part in parts),
        home=str(settings.home),
        edge=running.edge,
        edge_tls=running.edge_tls or None,
        model_source=running.model_source,
        supervisor_pid=running.supervisor.pid,
        parts=parts,
        total_rss_bytes=memory[top].size_bytes,
        certificates_until=min(expiries(settings.home).values(), default=None),
        memory_measure=memory[top].measure,
    )


async def _healths(parts: Sequence[PartNotice]) -> list[str]:
    return await asyncio.gather(*map(_health, parts))


async def _health(part: PartNotice) -> str:
    if part.probe is None:
        return "ok" if part.state == "done" else part.reason or part.state
    if part.process is None:
        return part.reason or "not running"
    try:
        await check(part.probe)
    except ProbeError as error:
        return str(error)
    return "ok"


def _part(part: PartNotice, health: str, memory: Mapping[int, Memory]) -> PartStatus:
    return PartStatus(
        name=part.name,
        state=part.state,
        health=health,
        port=part.port,
        pid=part.process.pid if part.process else None,
        rss_bytes=memory[part.process.pid].size_bytes if part.process else 0,
        restarts=part.restarts,
        since=part.since,
        log=part.log,
        metrics=part.metrics,
    )
