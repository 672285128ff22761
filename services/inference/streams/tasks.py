"""Tasks that are nobody's call: no reader's leaving cancels them."""

import asyncio
from collections.abc import Coroutine

from services.common.tracing.current import Current, bare_context


class Tasks:
    """Starts tasks. While `group` is there, they are its: a bug in one of them ends the process."""

    def __init__(self) -> None:
        self.group: asyncio.TaskGroup | None = None
        self._strays: set[asyncio.Task[None]] = set()  # Else nobody might hold them.

    def spawn(self, work: Coroutine[None, None, None], span: Current = None) -> asyncio.Task[None]:
        """Start `work`, in no caller's context, whose token it would hold; of that it has at most the `span`."""
        context = bare_context(span)
        if self.group is not None:
            return self.group.create_task(work, context=context)
        task = asyncio.get_running_loop().create_task(work, context=context)
        self._strays.add(task)
        task.add_done_callback(self._strays.discard)
        return task
