"""What is in a checkpoint is read by those alone who may go on from it, and only where it was written."""

import json
from types import SimpleNamespace

import pytest
from cryptography.fernet import Fernet
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.conformance.test_utils import generate_checkpoint, generate_metadata

from services.agent.adapters.checkpoint_codec import STRICT
from services.agent.adapters.checkpoints import SEAL_PURPOSE, Checkpoints
from services.agent.errors import CheckpointUnreadable
from services.common.postgres import Database
from services.common.seals import Seals
from tests.contract.agent_replica import ANN, OTHER_ANN, execute
from tests.contract.checkpoint_rig import (
    KEY,
    MESSAGES,
    SECRET,
    checkpoint_id,
    connected,
    every,
    got,
    put,
    saver,
    stored,
)
from tests.stack import Database as Migrated

__all__ = ["connected", "every", "saver"]


async def test_nothing_that_a_run_knows_is_in_clear(saver: Checkpoints, database: Migrated) -> None:
    config = await put(saver, messages=MESSAGES, note=SECRET, long=SECRET * 50)
    await saver.aput_writes(config, [("messages", MESSAGES[1:]), ("note", SECRET)], "task", "path")
    for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes"):
        for row in await stored(database, f"SELECT * FROM {table}"):
            for value in row.values():
                raw = value if isinstance(value, bytes) else str(value).encode()
                assert b"swordfish" not in raw
    found = await got(saver, config)
    assert found.checkpoint["channel_values"] == {
        "messages": MESSAGES,
        "note": SECRET,
        "long": SECRET * 50,
    }
    assert found.pending_writes == [("task", "messages", MESSAGES[1:]), ("task", "note", SECRET)]


async def test_metadata_is_in_clear_only_where_it_tells_nothing(
    saver: Checkpoints, database: Migrated
) -> None:
    checkpoint = generate_checkpoint()
    config: RunnableConfig = {
        "configurable": {"thread_id": "t", "checkpoint_ns": "", "hint": SECRET},
        "metadata": {"said": SECRET},
    }
    kept = await saver.aput(config, checkpoint, generate_metadata(step=3, wrote=SECRET), {})
    (row,) = await stored(database, "SELECT metadata FROM checkpoints")
    assert json.loads(row["metadata"]) == {"source": "loop", "step": 3, "step_count": 0}
    found = await got(saver, kept)
    assert {key: found.metadata.get(key) for key in ("said", "hint", "wrote")} == {
        "said": SECRET,
        "hint": SECRET,
        "wrote": SECRET,
    }
    assert [one async for one in saver.alist(None, filter={"wrote": SECRET})] == [found]
    assert [one async for one in saver.alist(None, filter={"wrote": "else"})] == []


SWAPS = {
    "bodies of two checkpoints": """
        UPDATE checkpoints c SET body = o.body FROM checkpoints o
        WHERE o.thread_id = c.thread_id AND o.checkpoint_id <> c.checkpoint_id
    """,
    "a body into another run": """
        UPDATE checkpoints c SET body = o.body FROM checkpoints o WHERE o.thread_id <> c.thread_id
    """,
    "another parent": "UPDATE checkpoints SET parent_id = '1'",
    "another namespace": """
        WITH b AS (UPDATE checkpoint_blobs SET ns = 'x'), w AS (UPDATE checkpoint_writes SET ns = 'x')
        UPDATE checkpoints SET ns = 'x'
    """,
    "values of two channels": """
        UPDATE checkpoint_blobs b SET blob = o.blob, kind = o.kind FROM checkpoint_blobs o
        WHERE o.thread_id = b.thread_id AND o.channel <> b.channel
    """,
    "values of two versions": """
        UPDATE checkpoint_blobs b SET blob = o.blob FROM checkpoint_blobs o
        WHERE o.thread_id = b.thread_id AND o.channel = b.channel AND o.version <> b.version
    """,
    "a value of another run": """
        UPDATE checkpoint_blobs b SET blob = o.blob FROM checkpoint_blobs o WHERE o.thread_id <> b.thread_id
    """,
    "an older version named": """
        UPDATE checkpoints c SET versions = o.versions FROM checkpoints o WHERE o.checkpoint_id <> c.checkpoint_id
    """,
    "a value lost": "DELETE FROM checkpoint_blobs",
    "a value in clear": "UPDATE checkpoint_blobs SET blob = '\\x93010203'",
    "a body in clear": "UPDATE checkpoints SET body = '\\x93010203'",
    "another kind": "UPDATE checkpoint_blobs SET kind = 'bytes'",
    "a kind that would run code": "UPDATE checkpoint_blobs SET kind = 'pickle'",
    "a kind that would make objects": "UPDATE checkpoint_blobs SET kind = 'json'",
    "a write of another channel": "UPDATE checkpoint_writes SET channel = 'other'",
    "a write of another task": "UPDATE checkpoint_writes SET task_id = 'other'",
    "a write of another place": "UPDATE checkpoint_writes SET index = 7",
    "a write in another order": "UPDATE checkpoint_writes SET task_path = 'other'",
    "a write of another checkpoint": """
        UPDATE checkpoint_writes w SET blob = o.blob FROM checkpoint_writes o
        WHERE o.checkpoint_id <> w.checkpoint_id
    """,
}


@pytest.mark.parametrize("swap", SWAPS)
async def test_what_somebody_changed_in_the_database_is_refused(
    saver: Checkpoints, database: Migrated, swap: str
) -> None:
    configs = []
    for thread_id in ("one", "two"):
        config = await put(saver, thread_id, messages=MESSAGES, other=["x"])
        configs += [config, await put(saver, thread_id, parent=checkpoint_id(config), messages=MESSAGES[:1])]
    for config in configs:
        await saver.aput_writes(config, [("messages", SECRET)], "task", "path")
        await got(saver, config)
    await execute(database, SWAPS[swap])
    refused = 0
    for config in configs:
        for ns in ("", "x"):
            config["configurable"]["checkpoint_ns"] = ns
            try:
                await saver.aget_tuple(config)
            except CheckpointUnreadable:
                refused += 1
    assert refused >= 2


async def test_another_key_or_purpose_opens_nothing(connected: Database, saver: Checkpoints) -> None:
    config = await put(saver, messages=MESSAGES)
    for seals in (
        Seals([Fernet.generate_key().decode()], purpose=SEAL_PURPOSE),
        Seals([KEY], purpose="else"),
    ):
        with pytest.raises(CheckpointUnreadable):
            await Checkpoints(connected, seals).of(ANN.organization_id, None).aget_tuple(config)
    new = Seals([Fernet.generate_key().decode(), KEY], purpose=SEAL_PURPOSE)
    assert await Checkpoints(connected, new).of(ANN.organization_id, None).aget_tuple(config)


async def test_organisations_see_and_change_their_own_alone(every: Checkpoints, database: Migrated) -> None:
    mine, theirs = every.of(ANN.organization_id, None), every.of(OTHER_ANN.organization_id, None)
    config = await put(mine, messages=MESSAGES)
    assert await theirs.aget_tuple(config) is None
    assert [one async for one in theirs.alist(None)] == []
    await theirs.adelete_thread("t")
    await theirs.aprune(["t"], strategy="delete")
    await theirs.acopy_thread("t", "u")
    assert await got(mine, config)
    # Not even a row that was given to them opens.
    for table in ("checkpoints", "checkpoint_blobs"):
        await execute(database, f"UPDATE {table} SET organization_id = '{OTHER_ANN.organization_id}'")
    with pytest.raises(CheckpointUnreadable):
        await theirs.aget_tuple(config)


class NotListed(SimpleNamespace):
    """A type that a graph of ours never holds."""

    def model_dump(self) -> dict[str, object]:
        return {"harmless": "looking"}


async def test_no_type_is_made_of_what_is_read_but_the_listed_ones(saver: Checkpoints) -> None:
    assert saver.with_allowlist([(NotListed.__module__, NotListed.__name__)]) is saver
    config = await put(saver, held=NotListed())
    with pytest.raises(CheckpointUnreadable):
        await saver.aget_tuple(config)


@pytest.mark.parametrize("value", [lambda: None, object(), (n for n in "ab")])
async def test_what_would_need_pickle_is_not_stored(saver: Checkpoints, value: object) -> None:
    with pytest.raises(TypeError):
        await put(saver, held=value)


def test_the_serializer_reads_no_pickle() -> None:
    with pytest.raises(NotImplementedError):
        STRICT.loads_typed(("pickle", b"cos\nsystem\n(S'true'\ntR."))
