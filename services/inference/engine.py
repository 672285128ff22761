"""Carries out the scheduler's decisions."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import assert_never

import structlog

from services.inference.core.ledger import InstanceView, Ledger, capacity
from services.inference.core.retries import RetryBudget
from services.inference.core.scheduler import Dispatch, Expire, Job, Priority, Scheduler
from services.inference.errors import InstanceFailed, InstanceLost, QueueFull, QueueTimeout, StreamStalled
from services.inference.ports import Fault, Instance, Trouble
from services.inference.telemetry import Metrics
from services.inference.work import Place, Work

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On whose behalf, how urgently, and until when."""

    tenant: str
    priority: Priority
    wait_max_s: float


@dataclass(slots=True)
class _Call:
    job: Job
    work: Work
    task: asyncio.Task[Trouble | None] | None = None
    left: bool = False  # Its caller has gone: whatever becomes of it, it is not tried again.


class Engine:
    """The scheduler's only user. The event loop is the lock: whatever touches the scheduler or the ledger
    does so without awaiting, so no task ever sees half a change.

    A slot is given back when its task has ended, and a task ends when the instance's connection is closed
    or idle again: never because the caller has left.
    """

    def __init__(
        self,
        *,
        instances: Mapping[str, Instance],
        doubt: Callable[[str], None],
        ledger: Ledger,
        waiting_max: int,
        metrics: Metrics,
    ) -> None:
        """`doubt` is told of an instance that broke a connection."""
        self._instances = instances
        self._doubt = doubt
        self._ledger = ledger
        self._scheduler = Scheduler(waiting_max=waiting_max)
        self._metrics = metrics
        self._retries = RetryBudget()
        self._tickets = count()
        self._calls: dict[int, _Call] = {}
        self._moved: set[str] = set()  # Models whose queue has changed since places were last told.
        self._changed = asyncio.Event()

    def submit(self, model: str, terms: Terms, work: Work) -> int:
        """Queue `work` for a slot; return its ticket. Raises QueueFull."""
        now_s = asyncio.get_running_loop().time()
        job = Job(
            ticket=next(self._tickets),
            tenant=terms.tenant,
            model=model,
            priority=terms.priority,
            arrived_at_s=now_s,
            expires_at_s=now_s + terms.wait_max_s,
        )
        self._scheduler.submit(job)
        self._calls[job.ticket] = _Call(job, work)
        self._queue_changed(model)
        return job.ticket

    def abandon(self, ticket: int) -> None:
        """The caller is gone, for whatever reason. Idempotent and synchronous."""
        call = self._calls.get(ticket)
        if call is None:
            return
        if call.task is None:
            self._forget(call)
        elif not call.work.over:  # If it is, the task is only putting its connection away.
            call.left = True
            call.task.cancel()

    def observe(self, view: InstanceView) -> None:
        """Take note of what an instance is and has."""
        self._ledger.observe(view)
        self._scheduler.observe(capacity(view))
        self._changed.set()

    def busy(self, instance: str) -> Mapping[str, int]:
        """Return the slots in use on an instance, by model."""
        return self._scheduler.busy(instance)

    def queues(self) -> Mapping[str, list[Job]]:
        """Return the waiting jobs by model, each queue in its order."""
        return {model: self._scheduler.line(model) for model in self._scheduler.models_waited_for()}

    async def run(self) -> None:
        """Decide and carry out, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                now_s = asyncio.get_running_loop().time()
                for decision in self._scheduler.decide(now_s):
                    call = self._calls[decision.job.ticket]
                    self._moved.add(decision.job.model)
                    match decision:
                        case Dispatch(_, instance):
                            self._start(tasks, call, instance)
                        case Expire(_):
                            call.work.fail(QueueTimeout())
                            self._forget(call)
                        case _:
                            assert_never(decision)
                self._tell_places()
                await self._next_change()

    def _start(self, tasks: asyncio.TaskGroup, call: _Call, name: str) -> None:
        job = call.job
        if not job.avoid:
            self._retries.earn()
            waited_s = asyncio.get_running_loop().time() - job.arrived_at_s
            self._metrics.placed(job.model, job.priority, waited_s=waited_s)
        card = self._ledger.view(name).cards[job.model]
        place = Place(name=name, instance=self._instances[name], card=card)
        call.task = tasks.create_task(self._carry_out(call.work, place))
        # Not a `finally` in the task: cancelled before its first step, it would never get there.
        call.task.add_done_callback(partial(self._ended, call, name))

    async def _carry_out(self, work: Work, place: Place) -> Trouble | None:
        try:
            await work.run(place)
        except Trouble as trouble:
            log.warning(
                "instance_failed", instance=place.name, fault=trouble.fault.name, detail=trouble.detail
            )
            return trouble
        except Exception as error:  # noqa: BLE001 - its own caller learns of it; the others go on.
            work.fail(error)
        return None

    def _ended(self, call: _Call, name: str, task: asyncio.Task[Trouble | None]) -> None:
        call.task = None
        self._scheduler.withdraw(call.job.ticket)
        trouble = None if task.cancelled() else task.result()
        if trouble is not None:
            if trouble.fault is Fault.UNREACHABLE:
                self.observe(self._ledger.view(name).doubted("it broke a connection"))
                self._doubt(name)
            if self._retry(call, name):
                return
            call.work.fail(_failure(call.work, name, trouble))
        self._forget(call)

    def _retry(self, call: _Call, name: str) -> bool:
        """Queue a call again that failed on `name`, if another instance can have it and may."""
        job = replace(call.job, avoid=call.job.avoid | {name})
        elsewhere = any(
            view.ready and job.model in view.cards and view.name not in job.avoid
            for view in self._ledger.views()
        )
        if (
            call.left
            or call.job.avoid
            or call.work.begun
            or call.work.over
            or not elsewhere
            or not self._retries.spend()
        ):
            return False
        try:
            self._scheduler.submit(job)
        except QueueFull:  # A fleet that is that busy can do without.
            return False
        call.job = job
        self._queue_changed(job.model)
        return True

    def _forget(self, call: _Call) -> None:
        self._scheduler.withdraw(call.job.ticket)
        del self._calls[call.job.ticket]
        now_s = asyncio.get_running_loop().time()
        self._metrics.settled(call.job, call.work.summary(), now_s=now_s)
        self._queue_changed(call.job.model)

    def _queue_changed(self, model: str) -> None:
        self._moved.add(model)
        self._changed.set()

    def _tell_places(self) -> None:
        for model in self._moved:
            line = self._scheduler.line(model)
            for ahead_count, job in enumerate(line):
                self._calls[job.ticket].work.queue(ahead_count)
            self._metrics.waiting(model, line)
        self._moved.clear()

    async def _next_change(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._scheduler.next_expiry_s()):
                await self._changed.wait()
        self._changed.clear()


def _failure(work: Work, name: str, trouble: Trouble) -> Exception:
    """What a caller is told of an instance's trouble."""
    if not work.begun:
        return InstanceFailed(instance=name)
    return StreamStalled() if trouble.fault is Fault.STALLED else InstanceLost()
