"""Drives the model of a machine by the event loop's clock, and wakes those whose tokens are out."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from math import inf

from deploy.local.runtime.errors import QueueFullError
from services.inference.simulation.machine import Machine
from services.inference.simulation.parts import (
    Event,
    Finished,
    FirstToken,
    Left,
    MachineSpec,
    ModelSpec,
    Refused,
    Request,
    RunnerOptions,
)
from tests.fakes.fake_ollama.prompts import Blocks

# Tokens that come within so long of each other go out together, so that a fast machine costs little.
TICK_S = 0.001


class Work:
    """A request in the machine, as its handler sees it."""

    __slots__ = ("end", "id", "out", "refused", "waker", "wanted")

    def __init__(self, request_id: int) -> None:
        self.id = request_id
        self.out = 0  # Tokens.
        self.wanted: float = 0
        self.end: Finished | None = None
        self.refused = False
        self.waker: asyncio.Future[None] | None = None

    async def reached(self, token_count: int) -> None:
        """Wait until so many tokens are out, or it has ended."""
        while self.out < token_count and self.end is None:
            await self._woken(token_count)

    async def finished(self) -> Finished:
        """Raises QueueFullError."""
        while self.end is None:
            await self._woken(inf)
        return self.end

    async def _woken(self, wanted: float) -> None:
        if not self.refused:
            self.wanted = wanted
            self.waker = asyncio.get_running_loop().create_future()
            await self.waker
        if self.refused:
            raise QueueFullError

    def wake(self) -> None:
        if self.waker is not None and not self.waker.done():
            self.waker.set_result(None)


class Clockwork:
    """Must be made in a running event loop's thread; starts with the first request."""

    def __init__(self, spec: MachineSpec, models: Mapping[str, ModelSpec]) -> None:
        self.machine = Machine(spec, models)
        self._ids = count(1)
        self._works: dict[int, Work] = {}
        self._writing: dict[int, Work] = {}
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def work(
        self,
        model: str,
        runner: RunnerOptions,
        *,
        prompt: Blocks = (),
        output_token_count: int = 0,
        keep_alive_s: float | None = None,
        answer_key: str = "",
    ) -> Iterator[Work]:
        """A request, which is left with the block unless it has ended by then."""
        work = Work(next(self._ids))
        self._works[work.id] = work
        request = Request(
            id=work.id,
            model=model,
            runner=runner,
            prompt=prompt,
            output_token_count=output_token_count,
            keep_alive_s=keep_alive_s,
            answer_key=answer_key,
        )
        self.machine.offer(request, self.now_s())
        self.look()
        try:
            yield work
        finally:
            if self._works.pop(work.id, None) is not None:
                self._writing.pop(work.id, None)
                self.machine.leave(work.id, self.now_s())
                self.look()

    def unload(self, model: str) -> None:
        self.machine.unload(model, self.now_s())
        self.look()

    def wedge(self) -> None:
        self.machine.wedge(self.now_s())

    def restart(self) -> None:
        """What was at work stays silent; cut its connections."""
        for request_id in self.machine.restart(self.now_s()):
            self._works.pop(request_id, None)
        self._writing.clear()
        self.look()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def look(self) -> None:
        """Pass on what has happened, and look again when something will."""
        now_s = self.now_s()
        for event in self.machine.advance(now_s):
            self._take(event)
        for work in self._writing.values():
            work.out = self.machine.token_count(work.id, now_s)
            if work.out >= work.wanted:
                work.wake()
        self._plan(now_s)

    def _take(self, event: Event) -> None:
        match event:
            case FirstToken(id=request_id) if request_id in self._works:
                self._writing[request_id] = self._works[request_id]
            case Finished(id=request_id) if request_id in self._works:
                self._writing.pop(request_id, None)
                work = self._works.pop(request_id)
                work.end, work.out = event, event.output_token_count
                work.wake()
            case Refused(id=request_id):
                work = self._works.pop(request_id)
                work.refused = True
                work.wake()
            case Left(id=request_id):
                self._writing.pop(request_id, None)

    def _plan(self, now_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due_s = [self.machine.next_event_s(), *map(self.machine.next_token_s, self._writing)]
        at_s = min((at_s for at_s in due_s if at_s is not None), default=None)
        if at_s is None:
            self._timer = None
        else:
            self._timer = asyncio.get_running_loop().call_at(max(at_s, now_s + TICK_S), self.look)
