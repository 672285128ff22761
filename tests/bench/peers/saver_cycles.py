"""What a checkpointer is asked for a step of a run, again and again, by as many runs at once as a replica may have.

It knows LangGraph and nothing of us, so that it runs in the peer's environment and in ours.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint
from langgraph.checkpoint.base.id import uuid6

MESSAGES_MAX = 12  # Of a run: a question, then calls and their results.
CHARACTERS = 400  # Of a message.


def messages(count: int) -> Sequence[AnyMessage]:
    """A conversation of that length."""
    text = "x" * CHARACTERS
    call: Any = {"name": "run_python", "args": {"code": text}, "id": "call_1_0"}
    turns: list[AnyMessage] = [AIMessage("", tool_calls=[call]), ToolMessage(text, tool_call_id="call_1_0")]
    return [HumanMessage(text), *(turns[number % 2] for number in range(count - 1))]


CONVERSATIONS = [messages(count) for count in range(1, MESSAGES_MAX + 1)]


async def cycle(saver: BaseCheckpointSaver[str], config: RunnableConfig, step: int) -> RunnableConfig:
    """One step: a task's writes are kept, the next checkpoint is, and it is read."""
    said = CONVERSATIONS[step % MESSAGES_MAX]
    if "checkpoint_id" in config["configurable"]:
        writes = [("messages", [said[-1]]), ("branch:to:model", None)]
        await saver.aput_writes(config, writes, str(uuid4()), "~__pregel_pull, tools")
    versions: dict[str, Any] = {
        name: saver.get_next_version(None, None) for name in ("messages", "branch:to:model")
    }
    checkpoint = Checkpoint(
        v=2,
        id=str(uuid6(clock_seq=step)),
        ts=datetime.now(UTC).isoformat(),
        channel_values={"messages": said, "branch:to:model": None},
        channel_versions=dict(versions),
        versions_seen={"model": dict(versions), "tools": dict(versions)},
        updated_channels=["messages"],
    )
    kept = await saver.aput(
        config, checkpoint, {"source": "loop", "step": step, "parents": {}}, dict(versions)
    )
    found = await saver.aget_tuple({"configurable": {"thread_id": kept["configurable"]["thread_id"]}})
    if found is None or found.checkpoint["channel_values"]["messages"] != said:
        raise RuntimeError("what was stored is not what is read")
    return kept


async def cycles_per_s(savers: Sequence[tuple[str, BaseCheckpointSaver[str]]], seconds: float) -> float:
    """Each saver works on a thread of its own, all of them at the same time."""
    made_count, began_s = 0, time.perf_counter()

    async def work(thread_id: str, saver: BaseCheckpointSaver[str]) -> None:
        nonlocal made_count
        config: RunnableConfig = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
        step = 0
        while time.perf_counter() - began_s < seconds:
            config = await cycle(saver, config, step)
            step += 1
            made_count += 1

    await asyncio.gather(*(work(*one) for one in savers))
    return made_count / (time.perf_counter() - began_s)
