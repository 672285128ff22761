"""People who talk with agents while things fail: each in a thread of their own, watched at every replica.

They do what a client may: what is unavailable they ask for again, under the same request_id, and who watches goes on
after the last event that came.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar
from uuid import UUID

import grpc.aio
from ollamesh.agent.v1 import agent_service_pb2 as pb
from ollamesh.agent.v1.assistant_pb2 import RunConfig
from ollamesh.agent.v1.run_pb2 import BUSY_POLICY_UNSPECIFIED, BusyPolicy, Run
from ollamesh.agent.v1.thread_pb2 import Message
from ollamesh.inference.v1 import completion_pb2

from tests.chaos.agent_history import History, Watched, Worked
from tests.fakes.fake_inference import Reply
from tests.service.agent_app import WITH_PYTHON, App, User

Result = TypeVar("Result")

AGAIN_S, AGAIN_S_MAX = 0.1, 2.0
STEPS = 3  # Of each run; all but the last with a call.
RUNS_MAX = 50  # Of one person: those that fail do so at once.
PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}


def brain(request: completion_pb2.ChatRequest) -> Reply:
    """A call in each step of a run but the last. The same to the same, as the gateway replays what it made."""
    roles = [message.role for message in request.messages]
    question = len(roles) - 1 - roles[::-1].index(completion_pb2.ROLE_USER)
    done_count = roles[question:].count(completion_pb2.ROLE_TOOL)
    texts = [f"{word} {done_count} " for word in ("I", "look", "at", "it", "now.")]
    if done_count == STEPS - 1:
        return Reply(texts=texts, pause_s=0.01)
    return Reply(texts=texts, calls=[("run_python", f'{{"code": "print({done_count})"}}')], pause_s=0.01)


@dataclass
class Talk:
    """`users` are one person, at each replica."""

    users: Sequence[User]
    chance: random.Random
    config: RunConfig = field(default_factory=lambda: WITH_PYTHON)
    thread_id: str = ""
    watched: dict[str, list[Watched]] = field(default_factory=dict)  # By run.

    async def go_on(self, stop: asyncio.Event) -> None:
        """Ask, watch to the end, and ask again."""
        self.thread_id = await persistently(self._somewhere.thread)
        while not stop.is_set() and len(self.watched) < RUNS_MAX:
            await self.ask()

    async def ask(self, policy: BusyPolicy = BUSY_POLICY_UNSPECIFIED) -> Run:
        """Start a run and watch it to its end. Raises AioRpcError if it is refused for good."""
        user, request_id = self._somewhere, str(UUID(int=self.chance.getrandbits(128)))
        start = partial(user.start, config=self.config, request_id=request_id, busy_policy=policy)
        run = await persistently(lambda: start(self.thread_id))
        await self.watch(run.run_id)
        return await persistently(lambda: user.run(run.run_id))

    async def watch(self, run_id: str) -> None:
        """At every replica, from its first event to its last."""
        self.watched[run_id] = [Watched() for _ in self.users]
        async with asyncio.TaskGroup() as tasks:
            for user, watched in zip(self.users, self.watched[run_id], strict=True):
                tasks.create_task(_watch(user, run_id, watched))

    @property
    def _somewhere(self) -> User:
        return self.chance.choice(self.users)


async def _watch(user: User, run_id: str, watched: Watched) -> None:
    while not (watched.events and watched.events[-1].HasField("finished")):
        after = watched.events[-1].sequence if watched.events else 0
        request = pb.WatchRunRequest(run_id=run_id, after_sequence=after)
        try:
            async for response in user.stub.WatchRun(request, **user.options):
                watched.events.append(response.event)
        except grpc.aio.AioRpcError as error:
            if error.code() not in PASSING:
                raise
            await asyncio.sleep(AGAIN_S)


async def persistently(ask: Callable[[], Awaitable[Result]]) -> Result:
    """Ask until it is answered, at longer and longer intervals; what is refused for good fails."""
    wait_s = AGAIN_S
    while True:
        try:
            return await ask()
        except grpc.aio.AioRpcError as error:
            if error.code() not in PASSING:
                raise
        await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
        wait_s = min(2 * wait_s, AGAIN_S_MAX)


async def gathered(talks: Sequence[Talk], effects: Sequence[str] = ()) -> History:
    """What became of it, as it is told now."""
    runs: list[Worked] = []
    threads: dict[str, Sequence[Message]] = {}
    for talk in talks:
        user = talk.users[0]
        threads[talk.thread_id] = await _messages(user, talk.thread_id)
        runs += [
            Worked(run=await user.run(run_id), events=await user.watch(run_id), watched=watched)
            for run_id, watched in talk.watched.items()
        ]
    return History(runs=runs, threads=threads, effects=effects)


async def _messages(user: User, thread_id: str) -> Sequence[Message]:
    """All of them."""
    messages: list[Message] = []
    request = pb.ListMessagesRequest(thread_id=thread_id, page_size=100)
    while True:
        page = await user.stub.ListMessages(request, **user.options)
        messages += page.messages
        if not page.next_page_token:
            return messages
        request.page_token = page.next_page_token


def people(replicas: Sequence[App], count: int, *, seed: int, config: RunConfig = WITH_PYTHON) -> list[Talk]:
    return [
        Talk([app.user(f"user-{n}") for app in replicas], random.Random(f"{seed} {n}"), config)
        for n in range(count)
    ]
