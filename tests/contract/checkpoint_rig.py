"""A checkpointer over PostgreSQL, and what to put into it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from cryptography.fernet import Fernet
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.conformance.test_utils import generate_checkpoint, generate_metadata

from services.agent.adapters.checkpoints import SEAL_PURPOSE, Checkpoints
from services.common.postgres import Database
from services.common.seals import Seals
from tests.contract.agent_replica import ANN
from tests.stack import Database as Migrated

KEY = Fernet.generate_key().decode()
SECRET = "the launch code is swordfish"
MESSAGES = [
    HumanMessage("What is it?"),
    AIMessage("", tool_calls=[{"name": "ask", "args": {"q": SECRET}, "id": "call_1_0"}]),
    ToolMessage(SECRET, tool_call_id="call_1_0"),
]


@pytest.fixture
async def connected(database: Migrated) -> AsyncIterator[Database]:
    async with Database.connect(database("agent"), connections_max=4) as connected:
        yield connected


@pytest.fixture
def every(connected: Database) -> Checkpoints:
    return Checkpoints(connected, Seals([KEY], purpose=SEAL_PURPOSE))


@pytest.fixture
def saver(every: Checkpoints) -> Checkpoints:
    """Ann's organisation's, without a lease."""
    return every.of(ANN.organization_id, None)


async def put(
    saver: Checkpoints, thread_id: str = "t", *, parent: str | None = None, **values: object
) -> RunnableConfig:
    """A checkpoint that holds these values, each of them new."""
    versions = {name: saver.get_next_version(None, None) for name in values}
    checkpoint = generate_checkpoint(channel_values=values, channel_versions=dict(versions))
    place: RunnableConfig = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    if parent:
        place["configurable"]["checkpoint_id"] = parent
    return await saver.aput(place, checkpoint, generate_metadata(step=1), dict(versions))


async def got(saver: Checkpoints, config: RunnableConfig) -> CheckpointTuple:
    found = await saver.aget_tuple(config)
    assert found is not None
    return found


async def stored(database: Migrated, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(database.system("agent"))
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


def checkpoint_id(config: RunnableConfig) -> str:
    return str(config["configurable"]["checkpoint_id"])
