"""Carries out the scheduler's decisions."""

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import assert_never

import structlog

from services.common.errors import MeshError
from services.inference.core.catalog import Catalog
from services.inference.core.decisions import Decision, Dispatch, Displace, Expire, Fail, Load, Unload
from services.inference.core.jobs import Errand, Job, Priority
from services.inference.core.ledger import InstanceView, Ledger, capacity
from services.inference.core.retries import RetryBudget
from services.inference.core.scheduler import Scheduler
from services.inference.core.wishes import WishBook
from services.inference.errors import QueueFull, QueueTimeout, TimeExceeded
from services.inference.health import Failure, Health
from services.inference.keeper import NearKeeper
from services.inference.places import Places
from services.inference.ports import Fault, Instance, Trouble
from services.inference.telemetry import Metrics
from services.inference.upkeep import Upkeep
from services.inference.work import Seat, Work, failure, first_token_max_s

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On whose behalf, how urgently, and until when."""

    tenant: str
    priority: Priority
    wait_max_s: float
    total_max_s: float  # By its own deadline: what cannot be done until then is refused.
    run_max_s: float  # By its policy: then it is ended, whoever else may have come to read it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What can be done with instances."""

    instances: Mapping[str, Instance]
    doubt: Callable[[str], None]  # Have it looked at now.
    restart: Callable[[str, str], bool]  # Start it anew, for a reason; false if that is not ours to do.


@dataclass(slots=True)
class _Call:
    job: Job
    work: Work
    task: asyncio.Task[Trouble | None] | None = None
    left_at_s: float | None = None  # When its caller left: whatever becomes of it, it is not tried again.
    timer: asyncio.TimerHandle | None = None


class Engine:
    """The scheduler's only user. The event loop is the lock: whatever touches the scheduler or the ledger
    does so without awaiting, so no task ever sees half a change.

    A slot is given back when its task has ended, and a task ends when the instance is done with the work: when
    the connection is closed or idle again, and, if it may still be reading a prompt that nobody waits for any
    more, when it has been seen to answer. Never because the caller has left.
    """

    def __init__(
        self,
        *,
        controls: Controls,
        ledger: Ledger,
        scheduler: Scheduler,
        catalog: Catalog,
        metrics: Metrics,
    ) -> None:
        self._instances = controls.instances
        self._doubt = controls.doubt
        self._ledger = ledger
        self._scheduler = scheduler
        self._catalog = catalog
        self._metrics = metrics
        wishes = WishBook(catalog)
        self._health = Health(controls.instances, ledger, restart=controls.restart, wishes=wishes)
        self._upkeep = Upkeep(controls.instances, ledger, catalog)
        self.keeper = NearKeeper(
            ledger, scheduler.residency, wishes, self._upkeep, doubt=controls.doubt, changed=self._wished
        )
        self._places = Places(scheduler, metrics)
        self._retries = RetryBudget()
        self._tickets = count()
        self._calls: dict[int, _Call] = {}
        self._loading: set[str] = set()  # Instances; each loads one model at a time.
        self._changed = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None  # Once it runs.
        self._context = contextvars.Context()  # Of its tasks: those of a caller's hold its token.
        self._bug: Exception | None = None

    # For callers

    def submit(
        self, order: Errand, terms: Terms, work: Work, *, accepted: Callable[[int], None] = lambda _: None
    ) -> int:
        """Queue `work` for a slot; return its ticket. Raises QueueFull and DeadlineUnreachable.

        `accepted` is told the ticket before anything becomes of the work, which may be at once.
        """
        now_s = self._now_s()
        job = Job(
            ticket=next(self._tickets),
            tenant=terms.tenant,
            model=order.model,
            priority=terms.priority,
            arrived_at_s=now_s,
            expires_at_s=now_s + terms.wait_max_s,
            deadline_at_s=now_s + terms.total_max_s,
            prompt_token_count=order.prompt_token_count,
            output_token_max=order.output_token_max,
            prefixes=order.prefixes,
        )
        try:
            self._scheduler.submit(job, now_s)
        except MeshError as error:
            self._metrics.refused(error.reason)
            self._changed.set()  # Its model may be worth loading.
            raise
        call = self._calls[job.ticket] = _Call(job, work)
        call.timer = asyncio.get_running_loop().call_at(now_s + terms.run_max_s, self._out_of_time, call)
        accepted(job.ticket)
        if self._tasks is not None and self._scheduler.is_first(job):
            self._place_at_once(self._tasks, now_s)
        if call.task is None:
            self._places.changed(order.model)
            self._changed.set()
        return job.ticket

    def abandon(self, ticket: int) -> None:
        """The caller is gone, for whatever reason. Idempotent and synchronous."""
        call = self._calls.get(ticket)
        if call is None or call.left_at_s is not None:
            return
        if call.task is None:
            self._scheduler.withdraw(ticket)
            self._forget(call)
        elif not call.work.over:  # If it is, the task is only putting its connection away.
            call.left_at_s = self._now_s()
            call.task.cancel()

    def observe(self, view: InstanceView) -> None:
        """Take note of what an instance is and has."""
        self._believe(self._health.observe(view, self._now_s(), idle=self._is_idle(view.name)))

    def busy(self, instance: str) -> Mapping[str, int]:
        """Return the slots in use on an instance, by model."""
        return self._scheduler.busy(instance)

    def queues(self) -> Mapping[str, list[Job]]:
        """Return the waiting jobs by model, each queue in its order."""
        return {model: self._scheduler.line(model) for model in self._scheduler.models_waited_for()}

    # The loop

    async def run(self) -> None:
        """Decide and carry out, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks, self._context = tasks, contextvars.copy_context()
            while True:
                if self._bug is not None:
                    raise self._bug
                now_s = self._now_s()
                self._decide(tasks, now_s)
                for name in self._health.take_probes(now_s):
                    probing = tasks.create_task(self._upkeep.probe(name))
                    probing.add_done_callback(partial(self._probed, name))
                self._tell_places(now_s)
                await self._next_change()

    def _place_at_once(self, tasks: asyncio.TaskGroup, now_s: float) -> None:
        """Decide for one who is first, and need not wait for the loop's next turn.

        A bug ends the process, as it does in the loop: what was decided counts as done, and would be lost.
        """
        try:
            self._decide(tasks, now_s)
        except Exception as error:  # noqa: BLE001 - It is raised where it belongs.
            self._bug = error
            self._changed.set()

    def _decide(self, tasks: asyncio.TaskGroup, now_s: float) -> None:
        for decision in self._scheduler.decide(now_s):
            self._carry_out(tasks, decision)

    def _carry_out(self, tasks: asyncio.TaskGroup, decision: Decision) -> None:
        match decision:
            case Dispatch(job, instance):
                self._places.changed(job.model)
                self._start(tasks, self._calls[job.ticket], instance)
            case Load(instance, model, cause):
                self._loading.add(instance)
                loading = tasks.create_task(self._upkeep.load(instance, model), context=self._context)
                loading.add_done_callback(partial(self._loaded, instance, model))
                log.info("model_load", instance=instance, model=model, cause=cause.value)
                self._metrics.load(model, cause)
            case Unload(instance, model):
                unloading = tasks.create_task(self._upkeep.unload(instance, model), context=self._context)
                unloading.add_done_callback(partial(self._unloaded, instance, model))
            case Expire(job):
                self._give_up(job, QueueTimeout())
            case Displace(job, waiting_max):
                self._metrics.refused("QUEUE_FULL")
                self._give_up(job, QueueFull(waiting_max=waiting_max))
            case Fail(job):
                crowded_out = self._scheduler.residency.crowded_out(job.model)
                self._give_up(job, crowded_out or self._upkeep.failure(job.model))
            case _:
                assert_never(decision)

    def _start(self, tasks: asyncio.TaskGroup, call: _Call, name: str) -> None:
        job = call.job
        if not job.avoid:
            self._retries.earn()
            self._metrics.placed(job.model, job.priority, waited_s=self._now_s() - job.arrived_at_s)
        seat = Seat(
            name=name,
            instance=self._instances[name],
            card=self._ledger.view(name).cards[job.model],
            first_token_s=first_token_max_s(
                reading_s=self._scheduler.reading_s(job.ticket),
                load_s=self._scheduler.load_s(name, job.model),
            ),
        )
        call.task = tasks.create_task(self._work(call, seat), context=self._context.copy())
        # Not a `finally` in the task: cancelled before its first step, it would never get there.
        call.task.add_done_callback(partial(self._ended, call, name))

    async def _work(self, call: _Call, seat: Seat) -> Trouble | None:
        try:
            await call.work.run(seat)
        except Trouble as trouble:
            log.warning(
                "instance_failed", instance=seat.name, fault=trouble.fault.name, detail=trouble.detail
            )
            return trouble
        except asyncio.CancelledError:
            if call.left_at_s is None or call.work.begun:
                raise
            # It may go on reading the prompt, deaf to the connection's end (ollama#11889).
            return await self._upkeep.until_idle(
                seat.name,
                call.job.model,
                after_s=self._scheduler.prompt_left_s(call.job.ticket, self._now_s()),
                reading_s=self._scheduler.reading_s(call.job.ticket),
            )
        except Exception as error:  # noqa: BLE001 - its own caller learns of it; the others go on.
            call.work.fail(error)
        return None

    # What became of it

    def _ended(self, call: _Call, name: str, task: asyncio.Task[Trouble | None]) -> None:
        now_s = self._now_s()
        call.task = None
        self._changed.set()
        trouble = None if task.cancelled() else task.result()
        usage = call.work.usage() if trouble is None and call.left_at_s is None else None
        settled = self._scheduler.end(call.job.ticket, usage, now_s)
        self._metrics.ran(call.job, settled)
        if call.left_at_s is not None:
            self._metrics.idle_again(now_s - call.left_at_s)
        if trouble is not None:
            self._blame(name, trouble, now_s, begun=call.work.begun)
            if self._retry(call, name):
                return
            call.work.fail(failure(call.work, name, trouble))
        elif usage is not None:
            self._health.succeeded(name, now_s)
        self._forget(call)

    def _blame(self, name: str, trouble: Trouble, now_s: float, *, begun: bool) -> None:
        """Draw the conclusions from an instance's trouble with a request, whose answer had `begun` or not."""
        failure = Failure.ORDINARY
        if trouble.fault is Fault.STALLED and self._is_idle(name):
            failure = Failure.WEDGED if begun else Failure.SILENT
        self._health.failed(name, now_s, failure)
        if trouble.fault is Fault.UNREACHABLE:
            self._believe(self._health.doubt(name, "it broke a connection", now_s))
            self._doubt(name)
        else:
            self._believe(self._health.view(name, now_s))

    def _retry(self, call: _Call, name: str) -> bool:
        """Queue a call again that failed on `name`, if another instance can have it and may."""
        # It has begun to wait for its answer: what bounds the wait for a slot bounds it no longer.
        job = replace(call.job, avoid=call.job.avoid | {name}, expires_at_s=call.job.deadline_at_s)
        elsewhere = any(
            view.ready and job.model in view.cards and view.name not in job.avoid
            for view in self._ledger.views()
        )
        if (
            call.left_at_s is not None
            or call.job.avoid
            or not call.work.may_restart
            or call.work.over
            or not elsewhere
            or not self._retries.spend()
        ):
            return False
        try:
            self._scheduler.submit(job, self._now_s())
        except QueueFull:  # A fleet that is that busy can do without.
            return False
        call.job = job
        self._places.changed(job.model)
        return True

    def _loaded(self, name: str, model: str, task: asyncio.Task[float | Trouble]) -> None:
        now_s = self._now_s()
        self._loading.discard(name)
        ended = None if task.cancelled() else task.result()
        load_s = ended if isinstance(ended, float) else None
        self._scheduler.loaded(name, model, ok=load_s is not None, load_s=load_s or 0.0, now_s=now_s)
        self._metrics.loaded(model, ok=load_s is not None)
        self.keeper.loaded(name, model, ok=load_s is not None)
        # An answer tells of the model, not of the instance; the scheduler sees to it that it is not tried at once.
        if isinstance(ended, Trouble) and ended.fault is not Fault.BROKEN:
            wedged = ended.fault is Fault.STALLED and self._is_idle(name)
            self._health.failed(name, now_s, Failure.WEDGED if wedged else Failure.ORDINARY)
            self._believe(self._health.view(name, now_s))
        self._doubt(name)
        self._changed.set()

    def _unloaded(self, name: str, model: str, task: asyncio.Task[Trouble | None]) -> None:
        self._scheduler.unloaded(name, model, self._now_s())
        self.keeper.unloaded(name, model, ok=not task.cancelled() and task.result() is None)
        self._doubt(name)
        self._changed.set()

    def _probed(self, name: str, task: asyncio.Task[Trouble | None]) -> None:
        if task.cancelled():
            return
        now_s = self._now_s()
        trouble = task.result()
        if trouble is None:
            self._health.succeeded(name, now_s)
        else:
            # It may have waited for others. A connection that broke is a process that ended, or will be seen to.
            wedged = trouble.fault is not Fault.UNREACHABLE and self._is_idle(name)
            self._health.failed(name, now_s, Failure.WEDGED if wedged else Failure.SILENT)
        self._believe(self._health.view(name, now_s))

    def _out_of_time(self, call: _Call) -> None:
        """End what runs for longer than its caller's policy allows; what waits expires by itself."""
        if call.task is not None and call.left_at_s is None and not call.work.over:
            call.work.fail(TimeExceeded())
            call.left_at_s = self._now_s()
            call.task.cancel()

    def _give_up(self, job: Job, error: Exception) -> None:
        call = self._calls[job.ticket]
        call.work.fail(error)
        self._forget(call)

    def _forget(self, call: _Call) -> None:
        if call.timer is not None:
            call.timer.cancel()
        del self._calls[call.job.ticket]
        self._metrics.settled(call.job, call.work.summary(), now_s=self._now_s())
        self._places.changed(call.job.model)
        self._changed.set()

    def _is_idle(self, name: str) -> bool:
        """Whether an instance has nothing to do, so that nothing of ours can be what it is slow with."""
        return name not in self._loading and not self._scheduler.busy(name)

    def _wished(self, name: str) -> None:
        self._believe(self._health.view(name, self._now_s()))

    def _believe(self, view: InstanceView) -> None:
        self._scheduler.observe(capacity(view, self._catalog), self._now_s())
        self.keeper.seen(view.name)
        self._changed.set()

    def _tell_places(self, now_s: float) -> None:
        for place in self._places.due(now_s):
            self._calls[place.job.ticket].work.queue(place.ahead_count, wait_s=place.wait_s)

    async def _next_change(self) -> None:
        times = [self._scheduler.next_wakeup_s(), self._health.next_probe_s(), self._places.next_s()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min((at_s for at_s in times if at_s is not None), default=None)):
                await self._changed.wait()
        self._changed.clear()

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()
