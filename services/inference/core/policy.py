"""The scheduler's knobs, with defaults that the simulator was used to choose (docs/decisions/0012-scheduling.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from services.inference.core.tables import Number, Tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    waiting_max: int = 100  # Waiting jobs per model.
    batch_waiting_share: float = 0.5  # Of the waiting places, what the batch class may take.
    weights: Mapping[str, float] = field(default_factory=dict)  # Of tenants; 1 for those not named.
    # Ageing: of the placements on an instance, up to this share goes to jobs that have waited longer than that,
    # whatever their class, the oldest first.
    ageing_s: float = 30.0
    aged_share: float = 0.1
    # Admission: of the time that its deadline leaves beside the answer itself, how much a job may be expected
    # to wait.
    wait_share_max: float = 0.3
    # Residency: a model that has work keeps its place for as long as so many of the loads that replacing it
    # and bringing it back would cost, and at least for so long.
    turn_loads: float = 10.0
    turn_min_s: float = 2.0
    # One that has none any more keeps it for this share of those loads: its callers may be about to ask again.
    linger_loads: float = 0.1
    # A second instance loads a model if that gives the last in the queue its turn sooner by this factor, and
    # so much more waits for it than for the one that must go, if that is waited for too.
    spread_gain: float = 1.0
    rival_gain: float = 2.0
    # Waiting for the instance that holds a prompt's prefix must be worth it by this factor, and end soon.
    hold_gain: float = 1.25
    hold_max_s: float = 5.0
    holds_max: int = 16  # Jobs per model that may wait for one instance alone.
    plan_every_s: float = 0.25  # How often the plan of who has which model is looked over while jobs wait.
    load_failures_max: int = 2  # In a row, everywhere: then those who wait are told.
    load_retry_s: float = 1.0  # After a failed load, doubling up to the maximum.
    load_retry_max_s: float = 60.0

    @property
    def aged_every(self) -> float:
        """How many placements on an instance there are to one of an aged job."""
        return 1.0 / self.aged_share if self.aged_share > 0 else inf

    def weight(self, tenant: str) -> float:
        return self.weights.get(tenant, 1.0)


def read_weights(text: str) -> tuple[Mapping[str, float], list[str]]:
    """Return the weights that a JSON table gives tenants, and every mistake in it."""
    tables = Tables()
    row = tables.top(text)
    weights = tables.settings(row, {tenant: Number(0.01, 1000) for tenant in row}, where="it")
    # 2 is 2.0, as it is when a recording is read back.
    return {tenant: float(weight) for tenant, weight in weights.items()}, tables.mistakes
