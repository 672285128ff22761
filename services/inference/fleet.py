"""Looks at every instance, again and again, and says what it saw.

What has not answered the last question is given nothing to do. One question is enough: it takes
milliseconds, asks nothing of a GPU, and is repeated soon.
"""

import asyncio
from collections.abc import Callable
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


async def watch(
    name: str, instance: Instance, observe: Callable[[InstanceView], None], *, slots: int, every_s: float
) -> None:
    """Observe one instance until cancelled."""
    view = InstanceView(name=name, slots=slots, unready_reason=NOT_SEEN_YET)
    observe(view)
    while True:
        seen = await _look(view, instance)
        if seen.unready_reason != view.unready_reason:
            log.info("instance_state", instance=name, ready=seen.ready, reason=seen.unready_reason)
        view = seen
        observe(view)
        await asyncio.sleep(every_s)


async def _look(view: InstanceView, instance: Instance) -> InstanceView:
    try:
        report = await instance.report()
    except Trouble as trouble:
        return view.doubted(_REASONS[trouble.fault])
    return InstanceView(name=view.name, slots=view.slots, seen_at=datetime.now(UTC), report=report)
