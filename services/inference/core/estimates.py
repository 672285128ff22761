"""How long things will take, learned from how long they took.

By model and instance; for an instance that has not had the model, by the model on all the others; for a model
that nobody had, a prior. Priors are optimistic, that of fast hardware and small models: admission refuses by
these estimates, and what is refused teaches nothing, so a pessimistic prior would never be found out.

A question costs one or two look-ups. What is remembered is bounded: what was learned longest ago goes first.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from math import inf
from typing import Generic, Protocol, TypeVar

from services.inference.core.averages import VALUE_MAX, Average, Line
from services.inference.core.usage import Usage

PREFILL_TOKEN_S = 1 / 10_000
TOKEN_S = 1 / 250
TOKEN_EXTRA_S = TOKEN_S / 20
LOAD_BYTES_PER_S = 8e9  # A file in the page cache, over PCIe.
LOAD_S = 0.5  # Of a model whose size is unknown.
OUTPUT_TOKEN_COUNT = 200.0

PREFILL_TOKENS_MIN = 32  # Of fewer new tokens, the time is that of starting.
PREFILL_TOKENS_WHOLE = 256  # From as many on, a prompt counts fully.
OUTPUT_TOKENS_MIN = 4
CORRECTION_MIN, CORRECTION_MAX = 0.5, 4.0
CORRECTION_STEP = 0.1
CORRECTION_FROM_S = 0.1  # Of shorter waits, the ratio is noise.

VERSION = 1
ROWS_MAX = 4_096  # Of each kind: pairs of a model and an instance or a tenant, and models.
EXPORTED_MAX = 1_000  # Of each kind, the latest.

_ANY = ""  # The instance or tenant under which all of a model's are learned together.


class _Learner(Protocol):
    def numbers(self) -> list[float]: ...
    def restore(self, numbers: Sequence[float]) -> bool: ...


L = TypeVar("L", bound=_Learner)


class _Table(Generic[L]):
    """What learns, by model and instance or tenant. At the bound, what learned longest ago is forgotten."""

    def __init__(self, fresh: Callable[[], L], *, rows_max: int) -> None:
        self._fresh = fresh
        self._rows_max = rows_max
        self.rows: OrderedDict[tuple[str, str], L] = OrderedDict()

    def learners(self, model: str, of: str) -> tuple[L, L]:
        """Return what learns from an observation: the pair's own, and the whole model's."""
        whole = self._row((model, _ANY))
        own = self._row((model, of))
        self.rows.move_to_end((model, _ANY))  # So that a model is forgotten after its pairs.
        return own, whole

    def find(self, model: str, of: str) -> L | None:
        """Return what is known of the pair, or else of the model."""
        return self.rows.get((model, of)) or self.rows.get((model, _ANY))

    def _row(self, key: tuple[str, str]) -> L:
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = self._fresh()
            if len(self.rows) > self._rows_max:
                self.rows.popitem(last=False)
        self.rows.move_to_end(key)
        return row

    def export(self) -> Sequence[object]:
        latest = islice(reversed(self.rows.items()), EXPORTED_MAX)
        return [[model, of, *row.numbers()] for (model, of), row in latest][::-1]

    def restore(self, exported: object) -> None:
        """Take over rows that make sense, as the oldest; what was learned since the start stays."""
        for row in reversed(exported[-EXPORTED_MAX:]) if isinstance(exported, list) else ():
            match row:
                case [str(model), str(of), *numbers] if all(_in_range(number) for number in numbers):
                    self._restore((model, of), [float(number) for number in numbers])

    def _restore(self, key: tuple[str, str], numbers: Sequence[float]) -> None:
        row = self._fresh()
        if key not in self.rows and len(self.rows) < self._rows_max and row.restore(numbers):
            self.rows[key] = row
            self.rows.move_to_end(key, last=False)


class Estimates:
    """What is known of every model's speed, by instance, and of its answers' length, by tenant."""

    def __init__(self, *, rows_max: int = ROWS_MAX) -> None:
        assert rows_max > 1, "a pair, and its model"
        self._rows_max = rows_max
        self._load_s = _Table(lambda: Average(0.8), rows_max=rows_max)
        self._prefill_token_s = _Table(lambda: Average(0.9), rows_max=rows_max)
        self._token_s = _Table(lambda: Line(0.96), rows_max=rows_max)
        # Lengths are bounded, and any is possible.
        self._output_token_count = _Table(lambda: Average(0.95, surprise_max=inf), rows_max=rows_max)
        self._wait_corrections: OrderedDict[str, float] = OrderedDict()

    def load_s(self, model: str, instance: str, *, vram_bytes: int = 0) -> float:
        """Return how long loading takes. `vram_bytes`: the model's size, 0 if unknown."""
        known = self._load_s.find(model, instance)
        if known:
            return known.value
        return vram_bytes / LOAD_BYTES_PER_S if vram_bytes > 0 else LOAD_S

    def prefill_s(self, model: str, instance: str, token_count: int) -> float:
        """Return how long reading so many tokens takes, none of them reused."""
        known = self._prefill_token_s.find(model, instance)
        return token_count * (known.value if known else PREFILL_TOKEN_S)

    def reads(self, model: str, instance: str) -> bool:
        """Return whether it was measured how fast this very instance reads for the model."""
        return (model, instance) in self._prefill_token_s.rows

    def token_s(self, model: str, instance: str, *, batch: float) -> float:
        """Return a request's time per output token where `batch` requests decode together, itself included."""
        known = self._token_s.find(model, instance)
        others = batch - 1.0 if batch > 1.0 else 0.0
        if known:
            return known.alone_s + known.extra_s * others
        return TOKEN_S + TOKEN_EXTRA_S * others

    def output_token_count(self, model: str, tenant: str, *, limit: int) -> float:
        """Return how long an answer is expected to be. `limit`: the most that it may be, 0 if none is set."""
        known = self._output_token_count.find(model, tenant)
        count = known.value if known else OUTPUT_TOKEN_COUNT
        return min(count, limit) if limit > 0 else count

    def wait_correction(self, model: str) -> float:
        """Return by what predicted waits for a model were too short lately: 1 if they were right."""
        return self._wait_corrections.get(model, 1.0)

    def known(self, model: str) -> bool:
        """Return whether anything of a model's speed was measured."""
        key = (model, _ANY)
        return key in self._token_s.rows or key in self._prefill_token_s.rows or key in self._load_s.rows

    def learn_load(self, model: str, instance: str, load_s: float) -> None:
        if _believable(load_s):
            for average in self._load_s.learners(model, instance):
                average.learn(load_s)

    def learn_work(
        self, model: str, instance: str, tenant: str, *, usage: Usage, reused_token_count: int, batch: float
    ) -> None:
        """Learn from a request that ended by itself.

        `reused_token_count` is how much of its prompt the instance is thought to have had already. `batch`: as
        in `Charge`.
        """
        new_token_count = usage.prompt_token_count - reused_token_count
        # A guess at what was reused is worth something only where it makes little difference.
        if new_token_count >= max(PREFILL_TOKENS_MIN, reused_token_count) and _believable(usage.prompt_s):
            weight = min(1.0, new_token_count / PREFILL_TOKENS_WHOLE)
            for average in self._prefill_token_s.learners(model, instance):
                average.learn(usage.prompt_s / new_token_count, weight=weight)
        if (
            usage.output_token_count >= OUTPUT_TOKENS_MIN
            and _believable(usage.output_s)
            and 1.0 <= batch < inf
        ):
            for line in self._token_s.learners(model, instance):
                line.learn(usage.output_s / usage.output_token_count, batch=batch)
        if usage.output_token_count > 0 or usage.prompt_token_count > 0:  # Embeddings have no output.
            for average in self._output_token_count.learners(model, tenant):
                average.learn(max(0, usage.output_token_count))

    def learn_wait(self, model: str, *, predicted_s: float, actual_s: float) -> None:
        """Learn from a job that got its slot. `predicted_s`: without the correction."""
        if not max(predicted_s, actual_s) >= CORRECTION_FROM_S:
            return
        ratio = actual_s / max(predicted_s, CORRECTION_FROM_S)
        bounded = min(max(ratio, CORRECTION_MIN), CORRECTION_MAX)
        before = self._wait_corrections.pop(model, 1.0)
        self._wait_corrections[model] = before + CORRECTION_STEP * (bounded - before)
        if len(self._wait_corrections) > self._rows_max:
            self._wait_corrections.popitem(last=False)

    def export(self) -> dict[str, object]:
        """Return what is to be kept for the next start, as JSON can hold it: the latest of each kind."""
        return {"version": VERSION, **{name: table.export() for name, table in self._tables()}}

    def restore(self, exported: Mapping[str, object]) -> None:
        """Take over what `export` returned. What makes no sense is left out, as is another version."""
        if exported.get("version") == VERSION:
            for name, table in self._tables():
                table.restore(exported.get(name))

    def _tables(self) -> Iterator[tuple[str, _Table[Average] | _Table[Line]]]:
        yield "load_s", self._load_s
        yield "prefill_token_s", self._prefill_token_s
        yield "token_s", self._token_s
        yield "output_token_count", self._output_token_count


def _in_range(number: object) -> bool:
    return isinstance(number, int | float) and -VALUE_MAX <= number <= VALUE_MAX


def _believable(seconds: float) -> bool:
    return 0 < seconds <= VALUE_MAX
