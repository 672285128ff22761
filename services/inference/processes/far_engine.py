"""The engine as a worker has it: in another process. Requests wait there; what they do with a slot is done here.

    state    the head says       then
    -------  ------------------  ----------------------------------------------------------------------------------
    asking   Accepted, Refused   waiting; or its caller is told why not
    waiting  Run                 running
    waiting  Fail                its caller is told; gone
    running  Cancel              its task is cancelled, unless its caller has all that it will get
    running  (it ends)           Ended is sent; gone, or waiting again if the instance failed: Run or Fail follows

An instance that is not known here has failed. A caller that leaves is gone at once if it does not run. The head may
have sent Run meanwhile: it is answered with Ended, and nothing is started.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count

from services.common.errors import MeshError
from services.inference.core.admission import Order
from services.inference.core.jobs import Job, Priority
from services.inference.core.ledger import Card, InstanceView, Ledger, Report
from services.inference.core.wishes import Wishes
from services.inference.desk import Standing
from services.inference.engine import Terms
from services.inference.errors import QueueFull
from services.inference.ports import Fault, Instance, Trouble
from services.inference.processes import messages as told
from services.inference.processes.far_keeper import FarKeeper
from services.inference.work import Seat, Work

ASKING_MAX = 4096  # More unanswered requests than this: the head does not keep up.
STANDING_WITHIN_S = 5.0
# The head says something every second. After this much silence it may decide nothing any more.
SILENT_S = 5.0


@dataclass(slots=True)
class _Call:
    work: Work
    task: asyncio.Task[Trouble | None] | None = None
    started: bool = False


class FarEngine:
    """A Desk at the other end of a link, and the ledger that the head tells."""

    def __init__(
        self,
        instances: Mapping[str, Instance],
        ledger: Ledger,
        *,
        send: told.Send,
        stop: asyncio.Event,
        refused: Callable[[str], None],
    ) -> None:
        """`stop` is set when the head wants the worker to end. `refused` counts what is refused here, by reason."""
        self._instances = instances
        self._ledger = ledger
        self._send = send
        self._stop = stop
        self._refused = refused
        self.keeper = FarKeeper(send)
        self._numbers = count(1)
        self._calls: dict[int, _Call] = {}
        self._asking: dict[int, asyncio.Future[None]] = {}
        self._questions: dict[int, asyncio.Future[Standing]] = {}
        self._standing = Standing(busy={}, queues={})  # As last told.
        self._heard_at_s = float("-inf")

    @property
    def ready(self) -> bool:
        """Whether a request has a chance: an instance is ready, and the head decides."""
        return self._ledger.any_ready() and _now_s() - self._heard_at_s < SILENT_S

    @property
    def open_count(self) -> int:
        """How many requests are known here."""
        return len(self._calls)

    # Desk

    async def submit(self, order: Order, terms: Terms, work: Work) -> int:
        if len(self._asking) >= ASKING_MAX:
            self._refused(QueueFull.reason)
            raise QueueFull(waiting_max=ASKING_MAX)
        number = next(self._numbers)
        answer = self._asking[number] = asyncio.get_running_loop().create_future()
        self._calls[number] = _Call(work)
        self._send(
            told.Submit(
                number=number,
                operation=work.summary().operation,
                tenant=terms.tenant,
                model=order.model,
                priority=terms.priority.value,
                wait_max_s=terms.wait_max_s,
                total_max_s=terms.total_max_s,
                run_max_s=terms.run_max_s,
                prompt_token_count=order.prompt_token_count,
                output_token_max=order.output_token_max,
                prefixes=order.prefixes,
            )
        )
        try:
            await answer
        except asyncio.CancelledError:
            self.abandon(number)
            raise
        finally:
            del self._asking[number]
        return number

    def abandon(self, ticket: int) -> None:
        call = self._calls.get(ticket)
        if call is None or call.work.over:  # If it is, its task is only putting its connection away.
            return
        self._send(told.Abandon(number=ticket))
        if call.task is None:
            del self._calls[ticket]

    async def standing(self) -> Standing:
        """Ask the head; if it does not answer, this is as it was when it last did."""
        number = next(self._numbers)
        answer = self._questions[number] = asyncio.get_running_loop().create_future()
        self._send(told.Ask(number=number))
        try:
            async with asyncio.timeout(STANDING_WITHIN_S):
                self._standing = await answer
        except TimeoutError:
            pass
        finally:
            del self._questions[number]
        return self._standing

    async def end(self) -> None:
        """Abandon all that is left, and return when none of it runs and the head has been told so."""
        for number in list(self._calls):
            self.abandon(number)
        running = [call.task for call in self._calls.values() if call.task is not None]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)  # Who waits last is told last: `_ended` has been called.

    # What the head says

    def take(self, data: bytes) -> None:
        """Take a message of the head's."""
        self._heard_at_s = _now_s()
        message: told.FromHead = told.from_head(data)
        match message:
            case told.Run():
                self._run(message)
            case told.Cancel(number=number, wrong=wrong):
                self._cancel(number, wrong)
            case told.Seen():
                self._ledger.observe(self._view(message))
            case told.Standing(number=number):
                if (question := self._questions.get(number)) and not question.done():
                    question.set_result(_standing(message))
            case told.Kept():
                self.keeper.take(message)
            case told.Alive():
                """It was heard."""
            case told.Stop():
                self._stop.set()
            case _:
                self._waits(message)

    def _waits(self, message: told.Accepted | told.Refused | told.Place | told.Fail) -> None:
        """Hear of a request that does not run."""
        match message:
            case told.Accepted(number=number):
                self._answer(number, None)
            case told.Refused(number=number, wrong=wrong):
                self._calls.pop(number, None)
                self._answer(number, told.error_of(wrong))
            case told.Place(number=number, ahead_count=ahead_count, wait_s=wait_s):
                if call := self._calls.get(number):
                    call.work.queue(ahead_count, wait_s=wait_s)
            case told.Fail(number=number, wrong=wrong):
                if call := self._calls.pop(number, None):
                    call.work.fail(told.error_of(wrong))

    def _answer(self, number: int, error: Exception | None) -> None:
        answer = self._asking.get(number)
        if answer is None or answer.done():  # Its caller has left.
            return
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    def _run(self, run: told.Run) -> None:
        call = self._calls.get(run.number)
        if call is None:
            self._send(told.Ended(number=run.number, started=False))
            return
        instance = self._instances.get(run.instance)
        if instance is None:
            unknown = "unknown to the worker"
            self._send(told.Ended(number=run.number, started=False, fault=Fault.BROKEN.value, detail=unknown))
            return
        seat = Seat(
            name=run.instance,
            instance=instance,
            card=Card(name=run.model, digest=run.digest),
            first_token_s=run.first_token_s,
        )
        call.started = False
        call.task = asyncio.get_running_loop().create_task(_use(call, seat))
        call.task.add_done_callback(partial(self._ended, run.number, call))

    def _cancel(self, number: int, wrong: told.Wrong | None) -> None:
        call = self._calls.get(number)
        if call is None or call.task is None or call.work.over:
            return
        if wrong is not None:
            call.work.fail(told.error_of(wrong))
        call.task.cancel()

    def _ended(self, number: int, call: _Call, task: asyncio.Task[Trouble | None]) -> None:
        trouble = None if task.cancelled() else task.result()
        call.task = None
        if trouble is None:
            del self._calls[number]
        work = call.work
        summary = work.summary()
        self._send(
            told.Ended(
                number=number,
                started=call.started,
                cancelled=task.cancelled(),
                fault=0 if trouble is None else trouble.fault.value,
                detail="" if trouble is None else trouble.detail,
                begun=work.begun,
                may_restart=work.may_restart,
                over=work.over,
                usage=work.usage(),
                ended_at_s=summary.ended_at_s,
                first_token_at_s=summary.first_token_at_s,
                prompt_token_count=summary.prompt_token_count,
                output_token_count=summary.output_token_count,
                error=_reason(summary.error),
            )
        )

    def _view(self, seen: told.Seen) -> InstanceView:
        return InstanceView(
            name=seen.name,
            slots=seen.slots,
            unready_reason=seen.unready_reason,
            silent=seen.silent,
            seen_at=seen.seen_at,
            report=self._last_report(seen.name) if seen.report is None else seen.report.report(),
            gpus=seen.gpus,
            vram_bytes=seen.vram_bytes,
            breaker=seen.breaker,
            asked_at_s=seen.asked_at_s,
            wishes=Wishes(pinned=seen.pinned),
        )

    def _last_report(self, name: str) -> Report:
        return self._ledger.view(name).report


async def _use(call: _Call, seat: Seat) -> Trouble | None:
    """Use a slot; return how the instance failed, if it did."""
    call.started = True
    try:
        await call.work.run(seat)
    except Trouble as trouble:
        return trouble
    except Exception as error:  # noqa: BLE001 - its own caller learns of it; the others go on.
        call.work.fail(error)
    return None


def _standing(message: told.Standing) -> Standing:
    return Standing(
        busy=message.busy,
        queues={
            model: [_waiting(model, Priority(priority), at_s) for priority, at_s in jobs]
            for model, jobs in message.queues.items()
        },
    )


def _waiting(model: str, priority: Priority, arrived_at_s: float) -> Job:
    """A job as far as it is told of: nobody needs its tenant here."""
    return Job(
        ticket=0,
        tenant="",
        model=model,
        priority=priority,
        arrived_at_s=arrived_at_s,
        expires_at_s=float("inf"),
    )


def _reason(error: Exception | None) -> str | None:
    match error:
        case None:
            return None
        case MeshError():
            return error.reason
        case _:
            return ""


def _now_s() -> float:
    return asyncio.get_running_loop().time()
