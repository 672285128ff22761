"""One replica's stores over PostgreSQL, and what to put into them."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

import asyncpg
import pytest
from cryptography.fernet import Fernet

from services.agent.adapters.mandate_seals import PURPOSE
from services.agent.adapters.postgres_events import PostgresEvents
from services.agent.adapters.postgres_leases import PostgresLeases
from services.agent.adapters.postgres_runs import PostgresRuns
from services.agent.adapters.postgres_threads import PostgresThreads
from services.agent.core.budget import Limits, Usage
from services.agent.core.conversation import Message
from services.agent.core.events import Event, Finished, Status
from services.agent.core.ids import Owner, RunId, ThreadId
from services.agent.core.run_config import RunConfig
from services.agent.leases import Held, Lease
from services.agent.ports import Batch, Busy, NewRun, Retry, RunRecord
from services.common.postgres import Database
from services.common.seals import Seals
from tests.stack import Database as Migrated

ANN, BOB, OTHER_ANN = Owner("org", "ann"), Owner("org", "bob"), Owner("other", "ann")
CONFIG = RunConfig(
    model="tiny",
    system_prompt="Be \0 brief.",
    tools=("run_python",),
    first_tool="run_python",
    temperature=0.0,
    seed=None,
    limits=Limits(wall_s=1.5),
)
LEASE_S = 60.0
KEY = Fernet.generate_key().decode()
LONG_AGO = "now() - interval '25 hours'"


@dataclass
class Replica:
    """One process's stores."""

    database: Database
    holder: UUID

    def __post_init__(self) -> None:
        self.threads = PostgresThreads(self.database)
        seals = Seals([KEY], purpose=PURPOSE)
        self.runs = PostgresRuns(self.database, seals, holder=self.holder, lease_s=LEASE_S)
        self.leases = PostgresLeases(self.database, seals, holder=self.holder, lease_s=LEASE_S)
        self.events = PostgresEvents(self.database)

    async def thread(self, owner: Owner = ANN) -> ThreadId:
        return (await self.threads.create(owner, ThreadId(uuid4()), "name", {}, None)).thread_id

    async def accept(
        self,
        thread_id: ThreadId,
        owner: Owner = ANN,
        *,
        retry: Retry | None = None,
        busy: Busy = Busy.ENQUEUE,
        watched_for_s: float | None = None,
    ) -> RunRecord:
        new = NewRun(
            run_id=RunId(uuid4()),
            thread_id=thread_id,
            question="why?",
            config=CONFIG,
            busy=busy,
            watched_for_s=watched_for_s,
        )
        return (await self.runs.accept(owner, new, retry)).record

    def lease(self, run_id: RunId, fence: int = 1) -> Lease:
        """As this replica has it if it accepted the run."""
        return Lease(run_id=run_id, holder=self.holder, fence=fence)

    async def begin(self, run_id: RunId, fence: int = 1) -> bool:
        return await self.leases.begin(self.lease(run_id, fence))

    async def adopt(self) -> Sequence[Held]:
        return await self.leases.adopt(count_max=100, batch_count_max=100)

    async def tell(
        self,
        run_id: RunId,
        *events: Event,
        after: int = 0,
        messages: Sequence[Message] = (),
        fence: int = 1,
    ) -> None:
        await self.events.append(
            self.lease(run_id, fence),
            Batch(first_sequence=after + 1, time_s=1.0, events=events, messages=messages, usage=Usage()),
        )


@pytest.fixture
async def replica(database: Migrated) -> AsyncIterator[Replica]:
    async with Database.connect(database("agent"), connections_max=4) as connected:
        yield Replica(connected, uuid4())


@pytest.fixture
async def other(database: Migrated) -> AsyncIterator[Replica]:
    """Beside `replica`, on the same store."""
    async with Database.connect(database("agent"), connections_max=4) as connected:
        yield Replica(connected, uuid4())


async def execute(database: Migrated, statement: str) -> None:
    connection = await asyncpg.connect(database.system("agent"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def finished(status: Status = Status.SUCCEEDED, **fields: str) -> Finished:
    return Finished(status=status, usage=Usage(output_token_count=7), **fields)


def retry(request_id: str = "r1", body: bytes = b"1") -> Retry:
    return Retry(request_id=request_id, body_hash=body)
