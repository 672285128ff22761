"""The jobs of all models for which not every slot will do: those that wait for one instance, and those that must
avoid some. Both are few, and so nobody has to visit all queues to find them.
"""

from collections.abc import Iterator, Mapping

from services.inference.core.hosts import Host
from services.inference.core.queues import Beside, Queue


class Aside:
    """Knows hosts and queues; changes only for which instances a job waits."""

    def __init__(self, hosts: Mapping[str, Host], queues: Mapping[str, Queue]) -> None:
        self._hosts = hosts
        self._queues = queues
        self._models: set[str] = set()  # In whose queues there may be such jobs.

    def add(self, model: str) -> None:
        """A job for `model` has been put aside."""
        self._models.add(model)

    def release(self, now_s: float) -> None:
        """Let jobs run anywhere that have waited long enough for one instance."""
        self._models = {
            model for model in self._models if model in self._queues and self._queues[model].beside
        }
        for queue, beside in self._all():
            if beside.only and beside.until_s <= now_s:
                queue.release(beside.job.ticket)

    def times_s(self) -> Iterator[float]:
        """Yield when `release` has something to do."""
        return (beside.until_s for _, beside in self._all() if beside.only)

    def let_return(self) -> set[str]:
        """Let jobs run again where they failed, if no other instance that is ready has their model any more.
        Return the models.
        """
        returning = set()
        for queue, beside in self._all():
            model = beside.job.model
            ready = {host.name for host in self._hosts.values() if host.slots and model in host.models}
            if beside.avoid and ready and ready <= beside.avoid:
                queue.release(beside.job.ticket)
                returning.add(model)
        return returning

    def _all(self) -> list[tuple[Queue, Beside]]:
        queues = (self._queues[model] for model in self._models if model in self._queues)
        return [(queue, beside) for queue in queues for beside in queue.beside]
