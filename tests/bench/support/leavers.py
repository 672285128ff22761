"""`python -m tests.bench.support.leavers < PLAN > RECORD`: readers of streams, of whom some leave at a random moment.

Each caller asks again as soon as its stream is over, so as many streams are open as there are callers. Whoever leaves
does it in one of the ways that there are: before the first token, somewhere in the stream, by a deadline that the
gateway knows of, or by hanging up the connection that the stream is on.
"""

import asyncio
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any

import grpc
import grpc.aio
import msgspec
import uvloop
from ollamesh.inference.v1.completion_pb2 import ChatRequest, Message, Options, Role
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from services.common.grpc.client import bearer, held
from tests.bench.support.apart import run_apart

CALLERS_PER_CHANNEL = 50
EARLY_S = 0.004  # About the time to a first token.
LONGEST_S = 60.0
# Each channel has a connection of its own, rather than a share in one.
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


class Way(StrEnum):
    """How a reader leaves."""

    EARLY = "early"
    CANCEL = "cancel"
    DEADLINE = "deadline"
    HANG_UP = "hang up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    address: str
    token: str
    model: str
    stream_s: float  # What an answer takes.
    caller_count: int
    leaving_share: float
    seed: int
    until_s: float = 1e9  # No stream begins after this time,
    stream_count_max: int = 1_000_000_000  # nor after so many.


@dataclass(slots=True, kw_only=True)
class Record:
    completed_count: int = 0
    left: dict[str, int] = field(default_factory=dict)  # By way.
    failed: dict[str, int] = field(default_factory=dict)  # By status: none of them should be.

    def add(self, other: "Record") -> None:
        self.completed_count += other.completed_count
        self.left = dict(Counter(self.left) + Counter(other.left))
        self.failed = dict(Counter(self.failed) + Counter(other.failed))


class Leavers:
    """The callers of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = Random(plan.seed)
        self._metadata = bearer(plan.token)
        self._request = ChatRequest(
            model=plan.model,
            messages=[Message(role=Role.ROLE_USER, content="Name a colour.")],
            options=Options(temperature=0),
        )
        self._left_count = plan.stream_count_max
        self._completed_count = 0
        self._left: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    async def run(self) -> Record:
        ends_at_s = time.monotonic() + self._plan.until_s
        async with AsyncExitStack() as opened, asyncio.TaskGroup() as callers:
            for number in range(self._plan.caller_count):
                if number % CALLERS_PER_CHANNEL == 0:
                    channel = await opened.enter_async_context(self._channel())
                callers.create_task(self._caller(channel, ends_at_s))
        return Record(completed_count=self._completed_count, left=dict(self._left), failed=dict(self._failed))

    async def _caller(self, channel: grpc.aio.Channel, ends_at_s: float) -> None:
        while time.monotonic() < ends_at_s and self._left_count > 0:
            self._left_count -= 1
            leaves = self._random.random() < self._plan.leaving_share
            way = self._random.choice(list(Way)) if leaves else None
            moment_s = self._random.uniform(0, EARLY_S if way is Way.EARLY else self._plan.stream_s)
            try:
                await self._ask(channel, way, moment_s)
            except grpc.aio.AioRpcError as error:
                if way is Way.DEADLINE and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    self._left[way] += 1
                else:
                    self._failed[f"{error.code().name}: {error.details()}"] += 1
            except TimeoutError:
                self._left[str(way)] += 1
            else:
                self._completed_count += 1

    async def _ask(self, channel: grpc.aio.Channel, way: Way | None, moment_s: float) -> None:
        """Read a stream to its end. Raises TimeoutError when it was left at its moment."""
        match way:
            case None:
                await self._read(channel, LONGEST_S)
            case Way.DEADLINE:
                await self._read(channel, moment_s)
            case Way.EARLY | Way.CANCEL:
                async with asyncio.timeout(moment_s):
                    await self._read(channel, LONGEST_S)
            case Way.HANG_UP:
                async with self._channel() as own, asyncio.timeout(moment_s):
                    async for _ in self._chat(own, LONGEST_S):  # What ends it is the channel's end.
                        pass

    async def _read(self, channel: grpc.aio.Channel, timeout_s: float) -> None:
        with held(self._chat(channel, timeout_s)) as call:
            async for _ in call:
                pass

    def _chat(self, channel: grpc.aio.Channel, timeout_s: float) -> Any:
        stub = InferenceServiceStub(channel)
        return stub.Chat(self._request, timeout=timeout_s, metadata=self._metadata)

    def _channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self._plan.address, options=OPTIONS)


async def drive(plan: Plan) -> Record:
    """Let a process of its own do it."""
    return await run_apart("tests.bench.support.leavers", plan, Record)


async def main() -> None:
    record = await Leavers(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)).run()
    sys.stdout.buffer.write(msgspec.json.encode(record))


if __name__ == "__main__":
    uvloop.run(main())
