"""A replica without its sockets, over PostgreSQL, that dies at whichever write to the store it is told to.

Dead, it does nothing any more: neither its stores nor its tools answer it. What it did before is there, as after a
`kill -9`; whether the write that it died at was committed is for the test to say.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import grpc.aio
from cryptography.fernet import Fernet
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from prometheus_client import CollectorRegistry

from services.agent.adapters.checkpoints import SEAL_PURPOSE, Checkpoints
from services.agent.adapters.langchain_agent import LangChainAgent
from services.agent.adapters.mandate_seals import PURPOSE
from services.agent.adapters.middleware.asking import Asking
from services.agent.adapters.postgres_approvals import PostgresApprovals
from services.agent.adapters.postgres_events import PostgresEvents
from services.agent.adapters.postgres_leases import PostgresLeases
from services.agent.adapters.postgres_runs import PostgresRuns
from services.agent.adapters.postgres_summaries import PostgresSummaries
from services.agent.authority import Authority
from services.agent.errors import LeaseLost
from services.agent.feed import Feed
from services.agent.job import Job
from services.agent.leases import Held
from services.agent.ports import Access, CallContext, Effect, ToolResult, ToolSpec
from services.agent.telemetry import AgentMetrics
from services.agent.worker import Worker
from services.common.postgres import Database
from services.common.seals import Seals
from tests.fakes.agent_parts import unobserved

KEY = Fernet.generate_key().decode()


class KilledError(LeaseLost):
    """The process is no more. To its worker it is as if nothing could be stored: that is not told, nor logged."""


@dataclass(slots=True)
class Fate:
    """After how many writes a replica dies, and whether the last of them still comes through."""

    dies_at: int | None = None
    is_committed: bool = False
    writes: list[str] = field(default_factory=list)
    is_dead: bool = False

    def alive(self) -> None:
        if self.is_dead:
            raise KilledError

    async def write(self, name: str, perform: Callable[[], Any]) -> Any:
        self.alive()
        self.writes.append(name)
        if len(self.writes) != self.dies_at:
            return await perform()
        if self.is_committed:
            await perform()
        self.is_dead = True
        raise KilledError


LATE_S = 0.02
READS = frozenset({"history", "told", "settled", "read", "find"})


class Mortal:
    """What it stands for, as long as its replica lives."""

    def __init__(self, inner: object, fate: Fate) -> None:
        self._inner, self._fate = inner, fate

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(value):
            return value

        async def late(*args: Any, **kwargs: Any) -> Any:
            """What is told takes its time: whoever does not wait for it is overtaken by the end of its process."""
            await asyncio.sleep(LATE_S if name == "append" else 0)
            self._fate.alive()
            return await value(*args, **kwargs)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if name in READS:
                self._fate.alive()
                return await value(*args, **kwargs)
            return await self._fate.write(name, lambda: late(*args, **kwargs))

        return call


def mortal_saver(checkpoints: Checkpoints, fate: Fate) -> Checkpoints:
    """Likewise; LangGraph wants an instance of its class."""

    class MortalSaver(Checkpoints):
        async def aput(self, *args: Any) -> Any:
            return await fate.write("aput", lambda: Checkpoints.aput(self, *args))

        async def aput_writes(self, *args: Any) -> Any:
            return await fate.write("aput_writes", lambda: Checkpoints.aput_writes(self, *args))

    made = MortalSaver.__new__(MortalSaver)
    made.__dict__.update(checkpoints.__dict__)
    return made


class Ledger:
    """A tool that does something each time, but for a call that it knows by its key, if it looks at that."""

    def __init__(self, name: str, effect: Effect, *, takes_key: bool = False) -> None:
        self.spec = ToolSpec(
            name=name,
            description=f"Does {name}.",
            parameters_json_schema='{"type": "object"}',
            effect=effect,
            timeout_s=20,
            is_confined=True,
            takes_key=takes_key,
        )
        self.done: list[str] = []  # By key.

    async def call(self, arguments: Mapping[str, object], context: CallContext) -> ToolResult:
        if not (self.spec.takes_key and context.key in self.done):
            self.done.append(context.key)
        await asyncio.sleep(0)
        return ToolResult(content=f"{self.spec.name} is done", failed=False)


@dataclass(slots=True)
class MortalTool:
    inner: Ledger
    fate: Fate

    @property
    def spec(self) -> ToolSpec:
        return self.inner.spec

    async def call(self, arguments: Mapping[str, object], context: CallContext) -> ToolResult:
        self.fate.alive()
        result = await self.inner.call(arguments, context)
        self.fate.alive()
        return result


class Forever:
    """Mandates that do not end."""

    async def create(self, token: str, *, lifetime_s: float) -> str:
        return "mandate"

    async def redeem(self, mandate: str) -> Access:
        return Access(token="token", expire_time_s=1e12)

    async def end(self, mandate: str) -> None:
        pass


class Replica:
    """One process, as far as it works on runs."""

    def __init__(
        self,
        database: Database,
        channel: grpc.aio.Channel,
        tools: Mapping[str, Ledger],
        fate: Fate,
        *,
        clock: Callable[[], float],
    ) -> None:
        self.holder, self.fate, self._clock = uuid4(), fate, clock
        seals = Seals([KEY], purpose=PURPOSE)
        self.runs = PostgresRuns(database, seals, holder=self.holder, lease_s=60)
        self.leases = PostgresLeases(database, seals, holder=self.holder, lease_s=60)
        checkpoints = mortal_saver(Checkpoints(database, Seals([KEY], purpose=SEAL_PURPOSE)), fate)
        agent = LangChainAgent(
            InferenceServiceStub(channel),
            {name: MortalTool(tool, fate) for name, tool in tools.items()},
            lambda run, step_count: checkpoints.of(
                run.owner.organization_id, run.lease, step_count=step_count
            ),
            Asking(
                Mortal(PostgresSummaries(database), fate),
                context_token_count=4096,
                link_hosts=(),
            ),
        )
        self._worker = Worker(
            leases=Mortal(self.leases, fate),
            events=Mortal(PostgresEvents(database), fate),
            approvals=Mortal(PostgresApprovals(database), fate),
            agent=agent,
            metrics=AgentMetrics(CollectorRegistry()),
            observing=unobserved(),
            summaries=Mortal(PostgresSummaries(database), fate),
            clock=clock,
            trusted_tools=list(tools),
            patience_s=5,
        )

    async def work(self, held: Held, *, is_taken: bool) -> None:
        """Whatever comes of it: death is no failure of the test."""
        job = Job(
            held=held,
            authority=Authority(Forever(), clock=self._clock, mandate="mandate"),
            feed=Feed(last_sequence=held.last_sequence),
            is_taken=is_taken,
        )
        await self._worker.work(job)
