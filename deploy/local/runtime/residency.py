"""Whether a model is loaded, with which context, and who uses it.

Ollama's rules. A request for a model that is not loaded loads it. A request that wants another context
length waits until nobody uses the model, then reloads it; those behind it wait their turn, so nobody
starves. At most `parallel` requests run; the rest wait in order, up to a bound. When the last one leaves,
the model stays for as long as the last `keep_alive` said.

The event loop is the lock. Generic over what is loaded, so that the suite's fake behaves the same.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Generic, Protocol, TypeVar

from deploy.local.runtime.errors import QueueFullError

FOR_EVER = timedelta(days=292 * 365)  # Go's longest duration, which Ollama adds to the clock.


class Resident(Protocol):
    @property
    def exited(self) -> bool: ...

    def kill(self) -> None: ...


R = TypeVar("R", bound=Resident)


@dataclass(frozen=True, slots=True)
class Slot(Generic[R]):
    """The right to run one request."""

    resident: R
    context_length: int
    load_ns: int  # Until the model was loaded; waiting for the slot itself is not counted, as in Ollama.


class Residency(Generic[R]):
    def __init__(
        self,
        start: Callable[[int], Awaitable[R]],
        *,
        parallel: int,
        waiting_max: int,
        keep_alive_s: float,
    ) -> None:
        """`start` loads the model with a context length in tokens."""
        self._start = start
        self._waiting_max = waiting_max
        self._keep_alive_default_s = keep_alive_s

        self._resident: R | None = None
        self._context_length = 0
        self._keep_alive_s = keep_alive_s
        self._expires_at = datetime.now(UTC)
        self._expiry: asyncio.TimerHandle | None = None

        self._turn = asyncio.Lock()  # First come, first served: who may load or reload.
        self._slots = asyncio.Semaphore(parallel)
        self._waiting_count = 0
        self._user_count = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def loaded(self) -> tuple[datetime, int] | None:
        """When the model will go, and its context length; None if it is not loaded."""
        if self._resident is None or self._resident.exited:
            return None
        return self._expires_at, self._context_length

    @asynccontextmanager
    async def slot(self, *, context_length: int, keep_alive_s: float | None) -> AsyncIterator[Slot[R]]:
        """Wait for the model and for a turn on it. Raises QueueFullError, or what loading does."""
        began_ns = time.perf_counter_ns()
        async with AsyncExitStack() as held:
            with self._waiting():
                resident = await held.enter_async_context(
                    self.using(context_length=context_length, keep_alive_s=keep_alive_s)
                )
                load_ns = time.perf_counter_ns() - began_ns
                await held.enter_async_context(self._slots)
            yield Slot(resident, context_length, load_ns)

    @asynccontextmanager
    async def using(self, *, context_length: int, keep_alive_s: float | None) -> AsyncIterator[R]:
        """The loaded model, which stays while it is held. `keep_alive_s` None: as it was."""
        async with self._turn:
            resident = await self._ready(context_length)
            self._user_count += 1
            self._unused.clear()
        if keep_alive_s is not None:
            self._keep_alive_s = keep_alive_s
        self._postpone_expiry()
        try:
            yield resident
        finally:
            self._user_count -= 1
            if self._user_count == 0:
                self._unused.set()
                self._postpone_expiry()

    def unload(self) -> None:
        """Now, or as soon as nobody uses it."""
        self._keep_alive_s = 0.0
        self._postpone_expiry()

    def drop(self) -> None:
        """Now, whoever uses it."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self._resident is not None:
            self._resident.kill()
            self._resident = None

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        if self._waiting_count >= self._waiting_max:
            raise QueueFullError
        self._waiting_count += 1
        try:
            yield
        finally:
            self._waiting_count -= 1

    async def _ready(self, context_length: int) -> R:
        if self._resident is not None and (self._resident.exited or self._context_length != context_length):
            await self._unused.wait()
            self.drop()
        if self._resident is None:
            self._resident = await self._start(context_length)
            self._context_length = context_length
            self._keep_alive_s = self._keep_alive_default_s
        return self._resident

    def _postpone_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        lasting = math.isinf(self._keep_alive_s)
        self._expires_at = datetime.now(UTC) + (
            FOR_EVER if lasting else timedelta(seconds=self._keep_alive_s)
        )
        if self._user_count > 0 or lasting:
            return
        if self._keep_alive_s == 0:
            self.drop()
        else:
            self._expiry = asyncio.get_running_loop().call_later(self._keep_alive_s, self.drop)
