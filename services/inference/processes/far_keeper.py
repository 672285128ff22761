"""What operators want of instances' memory, from a worker that they called to the head that decides.

Keep ▶ ... ◀ Kept          it was done, or why it was not
Keep ▶ ... Forgo ▶         the caller has left: it is wanted no longer, and not answered
"""

import asyncio
from itertools import count

import structlog

from services.common.errors import MeshError
from services.inference.errors import QueueFull
from services.inference.keeper import Keeper
from services.inference.processes.messages import Doubt, Forgo, Keep, Kept, Send, error_of, wrong

log = structlog.get_logger(__name__)

KEEPING_MAX = 256  # Wishes of a worker that are not answered yet.


class FarKeeper:
    """The worker's end. Implements keeper.Keeper."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._numbers = count(1)
        self._asking: dict[int, asyncio.Future[str]] = {}

    def doubt(self, instance: str) -> None:
        self._send(Doubt(instance=instance))

    async def load(self, model: str, instance: str, *, pin: bool) -> str:
        number = next(self._numbers)
        return await self._asked(Keep(number=number, unload=False, model=model, instance=instance, pin=pin))

    async def unload(self, model: str, instance: str, *, keep_out_s: float = 0.0) -> None:
        number = next(self._numbers)
        await self._asked(
            Keep(number=number, unload=True, model=model, instance=instance, keep_out_s=keep_out_s)
        )

    def take(self, kept: Kept) -> None:
        """Hear what came of it."""
        answer = self._asking.get(kept.number)
        if answer is None or answer.done():  # Its caller has left.
            return
        if kept.wrong is None:
            answer.set_result(kept.instance)
        else:
            answer.set_exception(error_of(kept.wrong))

    async def _asked(self, keep: Keep) -> str:
        if len(self._asking) >= KEEPING_MAX:
            raise QueueFull(waiting_max=KEEPING_MAX)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asking[keep.number] = answer
        self._send(keep)
        try:
            return await answer
        except asyncio.CancelledError:
            self._send(Forgo(number=keep.number))
            raise
        finally:
            del self._asking[keep.number]


class Keeping:
    """The head's end: what one worker's callers want."""

    def __init__(self, keeper: Keeper, send: Send) -> None:
        self._keeper = keeper
        self._send = send
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def take(self, message: Keep | Forgo | Doubt) -> None:
        match message:
            case Keep(number=number):
                task = asyncio.get_running_loop().create_task(self._keep(message))
                self._tasks[number] = task
                task.add_done_callback(lambda _: self._tasks.pop(number, None))
            case Forgo(number=number):
                if (found := self._tasks.get(number)) is not None:
                    found.cancel()
            case Doubt(instance=instance):
                self._keeper.doubt(instance)

    def end(self) -> None:
        """The worker is gone, and its callers with it."""
        for task in self._tasks.values():
            task.cancel()

    async def _keep(self, keep: Keep) -> None:
        instance, error = keep.instance, None
        try:
            if keep.unload:
                await self._keeper.unload(keep.model, keep.instance, keep_out_s=keep.keep_out_s)
            else:
                instance = await self._keeper.load(keep.model, keep.instance, pin=keep.pin)
        except MeshError as failure:
            error = wrong(failure)
        except Exception as failure:  # A bug of ours costs this wish, and not all of the worker's.
            log.exception("bug", method="keep")
            error = wrong(failure)
        self._send(Kept(number=keep.number, instance=instance, wrong=error))
