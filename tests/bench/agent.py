"""`make bench-agent`: what a run costs beside the calls that it makes, how fresh its events are, and how soon another goes on.

The agent is a process of its own with its settings as they come, its PostgreSQL is real; inference and sandbox are fakes
that answer at once, so that what is left is the agent's own. Rounds take turns between runs and the same calls made by hand.
Ages of events are told by the fake: each piece of text is the moment at which it was written.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING

import asyncpg
import psutil
from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.agent.v1.assistant_pb2 import RunConfig
from ollamesh.agent.v1.run_pb2 import RUN_STATUS_SUCCEEDED, RunEvent
from ollamesh.inference.v1 import completion_pb2
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from ollamesh.sandbox.v1 import execution_pb2
from ollamesh.sandbox.v1.sandbox_service_pb2 import ExecuteRequest
from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import SandboxServiceStub

from services.common.grpc.around import Context
from services.common.grpc.client import bearer, channel
from tests.bench.peers.install import installed
from tests.bench.support.checkpointers import PEER, checkpointer_figures
from tests.bench.support.report import Figure, percentile, report
from tests.fakes.fake_inference import FakeInference, Reply
from tests.fakes.fake_sandbox import FakeSandbox
from tests.fakes.identity import Identity
from tests.service.agent_app import Mesh, User
from tests.service.agent_process import Process, process
from tests.stack import Database, running_postgres

if TYPE_CHECKING:  # Known to the stubs' types alone.
    from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub
    from ollamesh.sandbox.v1.sandbox_service_pb2_grpc import SandboxServiceAsyncStub

ROUNDS = int(os.environ.get("ROUNDS", "5"))
RUNS_PER_ROUND = 20
CODE = '{"code": "print(42)"}'
STEPS = (Reply(texts=["See:"], calls=[("run_python", CODE)]),) * 2 + (Reply(texts=["It is ", "42."]),)
CONCURRENT_COUNT, PIECES_COUNT, PIECE_EVERY_S = 100, 100, 0.05
TIMEOUT_S = 120.0
AS_IT_COMES = {"OLLAMESH_AGENT_LEASE_S": "10"}  # Tests have it shorter.
OVERHEAD_MAX_MS, FIRST_TOKEN_MAX_MS = 60.0, 15.0
AGE_MAX_MS, RSS_MAX_MB, RESUME_MAX_S = 100.0, 600.0, 3.0


@dataclass(slots=True)
class Found:
    """Seconds, one of each call."""

    total_s: list[float] = field(default_factory=list)
    first_token_s: list[float] = field(default_factory=list)


async def by_run(user: User, found: Found) -> None:
    """Three steps with two calls, from StartRun to Finished."""
    thread_id = await user.thread()
    began_s = time.perf_counter()
    run = await user.start(thread_id)
    first_s = 0.0
    request = pb.WatchRunRequest(run_id=run.run_id)
    last = RunEvent()
    async for response in user.stub.WatchRun(request, **user.options):
        last = response.event
        if not first_s and last.delta.text:
            first_s = time.perf_counter()
    assert last.finished.status == RUN_STATUS_SUCCEEDED, last
    found.total_s.append(time.perf_counter() - began_s)
    found.first_token_s.append(first_s - began_s)


class Hand:
    """The same calls without an agent."""

    def __init__(self, around: Mesh, token: str, opened: AsyncExitStack) -> None:
        self._around, self._token, self._opened = around, token, opened
        self._inference: InferenceServiceAsyncStub
        self._sandbox: SandboxServiceAsyncStub

    async def connect(self) -> "Hand":
        inside = self._around.config().server.inside
        inference = channel(self._around.inference.target, inside=inside, to="inference", service="")
        sandbox = channel(self._around.sandbox.target, inside=inside, to="sandbox", service="")
        self._inference = InferenceServiceStub(await self._opened.enter_async_context(inference))
        self._sandbox = SandboxServiceStub(await self._opened.enter_async_context(sandbox))
        return self

    async def go(self, found: Found) -> None:
        began_s, first_s = time.perf_counter(), 0.0
        for step in range(len(STEPS)):
            request = completion_pb2.ChatRequest(
                model="tiny", messages=[completion_pb2.Message(role=completion_pb2.ROLE_USER, content="?")]
            )
            async for answer in self._inference.Chat(
                request, metadata=bearer(self._token), timeout=TIMEOUT_S
            ):
                if not first_s and answer.event.delta.text:
                    first_s = time.perf_counter()
            if step < len(STEPS) - 1:
                spec = execution_pb2.ExecutionSpec(code="print(42)")
                execute = self._sandbox.Execute(
                    ExecuteRequest(spec=spec), metadata=bearer(self._token), timeout=TIMEOUT_S
                )
                async for _ in execute:
                    pass
        found.total_s.append(time.perf_counter() - began_s)
        found.first_token_s.append(first_s - began_s)


async def overhead(around: Mesh, user: User) -> list[Figure]:
    run, hand_found = Found(), Found()
    async with AsyncExitStack() as opened:
        hand = await Hand(around, user.token, opened).connect()
        for number in range(ROUNDS + 1):
            for _ in range(RUNS_PER_ROUND):
                around.inference.script = list(STEPS)
                await by_run(user, run)
            for _ in range(RUNS_PER_ROUND):
                around.inference.script = list(STEPS)
                await hand.go(hand_found)
            if number == 0:  # Warms up.
                run, hand_found = Found(), Found()
    total_ms, by_hand_ms = median(run.total_s) * 1e3, median(hand_found.total_s) * 1e3
    first_ms, first_by_hand_ms = median(run.first_token_s) * 1e3, median(hand_found.first_token_s) * 1e3
    return [
        Figure(
            name="run of 3 steps and 2 calls, beside the calls by hand",
            value=total_ms,
            unit="ms",
            baseline=by_hand_ms,
        ),
        Figure(name="added to all of it", value=total_ms - by_hand_ms, unit="ms", goal=OVERHEAD_MAX_MS),
        Figure(
            name="first token event, beside the first token by hand",
            value=first_ms,
            unit="ms",
            baseline=first_by_hand_ms,
        ),
        Figure(
            name="added to the first token",
            value=first_ms - first_by_hand_ms,
            unit="ms",
            goal=FIRST_TOKEN_MAX_MS,
        ),
    ]


class Ticking(FakeInference):
    """Writes the moments at which it writes, at the pace of a model."""

    async def Chat(
        self, request: completion_pb2.ChatRequest, context: Context
    ) -> AsyncIterator[completion_pb2.ChatResponse]:
        event = completion_pb2.CompletionEvent
        yield _sent(1, event(opened=event.Opened(stream_id="s")))
        yield _sent(2, event(started=event.Started(model=request.model)))
        began_s = time.monotonic()
        for number in range(PIECES_COUNT):
            await asyncio.sleep(began_s + number * PIECE_EVERY_S - time.monotonic())
            yield _sent(number + 3, event(delta=event.Delta(text=f"{time.monotonic()} ", token_count=1)))
        ended = event.Finished(reason=completion_pb2.FINISH_REASON_STOP)
        yield _sent(PIECES_COUNT + 3, event(finished=ended))


def _sent(sequence: int, event: completion_pb2.CompletionEvent) -> completion_pb2.ChatResponse:
    event.sequence = sequence
    return completion_pb2.ChatResponse(event=event)


async def ages(user: User) -> list[float]:
    """How old each piece was when its event came, in seconds."""
    run = await user.start(await user.thread(), config=RunConfig(model="tiny"))
    found: list[float] = []
    last = RunEvent()
    request = pb.WatchRunRequest(run_id=run.run_id)
    async for response in user.stub.WatchRun(request, timeout=TIMEOUT_S, metadata=bearer(user.token)):
        now_s = time.monotonic()
        found += [now_s - float(written_s) for written_s in response.event.delta.text.split()]
        last = response.event
    assert last.finished.status == RUN_STATUS_SUCCEEDED, last
    assert len(found) == PIECES_COUNT, len(found)
    return found


async def freshness(agent: Process, users: Sequence[User]) -> list[Figure]:
    """Of many runs at once, each watched."""
    await asyncio.gather(*map(ages, users[: len(users) // 10]))  # Warms up.
    oldest_ms, rss_mb = [], []
    for _ in range(ROUNDS):
        told = await asyncio.gather(*map(ages, users))
        oldest_ms.append(percentile([age for each in told for age in each], 99) * 1e3)
        rss_mb.append(psutil.Process(agent.pid).memory_info().rss / 1e6)
    pace = f"{CONCURRENT_COUNT} runs, {1 / PIECE_EVERY_S:.0f} pieces/s each"
    return [
        Figure(name=f"{pace}: age of an event, p99", value=median(oldest_ms), unit="ms", goal=AGE_MAX_MS),
        Figure(name=f"{pace}: memory of the process", value=max(rss_mb), unit="MB", goal=RSS_MAX_MB),
    ]


async def resumption(around: Mesh, database: Database) -> Figure:
    """From the end of the lease of a process that was killed to what its watchers hear next."""
    waited_s = []
    for _ in range(ROUNDS):
        hold = asyncio.Event()
        around.inference.script = [Reply(texts=["half", "whole"], hold=hold), Reply(texts=["half", "whole"])]
        async with process(around, **AS_IT_COMES) as alive:
            async with process(around, **AS_IT_COMES) as dying:
                run = await dying.user().start(await dying.user().thread())
                seen = await _until_text(dying.user(), run.run_id, after=0)
                os.kill(dying.pid, signal.SIGKILL)
            heard = asyncio.create_task(_until_text(alive.user(), run.run_id, after=seen))
            lease_until_s = await _lease_until_s(database, run.run_id)
            await heard
            waited_s.append(time.time() - lease_until_s)
            hold.set()
    return Figure(
        name="kill -9: from the end of the lease to the next event",
        value=max(waited_s),
        unit="s",
        goal=RESUME_MAX_S,
    )


async def _until_text(user: User, run_id: str, *, after: int) -> int:
    """Wait for the next text; return its sequence."""
    request = pb.WatchRunRequest(run_id=run_id, after_sequence=after)
    async for response in user.stub.WatchRun(request, timeout=TIMEOUT_S, metadata=bearer(user.token)):
        if response.event.delta.text:
            return response.event.sequence
    raise AssertionError("it ended without a word")


async def _lease_until_s(database: Database, run_id: str) -> float:
    connection = await asyncpg.connect(database.system("agent"))
    try:
        until: datetime = await connection.fetchval("SELECT lease_until FROM runs WHERE run_id = $1", run_id)
    finally:
        await connection.close()
    return until.timestamp()


@asynccontextmanager
async def meshed(
    database: Database, inference: AbstractAsyncContextManager[FakeInference]
) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as opened:
        identity = Identity()
        yield Mesh(
            database("agent"),
            identity,
            await opened.enter_async_context(identity.served()),
            await opened.enter_async_context(inference),
            await opened.enter_async_context(FakeSandbox.serving()),
        )


async def measured(database: Database) -> list[Figure]:
    figures = []
    async with meshed(database, FakeInference.serving()) as around:
        async with process(around, **AS_IT_COMES) as agent:
            figures += await overhead(around, agent.user())
        figures.append(await resumption(around, database))
    async with meshed(database, Ticking.serving()) as around, process(around, **AS_IT_COMES) as agent:
        users = [agent.user(f"user-{number}") for number in range(CONCURRENT_COUNT)]
        figures += await freshness(agent, users)
    return figures


def main() -> None:
    with running_postgres() as server, server.fresh() as database:
        figures = asyncio.run(measured(database))
    figures += checkpointer_figures(rounds=ROUNDS)
    remarks = [] if installed(PEER) else [f"Without {PEER}: make bench-peers PEERS={PEER}."]
    report("agent", rounds=ROUNDS, figures=figures, remarks=remarks)


if __name__ == "__main__":
    main()
