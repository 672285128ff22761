"""`python -m tests.bench.support.generator < PLAN > RECORD`: asks as a plan says, and tells what became of it."""

import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import Iterator

import aiohttp
import grpc
import grpc.aio
import msgspec
import uvloop
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from ollamesh.inference.v1.completion_pb2 import ChatRequest, Message, Options, Role
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from services.common.grpc.client import bearer
from tests.bench.support.traffic import LATE, OK, REFUSED, Answer, Ask, Loop, Plan, Record

LONGEST_S = 300.0  # What a gateway that is not told of deadlines is told.
RETRY_S = 0.1  # After a refusal that says nothing.


class Refused(Exception):
    def __init__(self, reason: str, retry_after_s: float = RETRY_S) -> None:
        super().__init__(reason)
        self.reason, self.retry_after_s = reason, retry_after_s


class Gateway:
    def __init__(self, plan: Plan, channel: grpc.aio.Channel) -> None:
        self._stub = InferenceServiceStub(channel)
        self._metadata = {tenant: bearer(token) for tenant, token in plan.tokens.items()}
        self._tells_deadline = plan.tells_deadline

    async def ask(self, ask: Ask, left_s: float) -> float:
        """Return when the first token came; raise Refused."""
        request = ChatRequest(
            model=ask.model,
            messages=[Message(role=Role.ROLE_USER, content=ask.text)],
            options=Options(temperature=0, output_token_count_max=ask.output_max or None),
            priority=ask.priority,  # type: ignore[arg-type]
        )
        timeout_s = max(0.001, left_s) if self._tells_deadline else LONGEST_S
        call = self._stub.Chat(request, timeout=timeout_s, metadata=self._metadata[ask.tenant])
        first_s = -1.0
        try:
            async for response in call:
                if first_s < 0 and response.event.WhichOneof("event") == "delta":
                    first_s = time.monotonic()
        except grpc.aio.AioRpcError as error:
            raise _refused(error) from None
        return first_s


class Ollama:
    def __init__(self, plan: Plan, session: aiohttp.ClientSession) -> None:
        self._urls = itertools.cycle(plan.urls)
        self._session = session

    async def ask(self, ask: Ask, _left_s: float) -> float:
        """Return when the first token came; raise Refused."""
        body = {
            "model": ask.model,
            "messages": [{"role": "user", "content": ask.text}],
            "options": {"temperature": 0, "num_predict": ask.output_max},
        }
        first_s, end = -1.0, b""
        try:
            async with self._session.post(f"{next(self._urls)}/api/chat", json=body) as response:
                if response.status != 200:
                    raise Refused("BUSY")
                async for line in response.content:
                    end = line
                    if first_s < 0:
                        first_s = time.monotonic()
        except aiohttp.ClientError as error:
            raise Refused(type(error).__name__) from None
        if b'"done":true' not in end.replace(b" ", b""):
            raise Refused("TRUNCATED")
        return first_s


class Generator:
    def __init__(self, plan: Plan, target: Gateway | Ollama) -> None:
        self._plan = plan
        self._target = target
        self._answers: list[Answer] = []
        self._start_s = 0.0

    async def run(self) -> Record:
        self._start_s = time.monotonic() + 0.05
        async with asyncio.TaskGroup() as tasks:
            for loop in self._plan.loops:
                left = iter(range(loop.request_count_max))
                for number in range(loop.caller_count):
                    tasks.create_task(self._again_and_again(loop, number, left))
            for ask in self._plan.asks:
                await asyncio.sleep(self._start_s + ask.at_s - time.monotonic())
                tasks.create_task(self._ask(ask, ask.at_s))
        return Record(began_at_s=self._start_s, answers=self._answers)

    async def _again_and_again(self, loop: Loop, number: int, left: Iterator[int]) -> None:
        turns = itertools.cycle(
            [*loop.asks[number % len(loop.asks) :], *loop.asks[: number % len(loop.asks)]]
        )
        await asyncio.sleep(self._start_s + loop.asks[0].at_s - time.monotonic())
        while (now_s := time.monotonic() - self._start_s) < loop.until_s and next(left, None) is not None:
            await self._ask(next(turns), now_s)

    async def _ask(self, ask: Ask, at_s: float) -> None:
        began_s = time.monotonic() - self._start_s
        ends_s = at_s + ask.deadline_s
        verdict, first_s, try_count = "", -1.0, 0
        while not verdict:
            try_count += 1
            left_s = ends_s - (time.monotonic() - self._start_s)
            try:
                async with asyncio.timeout(None if self._tells() else left_s):
                    first_s = await self._target.ask(ask, left_s) - self._start_s
                    verdict = OK
            except TimeoutError:
                verdict = LATE
            except Refused as refused:
                again_s = time.monotonic() - self._start_s + refused.retry_after_s
                if ask.patient and refused.reason in REFUSED and again_s < ends_s:
                    await asyncio.sleep(refused.retry_after_s)
                else:
                    verdict = refused.reason
        self._answers.append(
            Answer(
                kind=ask.kind,
                tenant=ask.tenant,
                at_s=at_s,
                began_s=began_s,
                first_s=first_s,
                ended_s=time.monotonic() - self._start_s,
                deadline_s=ask.deadline_s,
                verdict=verdict,
                try_count=try_count,
            )
        )

    def _tells(self) -> bool:
        return isinstance(self._target, Gateway) and self._plan.tells_deadline


def _refused(error: grpc.aio.AioRpcError) -> Refused:
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info, retry, retry_after_s = ErrorInfo(), RetryInfo(), RETRY_S
    for detail in Status.FromString(details if isinstance(details, bytes) else b"").details:
        detail.Unpack(info)
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and not info.reason:
        return Refused(LATE)
    return Refused(info.reason or error.code().name, retry_after_s)


async def main() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    async with contextlib.AsyncExitStack() as opened:
        target: Gateway | Ollama
        if plan.address:
            channel = await opened.enter_async_context(grpc.aio.insecure_channel(plan.address))
            await channel.channel_ready()
            target = Gateway(plan, channel)
        else:
            connector = aiohttp.TCPConnector(limit=0)
            session = await opened.enter_async_context(aiohttp.ClientSession(connector=connector))
            target = Ollama(plan, session)
        record = await Generator(plan, target).run()
    sys.stdout.buffer.write(msgspec.json.encode(record))


if __name__ == "__main__":
    uvloop.run(main())
