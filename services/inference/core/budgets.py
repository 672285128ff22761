"""A slice of an account's budgets: what this process may spend without asking, and what it has spent.

The auth service keeps the ledger and gives slices of it, each with a lease. Requests are admitted against the slice, so
that none of them waits for a ledger; what they used is told a little later, as a sum, so that telling it twice adds nothing.

    used      sum of what ended under the reservation, and of what is owed from before there was one
    held      estimates of what was admitted and has not ended
    granted   what the slice is good for, `used` included; only of what has a limit

What was admitted ends. So the most that can be overspent is what the requests in flight cost beyond their estimates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

MICRO = 1_000_000
LOW_SHARE = 0.5  # Of a slice, to be left before it is filled up.
OUTPUT_TOKENS_FIRST = 256  # Of an answer, as long as nothing was seen.
GPU_US_PER_TOKEN_FIRST = 10_000
MEMORY = 0.05  # How much of an estimate each answer changes.


@dataclass(frozen=True, slots=True)
class Amount:
    """What work costs."""

    token_count: int = 0
    gpu_us: int = 0
    batch_item_count: int = 0

    @property
    def parts(self) -> tuple[int, int, int]:
        return (self.token_count, self.gpu_us, self.batch_item_count)

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(*map(sum, zip(self.parts, other.parts, strict=True)))

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(*(mine - its for mine, its in zip(self.parts, other.parts, strict=True)))


NOTHING = Amount()


@dataclass(frozen=True, slots=True)
class Payer:
    """Who is charged, all at once."""

    organization_id: str
    project_id: str
    api_key_id: str = ""

    @property
    def subjects(self) -> Mapping[str, str]:
        """Ids, by what they name."""
        ids = {
            "organization": self.organization_id,
            "project": self.project_id,
            "api_key": self.api_key_id,
        }
        return {kind: one for kind, one in ids.items() if one}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a slice cannot be larger."""

    quota: str  # Such as "organization.tokens_per_day".
    limit: str
    retry_after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the ledger gives."""

    amount: Amount = NOTHING
    limited: tuple[bool, bool, bool] = (False, False, False)
    stream_limits: Mapping[str, int] = field(default_factory=dict)  # By kind of subject.
    refusal: Refusal | None = None  # Why it is less than what is held.


@dataclass(slots=True)
class Slice:
    """One account's, in one process. Times are those of one clock."""

    reservation_id: str = ""  # Empty: there is none.
    grant: Grant = field(default_factory=Grant)
    used: Amount = NOTHING
    settled: Amount = NOTHING  # Of `used`, what the ledger knows.
    held: Amount = NOTHING
    until_s: float = 0.0  # How long the lease lasts.
    touched_s: float = 0.0
    spent_before: Amount = NOTHING  # `used`, when it was last filled up.
    refused_until_s: float = 0.0  # Nobody need ask before that who wants as much as who was refused.
    refused_token_count: int = 0
    filled_s: float = 0.0

    @property
    def owed(self) -> Amount:
        """What was used and not told yet."""
        return self.used - self.settled

    @property
    def is_idle(self) -> bool:
        return self.held == NOTHING and self.owed == NOTHING

    def fits(self, cost: Amount, *, now_s: float) -> bool:
        """Whether work of that cost may begin without asking."""
        if not self.reservation_id or now_s >= self.until_s:
            return False
        return self._left(cost)

    def _left(self, cost: Amount) -> bool:
        rows = zip(
            self.grant.limited,
            (self.used + self.held + cost).parts,
            self.grant.amount.parts,
            cost.parts,
            strict=True,
        )
        return all(spent <= granted for limited, spent, granted, own in rows if limited and own)

    @property
    def is_low(self) -> bool:
        """Whether it should be filled up before somebody has to wait for that."""
        free = self.grant.amount - self.used - self.held
        whole = self.grant.amount - self.spent_before
        rows = zip(self.grant.limited, free.parts, whole.parts, strict=True)
        return any(limited and left < LOW_SHARE * all_of_it for limited, left, all_of_it in rows)

    @property
    def wanted(self) -> Amount:
        """What would be welcome beyond what is held: twice what was spent since it was last filled up, or so."""
        spent = self.used - self.spent_before
        return Amount(
            *(2 * max(0, one) + other for one, other in zip(spent.parts, self.held.parts, strict=True))
        )

    def filled(self, grant: Grant, *, told: Amount, now_s: float, lease_s: float) -> None:
        """Hear what the ledger gives, now that it knows that `told` was used. `now_s` is when it was asked."""
        self.grant, self.settled, self.spent_before = grant, told, told
        self.until_s, self.filled_s = now_s + lease_s, now_s

    def refused(self, refusal: Refusal, cost: Amount, *, until_s: float) -> None:
        """Remember for a moment what was not to be had."""
        self.grant = replace(self.grant, refusal=refusal)
        self.refused_token_count, self.refused_until_s = cost.token_count, until_s

    def refuses(self, cost: Amount, *, now_s: float) -> bool:
        """Whether it is no use to ask. Costs in GPU time follow from those in tokens."""
        is_as_much = cost.token_count >= self.refused_token_count
        return is_as_much and now_s < self.refused_until_s and self.grant.refusal is not None

    def closed(self, *, told: Amount) -> None:
        """Hear that nothing is set aside any more: what was not told is owed to the next reservation."""
        self.used -= told
        self.reservation_id, self.settled, self.until_s, self.spent_before = "", NOTHING, 0.0, NOTHING


@dataclass(slots=True)
class Forecast:
    """What answers cost, as far as was seen: an estimate where a caller names no most."""

    output_token_count: float = OUTPUT_TOKENS_FIRST
    gpu_us_per_token: float = GPU_US_PER_TOKEN_FIRST

    def cost(self, *, prompt_token_count: int, output_token_max: int | None) -> Amount:
        """Of a request; `output_token_max` is None if it names none, 0 if there is no output."""
        output = round(self.output_token_count) if output_token_max is None else output_token_max
        token_count = prompt_token_count + output
        return Amount(token_count, round(token_count * self.gpu_us_per_token))

    def learn(self, *, output_token_count: int, token_count: int, gpu_us: int) -> None:
        """Hear of an answer that was made."""
        if output_token_count > 0:
            self.output_token_count += MEMORY * (output_token_count - self.output_token_count)
        if token_count > 0 and gpu_us > 0:
            self.gpu_us_per_token += MEMORY * (gpu_us / token_count - self.gpu_us_per_token)
