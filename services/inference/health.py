"""What each instance is good for: what a look last found, and whether it can be trusted.

Two things keep work from an instance: it did not answer the last look, or what it was given failed too often
(core/breaker.py). The first ends with the next look, the second with a probe: one token, asked for on
nobody's behalf, so that no caller's request is the test. An instance that fails a probe, stops in the middle of
all that it had, or is asked again and again what it is while it has nothing to do and does not answer, is wedged:
where the gateway runs it itself, it is started anew.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import Enum

import structlog

from services.inference.core.breaker import Breaker, BreakerState
from services.inference.core.ledger import InstanceView, Ledger
from services.inference.core.wishes import WishBook

log = structlog.get_logger(__name__)

_JITTER = 0.2
_BROKEN = "what it was given failed; nothing is sent to it until a probe succeeds"
_SILENT = "it fell silent; nothing is sent to it until a probe succeeds"
SILENT_LOOKS_MAX = 3  # In a row.


class Failure(Enum):
    """What a failure says of an instance."""

    ORDINARY = "ordinary"  # Little: it takes several.
    SILENT = "silent"  # It may only be slow: a probe is to tell.
    WEDGED = "wedged"  # It will not get better by itself.


class Health:
    """The views of all instances, as the breakers allow them."""

    def __init__(
        self,
        names: Iterable[str],
        ledger: Ledger,
        *,
        restart: Callable[[str, str], bool],
        wishes: WishBook,
    ) -> None:
        """`restart` is asked to start an instance anew, with the reason; it says whether it will."""
        self._breakers = {name: Breaker() for name in names}
        self._reasons: dict[str, str] = {}
        self._seen: dict[str, InstanceView] = {}
        self._silent_looks: Counter[str] = Counter()  # In a row.
        self._ledger = ledger
        self._restart = restart
        self._wishes = wishes
        self._jitter = random.Random().random  # noqa: S311 - spreads probes; no secret.

    def observe(self, view: InstanceView, now_s: float, *, idle: bool) -> InstanceView:
        """Take note of a look; return what is to be believed. `idle`: the instance had nothing else to do."""
        self._seen[view.name] = view
        self._silent_looks[view.name] = self._silent_looks[view.name] + 1 if view.silent and idle else 0
        if self._silent_looks[view.name] >= SILENT_LOOKS_MAX:
            self._silent_looks[view.name] = 0
            self._start_anew(view.name)
        return self.view(view.name, now_s)

    def view(self, name: str, now_s: float) -> InstanceView:
        """Tell the ledger what is to be believed of an instance, and return it."""
        state = self._breakers[name].state(now_s)
        view = self._seen[name]
        if (wishes := self._wishes.of(name, models=view.cards, residents=view.residents)) != view.wishes:
            view = self._seen[name] = replace(view, wishes=wishes)
        if state is not BreakerState.CLOSED:
            view = replace(view, breaker=state, unready_reason=view.unready_reason or self._reasons[name])
        self._ledger.observe(view)
        return view

    def doubt(self, name: str, reason: str, now_s: float) -> InstanceView:
        """Believe nothing of an instance until it is seen again."""
        self._seen[name] = self._seen[name].doubted(reason)
        return self.view(name, now_s)

    def failed(self, name: str, now_s: float, failure: Failure) -> None:
        """Take note that an instance failed at what it was given."""
        breaker = self._breakers[name]
        was_closed = breaker.state(now_s) is BreakerState.CLOSED
        enough = failure is not Failure.ORDINARY
        breaker.failed(now_s, enough=enough, jitter=_JITTER * self._jitter())
        if was_closed and breaker.state(now_s) is not BreakerState.CLOSED:
            self._reasons[name] = _SILENT if enough else _BROKEN
            log.warning("breaker_opened", instance=name, failure=failure.value)
        if failure is Failure.WEDGED:  # Whatever opened the breaker, and however long ago.
            self._start_anew(name)

    def succeeded(self, name: str, now_s: float) -> None:
        """Take note that an instance did what it was given."""
        breaker = self._breakers[name]
        was_closed = breaker.state(now_s) is BreakerState.CLOSED
        breaker.succeeded(now_s)
        if not was_closed and breaker.state(now_s) is BreakerState.CLOSED:
            log.info("breaker_closed", instance=name)

    def take_probes(self, now_s: float) -> list[str]:
        """Return the instances that are to be probed now. Whoever takes them must report what came of it."""
        return [
            name
            for name, breaker in self._breakers.items()
            if self._seen_ready(name) and breaker.take_probe(now_s)
        ]

    def next_probe_s(self) -> float | None:
        """Return when the next probe is due."""
        times = [
            at_s
            for name, breaker in self._breakers.items()
            if (at_s := breaker.next_probe_s()) is not None and self._seen_ready(name)
        ]
        return min(times, default=None)

    def _start_anew(self, name: str) -> None:
        restarted = self._restart(name, "it was wedged")
        log.warning("instance_wedged", instance=name, restarted=restarted)

    def _seen_ready(self, name: str) -> bool:
        return name in self._seen and self._seen[name].ready
