"""Answers that were given before, and may be given again to the same tenant.

    lookup = await cache.find(tenant, order, canonical=…, model_digest=…, wishes=…)
    lookup.cached    a whole answer, to be told again (cached.replay)
    lookup.keeping   else, if the answer may be kept: write each piece to it, and its end

What cannot be looked up is generated: no failure of the cache reaches a caller, but for a purge that did not happen.
"""

from dataclasses import dataclass

from services.inference.cache_keeper import Keeper, Place
from services.inference.cache_metrics import CacheMetrics, Drop, Result
from services.inference.cached import FORM, Cached, Recording, decoded, encoded
from services.inference.completion import Started
from services.inference.core.admission import Order
from services.inference.core.asks import Chat, Embed, Generate
from services.inference.core.caching import may_keep, may_look
from services.inference.core.callers import Wishes
from services.inference.errors import CacheUnavailable
from services.inference.ports import EndReason, Outcome, Piece
from services.inference.vault import Found, Vault, VaultAway


class Keeping:
    """Records an answer while it comes, and has it kept if it ends well. Never ended, it is forgotten."""

    def __init__(
        self,
        place: Place,
        name: bytes,
        *,
        model_digest: str,
        bytes_max: int,
        keeper: Keeper,
        metrics: CacheMetrics,
    ) -> None:
        self._place = place
        self._name = name
        self._model_digest = model_digest
        self._bytes_max = bytes_max
        self._recording = Recording(bytes_max=bytes_max)
        self._keeper = keeper
        self._metrics = metrics

    def write(self, piece: Piece) -> None:
        """Take what was generated."""
        self._recording.write(piece)

    def finish(self, started: Started, outcome: Outcome) -> None:
        """Keep the answer, which is whole, if it is one to give again."""
        recording = self._recording
        if not may_keep(
            stopped=outcome.reason is EndReason.STOP,
            called_tools=recording.called_tools,
            has_logprobs=recording.has_logprobs,
            asked_of=self._model_digest,
            answered_by=started.model_digest,
        ):
            return
        if not recording.is_too_long:
            value = encoded(recording.cached(started, outcome))
            if len(value) <= self._bytes_max:
                self._keeper.keep(self._place, [(self._name, value)])
                return
        self._metrics.dropped(self._place.operation, Drop.LARGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """What was found. Neither: the answer is not one to look up, or the cache is away."""

    cached: Cached | None = None
    keeping: Keeping | None = None


class AnswerCache:
    """Looks answers up by what was asked. `keeper.run` must run."""

    def __init__(self, vault: Vault, keeper: Keeper, metrics: CacheMetrics, *, entry_bytes_max: int) -> None:
        self._vault = vault
        self._keeper = keeper
        self._metrics = metrics
        self._entry_bytes_max = entry_bytes_max

    async def find(
        self, tenant: str, order: Order, *, canonical: bytes, model_digest: str, wishes: Wishes
    ) -> Lookup:
        """Look for an answer to `order`, which was admitted. `canonical` is its canonical form."""
        assert not isinstance(order.ask, Embed), "vectors are kept by text"
        operation = "chat" if isinstance(order.ask, Chat) else "text_completion"
        if not model_digest or not may_look(order.ask, wishes.cache_policy):
            self._metrics.looked(operation, Result.BYPASS)
            return Lookup()
        name = _name(order.model, canonical, by_token=wishes.by_token)
        try:
            found = await self._vault.find(tenant, order.model, [name])
        except VaultAway:
            self._metrics.looked(operation, Result.ERROR)
            return Lookup()
        if (cached := self._decoded(found)) is not None:
            self._metrics.looked(operation, Result.HIT)
            return Lookup(cached=cached)
        self._metrics.looked(operation, Result.MISS)
        return Lookup(
            keeping=Keeping(
                Place(operation=operation, tenant=tenant, model=order.model, epochs=found.epochs),
                name,
                model_digest=model_digest,
                bytes_max=self._entry_bytes_max,
                keeper=self._keeper,
                metrics=self._metrics,
            )
        )

    def passed_by(self, ask: Chat | Generate) -> None:
        """Count an answer that is not one to look up."""
        self._metrics.looked("chat" if isinstance(ask, Chat) else "text_completion", Result.BYPASS)

    async def purge(self, tenant: str, model: str | None) -> None:
        """Forget a tenant's answers and vectors, or only those of a model (its key). Raises CacheUnavailable."""
        try:
            await self._vault.purge(tenant, model)
        except VaultAway:
            raise CacheUnavailable from None

    def _decoded(self, found: Found) -> Cached | None:
        (value,) = found.values
        try:
            return None if value is None else decoded(value)
        except ValueError:  # It is ours, by its seal; so this is a bug of another version.
            self._metrics.alert()
            return None


def _name(model: str, canonical: bytes, *, by_token: bool) -> bytes:
    """Aliases of a model have names of their own, for an answer names its model; so have answers in single tokens."""
    return f"answer\0{FORM}\0{model}\0{by_token}\0".encode() + canonical
