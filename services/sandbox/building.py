"""How a jail comes to be, whatever the engine: ordered by a task of its own, and waited for."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from services.sandbox.errors import SandboxUnavailable


class Building(Protocol):
    """A jail that has been begun; it may be used once `ready` is done."""

    ready: asyncio.Future[None]

    def kill(self) -> None: ...


_Jail = TypeVar("_Jail", bound=Building)


async def built(
    tasks: asyncio.TaskGroup, begun: Coroutine[Any, Any, _Jail | None], *, timeout_s: float
) -> _Jail:
    """The jail that `begun` begins, once it is ready. Raises SandboxUnavailable, also if it begins none.

    Whoever leaves meanwhile, or has waited for too long, leaves none behind.
    """
    # Finished even if its caller leaves: only then is what it makes known, and can be taken away.
    making = tasks.create_task(begun)
    try:
        jail = await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(_kill)
        raise
    if jail is None:
        raise SandboxUnavailable(problem="a jail could not be built")
    try:
        async with asyncio.timeout(timeout_s):
            await jail.ready
    except BaseException as error:
        jail.kill()
        if isinstance(error, TimeoutError):
            raise SandboxUnavailable(problem="a jail took too long to build") from error
        raise
    return jail


def _kill(making: "asyncio.Task[_Jail | None]") -> None:
    """End a jail that nobody waits for any more."""
    if not making.cancelled() and (jail := making.result()) is not None:
        jail.kill()
