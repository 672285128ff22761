"""What each instance is good for: what a look last found, and whether it can be trusted.

Two things keep work from an instance: it did not answer the last look, or what it was given failed too often
(core/breaker.py). The first ends with the next look, the second with a probe: one token, asked for on
nobody's behalf, so that no caller's request is the test. An instance that falls silent with all that it had
is wedged: it is not waited for, and where the gateway runs it itself, it is started anew.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace

import structlog

from services.inference.core.breaker import Breaker, BreakerState
from services.inference.core.ledger import InstanceView, Ledger

log = structlog.get_logger(__name__)

_JITTER = 0.2
_BROKEN = "what it was given failed; nothing is sent to it until a probe succeeds"
_WEDGED = "it fell silent; nothing is sent to it until a probe succeeds"


class Health:
    """The views of all instances, as the breakers allow them."""

    def __init__(self, names: Iterable[str], ledger: Ledger, *, restart: Callable[[str, str], bool]) -> None:
        """`restart` is asked to start an instance anew, with the reason; it says whether it will."""
        self._breakers = {name: Breaker() for name in names}
        self._reasons: dict[str, str] = {}
        self._seen: dict[str, InstanceView] = {}
        self._ledger = ledger
        self._restart = restart
        self._jitter = random.Random().random  # noqa: S311 - spreads probes; no secret.

    def observe(self, view: InstanceView, now_s: float) -> InstanceView:
        """Take note of a look; return what is to be believed."""
        self._seen[view.name] = view
        return self.view(view.name, now_s)

    def view(self, name: str, now_s: float) -> InstanceView:
        """Tell the ledger what is to be believed of an instance, and return it."""
        state = self._breakers[name].state(now_s)
        view = self._seen[name]
        if state is not BreakerState.CLOSED:
            view = replace(view, breaker=state, unready_reason=view.unready_reason or self._reasons[name])
        self._ledger.observe(view)
        return view

    def doubt(self, name: str, reason: str, now_s: float) -> InstanceView:
        """Believe nothing of an instance until it is seen again."""
        return self.observe(self._seen[name].doubted(reason), now_s)

    def failed(self, name: str, now_s: float, *, wedged: bool) -> None:
        """Take note that an instance failed at what it was given."""
        breaker = self._breakers[name]
        was_closed = breaker.state(now_s) is BreakerState.CLOSED
        breaker.failed(now_s, wedged=wedged, jitter=_JITTER * self._jitter())
        if was_closed and breaker.state(now_s) is not BreakerState.CLOSED:
            self._reasons[name] = _WEDGED if wedged else _BROKEN
            restarted = wedged and self._restart(name, "it fell silent")
            log.warning("breaker_opened", instance=name, wedged=wedged, restarted=restarted)

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

    def _seen_ready(self, name: str) -> bool:
        return name in self._seen and self._seen[name].ready
