"""Carries out what the core decides: starts processes, listens for their ends, asks whether they answer.

Thin on purpose. The event loop is the lock: whatever touches the core does so without awaiting. Each
process is forked by the loop's own thread, because the kernel ties it to that thread (common/launch.py), and
waited for in another.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deploy.local.board import PartNotice
from deploy.local.core.supervision import (
    Decision,
    Failure,
    Interrupt,
    Kill,
    Prepare,
    Start,
    Supervision,
    View,
)
from deploy.local.diagnosis import diagnose
from deploy.local.logs import Log
from deploy.local.part import Command, Part
from deploy.local.probes import HopelessError, NotServingError, Probe, ProbeError, check
from deploy.local.spawn import Spawned, spawn
from services.common.restarts import RestartPolicy

PROBE_PAUSE_S = 0.05
# How long a part that may be unfit for this machine is given to find out.
UNFIT_AFTER_S = 15.0

log = logging.getLogger(__name__)

Publish = Callable[[Sequence[PartNotice], bool], None]
Note = Callable[[str, str], None]


class Supervisor:
    """`publish(parts, is_ready)` hears of every change; `note(part, line)` of a preparation's progress."""

    def __init__(
        self,
        parts: Sequence[Part],
        home: Path,
        *,
        publish: Publish,
        note: Note,
        policy: RestartPolicy,
    ) -> None:
        self._parts = {part.node.name: part for part in parts}
        self._home = home
        self._logs = {name: Log(home / "logs" / f"{name}.log") for name in self._parts}
        self._core = Supervision((part.node for part in parts), policy)
        self._publish, self._note = publish, note
        self._spawned: dict[str, Spawned] = {}
        self._changed = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._waiters = ThreadPoolExecutor(len(parts), thread_name_prefix="wait")

    def stop(self) -> None:
        self._core.stop()
        self._changed.set()

    async def run(self) -> Failure | None:
        """Until stopped, or until the stack failed to start; then no process of ours is left."""
        async with self._tasks:
            while not self._core.is_over:
                self._changed.clear()
                for decision in self._core.decide(_now_s()):
                    self._carry_out(decision)
                self._publish(self._notices(), self._core.is_ready)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self._core.next_wake_s()):
                        await self._changed.wait()
        self._waiters.shutdown()
        return self._core.failure

    def _carry_out(self, decision: Decision) -> None:
        part = self._parts[decision.name]
        match decision:
            case Prepare() if part.prepare is not None:
                self._spawn(part, part.prepare)
            case Start():
                self._spawn(part, part.run)
            case Interrupt(name):
                spawned = self._spawned[name]
                spawned.interrupt(part.stop_signal if spawned.command is part.run else signal.SIGTERM)
            case Kill(name):
                self._spawned[name].kill()

    def _spawn(self, part: Part, command: Command) -> None:
        name = part.node.name
        try:
            spawned = spawn(command, self._logs[name].begin(), follow=command is part.prepare)
        except OSError as error:
            self._ended(name, well=False, reason=f"it could not be started: {error.strerror}")
            return
        self._spawned[name] = spawned
        log.info("started %s pid=%d", name, spawned.process.pid)
        self._tasks.create_task(self._attend(part, spawned))

    async def _attend(self, part: Part, spawned: Spawned) -> None:
        """From the start of a process to its end."""
        name, loop = part.node.name, asyncio.get_running_loop()

        def note(line: str) -> None:
            loop.call_soon_threadsafe(self._note, name, line)

        asking = None
        if part.probe is not None and spawned.command is part.run:
            asking = self._tasks.create_task(self._ask(part, part.probe, spawned))
        code = await loop.run_in_executor(self._waiters, spawned.wait, note)
        if asking is not None:
            asking.cancel()
        log.info("ended %s pid=%d code=%d", name, spawned.process.pid, code)
        del self._spawned[name]
        self._ended(
            name, well=code == 0, reason=spawned.trouble if spawned.killed else self._diagnose(part, code)
        )

    async def _ask(self, part: Part, probe: Probe, spawned: Spawned) -> None:
        name, unfit_at_s = part.node.name, _now_s() + UNFIT_AFTER_S
        while True:
            try:
                await check(probe)
                break
            except ProbeError as error:
                spawned.trouble = str(error)
                if isinstance(error, HopelessError):
                    spawned.kill()
                    return
                if part.may_be_unfit and isinstance(error, NotServingError) and _now_s() > unfit_at_s:
                    self._note(name, f"{error}; `ollamesh doctor` tells why")
                    break
            await asyncio.sleep(PROBE_PAUSE_S)
        self._core.answered(name, _now_s())
        self._changed.set()

    def _ended(self, name: str, *, well: bool, reason: str) -> None:
        self._core.ended(name, _now_s(), well=well, reason=reason)
        self._changed.set()

    def _diagnose(self, part: Part, code: int) -> str:
        tail = self._logs[part.node.name].tail()
        return diagnose(
            tail, code=code, home=str(self._home), port=part.port, port_variable=part.port_variable
        )

    def _notices(self) -> list[PartNotice]:
        epoch_s = time.time() - _now_s()
        return [self._notice(view, epoch_s) for view in self._core.views()]

    def _notice(self, view: View, epoch_s: float) -> PartNotice:
        part, spawned = self._parts[view.name], self._spawned.get(view.name)
        return PartNotice(
            name=view.name,
            state=view.state,
            since=epoch_s + view.since_s,
            restarts=view.restarts,
            reason=view.reason,
            port=part.port,
            process=spawned.identity if spawned else None,
            log=str(self._logs[view.name].path),
            probe=part.probe,
            metrics=part.metrics,
        )


def _now_s() -> float:
    return asyncio.get_running_loop().time()
