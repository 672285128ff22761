"""What a job will cost, and when it could start: predictions from what was measured."""

from collections.abc import Mapping
from math import fsum, inf

from services.inference.core.estimates import Estimates
from services.inference.core.hosts import Host
from services.inference.core.jobs import Job
from services.inference.core.queues import Queue
from services.inference.core.residency import Residency

_SLOTS_EXACT_MAX = 16  # Up to so many slots, when the first is free is looked up rather than averaged.


class Forecast:
    """Knows hosts and queues, and changes neither."""

    def __init__(
        self,
        estimates: Estimates,
        residency: Residency,
        hosts: Mapping[str, Host],
        queues: Mapping[str, Queue],
    ) -> None:
        self._estimates = estimates
        self._residency = residency
        self._hosts = hosts
        self._queues = queues
        self._slots: dict[str, int] = {}  # By model, until instances change.

    def hosts_changed(self) -> None:
        self._slots.clear()

    def slot_s(self, job: Job, instance: str, *, reused_token_count: int, batch: int) -> float:
        """Predict for how long `job` takes a slot of `instance` (any, if empty), `batch` of them busy."""
        estimates = self._estimates
        new_count = max(0, job.prompt_token_count - reused_token_count)
        output_count = estimates.output_token_count(job.model, job.tenant, limit=job.output_token_max)
        return estimates.prefill_s(job.model, instance, new_count) + output_count * estimates.token_s(
            job.model, instance, batch=batch
        )

    def prefill_s(self, model: str, instance: str, token_count: int) -> float:
        """Predict how long `instance` reads so many tokens."""
        return self._estimates.prefill_s(model, instance, token_count)

    def answer_s(self, job: Job) -> float:
        """Predict how long `job` takes once it has a slot, beside as many for its model as an instance takes."""
        return self.slot_s(job, "", reused_token_count=0, batch=self._slots_for(job.model))

    def cost_s(self, job: Job) -> float:
        """Predict what `job` costs in GPU-seconds in such company."""
        return self.answer_s(job) / self._slots_for(job.model)

    def wait_s(self, job: Job, queue: Queue, now_s: float) -> float:
        """Predict how long `job` would wait if it came now; inf if nothing can be said."""
        start_s, rate = self.service(job, now_s, remember=True)
        if start_s == inf:
            return inf
        ahead = queue.ahead(job)
        return (start_s + ahead.gpu_s / rate) * self._estimates.wait_correction(job.model)

    def service(self, job: Job, now_s: float, *, remember: bool = False) -> tuple[float, float]:
        """Return when the next job for the model of `job` could start, and how many GPU-seconds jobs for it are
        given per second then: an instance gives one, to all of its models together. `remember`: as in
        `Residency.start_s`.
        """
        warm = [host for host in self._hosts.values() if host.slots and host.serves(job.model)]
        if not warm:
            return self._residency.start_s(job.model, now_s, remember=remember), 1.0
        # Exactly rounded, or the order in which instances were first seen would show.
        rate = fsum(self._rate(host, job.model) for host in warm)
        if any(host.free_for(job.model) > 0 for host in warm):
            return 0.0, rate
        slots = sum(host.slots_for(job.model) for host in warm)
        if slots <= _SLOTS_EXACT_MAX:
            return min(host.free_in_s(job.model, now_s) for host in warm), rate
        return self.answer_s(job) / (slots + 1), rate

    def _rate(self, host: Host, model: str) -> float:
        """Predict what `model` is given of an instance: an equal part of its slots, if it may use so many."""
        return min(1.0, host.slots / (host.slots_for(model) * (1 + self._rival_count(host, model))))

    def _slots_for(self, model: str) -> int:
        """Return how many jobs for `model` an instance runs at once: the largest of those that have it."""
        slots = self._slots.get(model, 0)
        if not slots:
            having = (host.slots_for(model) for host in self._hosts.values() if model in host.models)
            slots = self._slots[model] = max(having, default=0) or 1
        return slots

    def _rival_count(self, host: Host, model: str) -> int:
        return sum(other != model and other in self._queues for other in host.residents)
