"""Who had how much of which instance: GPU-seconds, in books that always add up.

While n slots of an instance are busy, each job on it has 1/n of it. Rather than visit all of them at every
event, an instance has a clock of its own that runs at the speed 1/n: what a job had is the time on that clock
from its start to its end. Every event is O(1).

For every instance: tenants + idle + load == wall.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

TENANTS_MAX = 10_000
OTHER = "other"  # Who has what tenants beyond the maximum had.


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What a job had of its instance."""

    gpu_s: float  # What its tenant pays.
    wall_s: float  # How long it had its slot.
    batch: float  # How many jobs shared the instance with it, itself included: the harmonic mean over time.


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Where an instance's time went, in seconds since it is watched. Running jobs count as if they ended now."""

    tenants: Mapping[str, float]
    idle_s: float  # Nobody had a slot, or somebody had one and the instance did nothing for it.
    load_s: float  # A model was loaded while nobody had a slot.
    wall_s: float


@dataclass(frozen=True, slots=True)
class _Run:
    instance: str
    tenant: str
    started_at_s: float
    started_at_share_s: float


@dataclass(slots=True)
class _Account:
    watched_from_s: float
    seen_at_s: float
    busy_count: int = 0
    load_count: int = 0  # Loads under way.
    share_s: float = 0.0  # The clock that runs at the speed 1/n, and stands still at 0 while nobody is there.
    idle_s: float = 0.0
    load_s: float = 0.0
    tenants: dict[str, float] = field(default_factory=dict)

    def advance(self, now_s: float) -> None:
        """Count the time since the last event, during which nothing changed."""
        passed_s = max(0.0, now_s - self.seen_at_s)
        self.seen_at_s = max(self.seen_at_s, now_s)
        if self.busy_count:
            self.share_s += passed_s / self.busy_count
        elif self.load_count:
            self.load_s += passed_s
        else:
            self.idle_s += passed_s


class Meter:
    """The time of every instance that is watched. `now_s` must not go back; where it does, it stands still."""

    def __init__(self, *, tenants_max: int = TENANTS_MAX) -> None:
        self._tenants_max = tenants_max
        self._tenants: set[str] = set()
        self._accounts: dict[str, _Account] = {}
        self._runs: dict[int, _Run] = {}

    def watch(self, instance: str, now_s: float) -> None:
        """From now on the instance's wall time counts. Idempotent."""
        self._account(instance, now_s)

    def start(self, instance: str, ticket: int, tenant: str, now_s: float) -> None:
        """A job takes a slot."""
        assert ticket not in self._runs, "a job has one slot"
        account = self._account(instance, now_s)
        account.busy_count += 1
        self._runs[ticket] = _Run(instance, self._named(tenant), account.seen_at_s, account.share_s)

    def stop(self, ticket: int, now_s: float, *, work_s: float | None) -> Charge:
        """A job's slot is free again.

        Of its share its tenant pays the part in which the instance worked on it, `work_s` of its wall time;
        the rest was idle. None: all of it, as for a job that was cut off before the instance could say.
        """
        run = self._runs.pop(ticket)
        account = self._account(run.instance, now_s)
        wall_s = account.seen_at_s - run.started_at_s
        share_s = account.share_s - run.started_at_share_s
        worked = 1.0 if work_s is None or wall_s <= 0 else min(1.0, max(0.0, work_s / wall_s))
        account.tenants[run.tenant] = account.tenants.get(run.tenant, 0.0) + share_s * worked
        account.idle_s += share_s * (1.0 - worked)
        account.busy_count -= 1
        if not account.busy_count:
            account.share_s = 0.0  # So that it keeps its precision for years.
        batch = max(1.0, wall_s / share_s) if share_s > 0 else 1.0
        return Charge(gpu_s=share_s * worked, wall_s=wall_s, batch=batch)

    def load_began(self, instance: str, now_s: float) -> None:
        self._account(instance, now_s).load_count += 1

    def load_ended(self, instance: str, now_s: float) -> None:
        account = self._account(instance, now_s)
        account.load_count = max(0, account.load_count - 1)

    def books(self, now_s: float) -> Mapping[str, Books]:
        """Return the books of every instance. O(tenants), for reports.

        It changes nothing: a clock that is read more often is rounded otherwise, and so would be later charges.
        """
        accounts = {instance: replace(account) for instance, account in self._accounts.items()}
        tenants = {}
        for instance, account in accounts.items():
            account.advance(now_s)
            tenants[instance] = dict(account.tenants)
        for run in self._runs.values():
            own = tenants[run.instance]
            share_s = accounts[run.instance].share_s - run.started_at_share_s
            own[run.tenant] = own.get(run.tenant, 0.0) + share_s
        return {
            instance: Books(
                tenants=tenants[instance],
                idle_s=account.idle_s,
                load_s=account.load_s,
                wall_s=account.seen_at_s - account.watched_from_s,
            )
            for instance, account in accounts.items()
        }

    def _account(self, instance: str, now_s: float) -> _Account:
        """Return the account, up to date; a new one if it is the first that is heard of the instance."""
        if account := self._accounts.get(instance):
            account.advance(now_s)
            return account
        return self._accounts.setdefault(instance, _Account(now_s, now_s))

    def _named(self, tenant: str) -> str:
        if tenant not in self._tenants:
            if len(self._tenants) >= self._tenants_max:
                return OTHER
            self._tenants.add(tenant)
        return tenant
