"""Until when a tool may be at a call."""

import asyncio

from services.agent.ports import CallContext, ToolSpec

MARGIN_S_MAX, MARGIN_PART = 2.0, 0.1


def until_s(spec: ToolSpec, context: CallContext) -> float:
    """A little less than the call has, of the loop's clock: time to end what is under way, and to say so."""
    now_s = asyncio.get_running_loop().time()
    left_s = max(0.0, min(context.deadline_s - now_s, spec.timeout_s))
    return now_s + left_s - min(MARGIN_S_MAX, MARGIN_PART * left_s)
