"""A worker, as the head sees it: takes its requests to the engine, and tells it what is decided and believed."""

from collections.abc import Callable, Iterable, Mapping

import structlog

from services.common.errors import MeshError
from services.inference.core.jobs import Job, Priority
from services.inference.core.ledger import InstanceView, Report
from services.inference.engine import Engine, Terms
from services.inference.processes.counts import Share
from services.inference.processes.far_keeper import Keeping
from services.inference.processes.far_work import FarWork
from services.inference.processes.messages import (
    Abandon,
    Accepted,
    Ask,
    Counts,
    Doubt,
    Ended,
    Forgo,
    FromWorker,
    Keep,
    Listing,
    Refused,
    Seen,
    Send,
    Serving,
    Standing,
    Submit,
    from_worker,
    wrong,
)

log = structlog.get_logger(__name__)


class Branch:
    """One worker, from its start to its end."""

    def __init__(
        self,
        engine: Engine,
        *,
        send: Send,
        instances: Iterable[str],
        share: Share,
    ) -> None:
        self._engine = engine
        self._send = send
        self._instances = tuple(instances)
        self._share = share
        self.serving: Callable[[int], None] = lambda _: None  # Is told the worker's port once it takes calls.
        self._works: dict[int, FarWork] = {}
        self._tickets: dict[int, int] = {}
        self._keeping = Keeping(engine.keeper, send)
        self._reports: dict[str, Report] = {}  # As last told.
        self.unheard_rounds = 0  # Of the head, without a word from the worker.

    @property
    def open_count(self) -> int:
        """How many requests of the worker are known here."""
        return len(self._works)

    def take(self, data: bytes) -> None:
        """Take a message of the worker's."""
        self.unheard_rounds = 0
        message: FromWorker = from_worker(data)
        match message:
            case Submit():
                self._submit(message)
            case Ended(number=number):
                if number in self._works:
                    self._works[number].ended(message)
            case Abandon(number=number):
                self._abandon(number)
            case Counts(families=families):
                self._share.update(families)
            case Ask(number=number):
                self._send(self._standing(number))
            case Serving(port=port):
                self.serving(port)
            case Keep() | Forgo() | Doubt():
                self._keeping.take(message)

    def tell(self, view: InstanceView) -> None:
        """Tell the worker of an instance. What it has is told only when it has changed."""
        known = view.report == self._reports.get(view.name)
        self._reports[view.name] = view.report
        self._send(
            Seen(
                name=view.name,
                slots=view.slots,
                unready_reason=view.unready_reason,
                silent=view.silent,
                seen_at=view.seen_at,
                report=None if known else Listing.of(view.report),
                gpus=view.gpus,
                vram_bytes=view.vram_bytes,
                breaker=view.breaker,
                asked_at_s=view.asked_at_s,
                pinned=view.wishes.pinned,
            )
        )

    def lost(self) -> None:
        """The worker is gone: to the engine, all of its callers have left.

        The kernel has closed its connections, but an instance may read a prompt on, and a worker that is gone cannot
        say whether one does. So every slot that it used is given back when the instance has answered a probe.
        """
        for number, work in list(self._works.items()):
            if (ticket := self._tickets.get(number)) is not None:
                self._engine.abandon(ticket)
            work.lose()
        self._works.clear()
        self._tickets.clear()
        self._keeping.end()
        self._share.leave()

    def _submit(self, asked: Submit) -> None:
        number = asked.number
        work = FarWork(number, asked.operation, send=self._send, closed=self._close)
        terms = Terms(
            tenant=asked.tenant,
            priority=Priority(asked.priority),
            wait_max_s=asked.wait_max_s,
            total_max_s=asked.total_max_s,
            run_max_s=asked.run_max_s,
        )

        def accepted(ticket: int) -> None:
            self._works[number], self._tickets[number] = work, ticket
            self._send(Accepted(number=number))

        try:
            self._engine.submit(asked, terms, work, accepted=accepted)
        except MeshError as error:
            self._send(Refused(number=number, wrong=wrong(error)))
        except Exception as error:  # A bug of ours costs this request, and not all of the worker's.
            log.exception("bug", method="submit")
            self._send(Refused(number=number, wrong=wrong(error)))

    def _abandon(self, number: int) -> None:
        work = self._works.get(number)
        if work is None:
            return
        self._engine.abandon(self._tickets[number])
        if not work.running:
            self._close(number)

    def _close(self, number: int) -> None:
        self._works.pop(number, None)
        self._tickets.pop(number, None)

    def _standing(self, number: int) -> Standing:
        queues: Mapping[str, list[Job]] = self._engine.queues()
        return Standing(
            number=number,
            busy={name: dict(self._engine.busy(name)) for name in self._instances},
            queues={
                model: tuple((job.priority.value, job.arrived_at_s) for job in jobs)
                for model, jobs in queues.items()
            },
        )
