"""Runs of agents while what they need is lost and comes back, one part after the other; and runs that race for a thread.

OLLAMESH_CHAOS_FAULT_S is how long each part is away: in `make chaos`, longer than the leases of runs.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio
import pytest
from ollamesh.agent.v1.assistant_pb2 import RunConfig
from ollamesh.agent.v1.error_reason_pb2 import ErrorReason
from ollamesh.agent.v1.run_pb2 import (
    BUSY_POLICY_ENQUEUE,
    BUSY_POLICY_INTERRUPT,
    BUSY_POLICY_REJECT,
    BUSY_POLICY_ROLLBACK,
    RUN_STATUS_CANCELLED,
    RUN_STATUS_SUCCEEDED,
    BusyPolicy,
)

from tests.chaos.agent_history import faults
from tests.chaos.agent_talks import Talk, brain, gathered, people
from tests.chaos.knobs import FAULT_S, SEED
from tests.fakes.fake_sandbox import Execution
from tests.fakes.severable import Severable
from tests.service.agent_app import WITH_PYTHON, App, Mesh, mesh
from tests.service.auth_app import port_of
from tests.service.inference_app import one_instance
from tests.service.test_inference_embed import KEYS
from tests.stack import Database

PEOPLE = 4
RACING = 50  # Runs at each of two replicas.
BEFORE_S = 0.5
AFTER_S = 1.0


@dataclass
class Trouble:
    """A mesh of which every part can be lost: two replicas of the agent, and what they need behind cables."""

    around: Mesh
    replicas: Sequence[App]
    cables: dict[str, Severable]
    config: RunConfig = field(default_factory=lambda: WITH_PYTHON)

    async def lose(self, part: str) -> list[Talk]:
        """Have people talk, lose the part, have it back, and return when all have their answers."""
        talks, stop = people(self.replicas, PEOPLE, seed=SEED, config=self.config), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for talk in talks:
                tasks.create_task(talk.go_on(stop))
            await asyncio.sleep(BEFORE_S)
            await self.cables[part].cut()
            await asyncio.sleep(FAULT_S)
            await self.cables[part].mend()
            await asyncio.sleep(AFTER_S)
            stop.set()
        return talks


@pytest.fixture
async def trouble(database: Database) -> AsyncIterator[Trouble]:
    async with troubled(database) as made:
        yield made


@asynccontextmanager
async def troubled(database: Database, **settings: object) -> AsyncIterator[Trouble]:
    """What is behind the agent are fakes, but for the store."""
    dsn = database("agent")
    async with AsyncExitStack() as opened:
        around = await opened.enter_async_context(mesh(dsn))
        around.inference.brain = brain
        around.sandbox.otherwise = Execution(stdout=[b"4", b"2", b"\n"], pause_s=0.01)
        targets = {
            "store": port_of(dsn),
            "inference": int(around.inference.target.rpartition(":")[2]),
            "sandbox": int(around.sandbox.target.rpartition(":")[2]),
        }
        cables = {
            part: await opened.enter_async_context(Severable.to(port)) for part, port in targets.items()
        }
        around.dsn = dsn.replace(f":{port_of(dsn)}/", f":{cables['store'].port}/")
        around.inference.target = f"127.0.0.1:{cables['inference'].port}"
        around.sandbox.target = f"127.0.0.1:{cables['sandbox'].port}"
        replicas = [await opened.enter_async_context(around.replica(**settings)) for _ in range(2)]
        yield Trouble(around, replicas, cables)


@pytest.mark.timeout(120 + 4 * FAULT_S)
async def test_runs_outlive_their_store(trouble: Trouble) -> None:
    talks = await trouble.lose("store")
    history = await gathered(talks, trouble.around.sandbox.begun)
    assert faults(history) == [], SEED
    assert {worked.run.status for worked in history.runs} == {RUN_STATUS_SUCCEEDED}


@pytest.mark.timeout(120 + 4 * FAULT_S)
async def test_runs_outlive_their_sandbox(trouble: Trouble) -> None:
    talks = await trouble.lose("sandbox")
    history = await gathered(talks, trouble.around.sandbox.begun)
    assert faults(history) == [], SEED
    assert {worked.run.status for worked in history.runs} == {RUN_STATUS_SUCCEEDED}


@pytest.mark.timeout(120 + 4 * FAULT_S)
async def test_without_a_model_runs_fail_by_its_name_and_the_next_ones_do_not(trouble: Trouble) -> None:
    talks = await trouble.lose("inference")
    while (await talks[0].ask()).status != RUN_STATUS_SUCCEEDED:  # Until the connection is made again.
        await asyncio.sleep(AFTER_S)
    for talk in talks:
        assert (await talk.ask()).status == RUN_STATUS_SUCCEEDED
    history = await gathered(talks, trouble.around.sandbox.begun)
    assert faults(history) == [], SEED
    failed = [worked.run for worked in history.runs if worked.run.status != RUN_STATUS_SUCCEEDED]
    assert {run.failure_reason for run in failed} <= {ErrorReason.ERROR_REASON_MODEL_FAILED}


@pytest.mark.timeout(120 + 4 * FAULT_S)
async def test_runs_do_not_notice_that_redis_is_away(database: Database, redis_url: str) -> None:
    """The gateway is the real one: it is what needs Redis."""
    async with AsyncExitStack() as opened:
        cable = await opened.enter_async_context(Severable.to(port_of(redis_url)))
        through = redis_url.replace(f":{port_of(redis_url)}/", f":{cable.port}/")
        gateway, _ = await opened.enter_async_context(one_instance(REDIS_URL=through, **KEYS))
        around = await opened.enter_async_context(mesh(database("agent")))
        around.identity, around.inference.target = gateway.identity, gateway.target
        around.auth_target = await opened.enter_async_context(gateway.identity.served())
        replicas = [await opened.enter_async_context(around.replica()) for _ in range(2)]
        trouble = Trouble(around, replicas, {"redis": cable}, RunConfig(model="tiny"))
        history = await gathered(await trouble.lose("redis"))
        assert faults(history) == [], SEED
        assert {worked.run.status for worked in history.runs} == {RUN_STATUS_SUCCEEDED}


POLICIES = (BUSY_POLICY_ENQUEUE, BUSY_POLICY_REJECT, BUSY_POLICY_INTERRUPT, BUSY_POLICY_ROLLBACK)


async def raced(talk: Talk, policy: BusyPolicy) -> bool:
    """Start a run and watch it to its end; whether it was accepted."""
    try:
        await talk.ask(policy)
    except grpc.aio.AioRpcError as error:
        if (policy, error.code()) != (BUSY_POLICY_REJECT, grpc.StatusCode.FAILED_PRECONDITION):
            raise
        return False
    return True


@pytest.mark.timeout(300)
async def test_runs_that_race_for_a_thread_never_work_at_the_same_time(database: Database) -> None:
    """With leases that a crowd on a slow machine does not outlast: what is lost and resumed is the other tests' matter."""
    async with troubled(database, lease_s=30.0) as trouble:
        await _race(trouble)


async def _race(trouble: Trouble) -> None:
    (talk,) = people(trouble.replicas, 1, seed=SEED)
    talk.thread_id = await talk.users[0].thread()
    policies = [POLICIES[n % len(POLICIES)] for n in range(2 * RACING)]
    talk.chance.shuffle(policies)
    accepted = await asyncio.gather(*(raced(talk, policy) for policy in policies))
    history = await gathered([talk], trouble.around.sandbox.begun)
    assert faults(history) == [], SEED
    assert len(history.runs) == sum(accepted) >= RACING
    ends = [worked.run.status for worked in history.runs]
    assert set(ends) <= {RUN_STATUS_SUCCEEDED, RUN_STATUS_CANCELLED}
    assert ends.count(RUN_STATUS_SUCCEEDED) >= 1
