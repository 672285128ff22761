"""Where a job runs: on the instance that would be done with it first.

What differs between instances is how fast each is, how many jobs would share it, and how much of the prompt
one of them still holds. A conversation goes back to the instance that holds its prefix, and even waits for
it, but only if that is predicted to be done sooner than starting over elsewhere at once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from services.inference.core.forecast import Forecast
from services.inference.core.hosts import Host
from services.inference.core.jobs import Job
from services.inference.core.policy import Policy
from services.inference.core.prefixes import Prefixes
from services.inference.core.queues import Queue

_HOLD_SLACK_S = 0.05
_HOLDERS_MAX = 3


class Placement:
    """Chooses; changes nothing but which jobs wait for one instance alone."""

    def __init__(
        self, policy: Policy, forecast: Forecast, prefixes: Prefixes, hosts: Mapping[str, Host]
    ) -> None:
        self._policy = policy
        self._forecast = forecast
        self._prefixes = prefixes
        self._hosts = hosts

    def candidates(self, hosts: Iterable[Host], queues: Mapping[str, Queue]) -> dict[str, list[Host]]:
        """Return the models that somebody waits for and one of `hosts` takes a job for; with those hosts."""
        found: dict[str, list[Host]] = {}
        if queues:
            for host in hosts:
                for model in host.residents:
                    if model in queues and host.takes(model):
                        found.setdefault(model, []).append(host)
        return found

    def reusable(self, job: Job) -> Mapping[str, int]:
        """Return how many tokens of the prompt each instance probably still holds."""
        return self._prefixes.reusable(job.model, job.prefixes) if job.prefixes else {}

    def choose(self, job: Job, queue: Queue, hosts: Sequence[Host], now_s: float) -> Host | None:
        """Return which of `hosts` would be done first; None if `job` should rather wait for another one, and
        from now on does.
        """
        reusable = self.reusable(job)
        ranks = [
            ((self._done_s(job, host, reusable.get(host.name, 0)), -host.free, host.name), host)
            for host in hosts
            if queue.may_run_on(job, host.name)
        ]
        (done_s, _, _), chosen = min(ranks, key=lambda ranked: ranked[0])
        for name, token_count in self._holders(job, chosen, reusable, done_s):
            holder = self._hosts[name]
            if self._worth_holding(job, queue, holder, token_count, done_s=done_s, now_s=now_s):
                queue.hold(job.ticket, name, now_s + 2 * holder.free_in_s(job.model, now_s) + _HOLD_SLACK_S)
                return None
        return chosen

    def _holders(
        self, job: Job, chosen: Host, reusable: Mapping[str, int], done_s: float
    ) -> Iterator[tuple[str, int]]:
        """Yield the few instances that hold so much more of the prompt that not reading it could be worth a wait."""
        at_hand = reusable.get(chosen.name, 0)
        least_s = done_s * (1.0 - 1.0 / self._policy.hold_gain)
        found = sorted((-count, name) for name, count in reusable.items() if count > at_hand)
        for count, name in found[:_HOLDERS_MAX]:
            if self._forecast.prefill_s(job.model, chosen.name, -count - at_hand) < least_s:
                return
            yield name, -count

    def _done_s(self, job: Job, host: Host, reused_token_count: int) -> float:
        batch = len(host.running) + 1
        return self._forecast.slot_s(job, host.name, reused_token_count=reused_token_count, batch=batch)

    def _worth_holding(
        self,
        job: Job,
        queue: Queue,
        holder: Host,
        reused_token_count: int,
        *,
        done_s: float,
        now_s: float,
    ) -> bool:
        """Whether to wait for the instance that holds a prefix beats `done_s`, starting over elsewhere now."""
        if (
            holder.free_for(job.model) > 0
            or not holder.serves(job.model)
            or len(queue.beside) >= self._policy.holds_max
        ):
            return False
        if queue.is_beside(job.ticket):  # It has waited once, or must avoid somebody.
            return False
        free_s = holder.free_in_s(job.model, now_s)
        if free_s > self._policy.hold_max_s or now_s + free_s >= job.expires_at_s:
            return False
        there_s = free_s + self._forecast.slot_s(
            job, holder.name, reused_token_count=reused_token_count, batch=holder.slots
        )
        return there_s * self._policy.hold_gain < done_s
