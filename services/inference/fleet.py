"""Looks at every instance, again and again, and says what it saw.

What has not answered the last question is given nothing to do. One question is enough: it takes
milliseconds, asks nothing of a GPU, and is repeated soon; at once, when the instance is in doubt.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime

import structlog

from services.inference.core.ledger import InstanceView
from services.inference.ports import Fault, Instance, Trouble

log = structlog.get_logger(__name__)

NOT_SEEN_YET = "it has not been seen yet"
_REASONS = {
    Fault.UNREACHABLE: "it cannot be reached",
    Fault.STALLED: "it does not answer",
    Fault.BROKEN: "it answers with errors",
}


class Fleet:
    """All instances, each with its own pace: a slow one does not make the others look stale."""

    def __init__(self, instances: Mapping[str, Instance], *, slots: int, every_s: float) -> None:
        self._instances = instances
        self._slots = slots
        self._every_s = every_s
        self._doubts = {name: asyncio.Event() for name in instances}

    def doubt(self, name: str) -> None:
        """Have an instance looked at now."""
        self._doubts[name].set()

    async def watch(self, name: str, observe: Callable[[InstanceView], None]) -> None:
        """Tell `observe` of one instance until cancelled."""
        view = InstanceView(name=name, slots=self._slots, unready_reason=NOT_SEEN_YET)
        observe(view)
        while True:
            self._doubts[name].clear()
            seen = await self._look(view)
            if seen.unready_reason != view.unready_reason:
                log.info("instance_state", instance=name, ready=seen.ready, reason=seen.unready_reason)
            view = seen
            observe(view)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._doubts[name].wait()

    async def _look(self, view: InstanceView) -> InstanceView:
        asked_at_s = asyncio.get_running_loop().time()
        try:
            report = await self._instances[view.name].report()
        except Trouble as trouble:
            return view.doubted(_REASONS[trouble.fault], silent=trouble.fault is Fault.STALLED)
        return InstanceView(
            name=view.name,
            slots=view.slots,
            seen_at=datetime.now(UTC),
            report=report,
            asked_at_s=asked_at_s,
        )
