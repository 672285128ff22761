"""Callers that go on asking, through the client, and write down what they saw."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
from ollamesh.client import CallError, Client, StaticToken, chats
from ollamesh.client.chats import event_of
from ollamesh.inference.v1.completion_pb2 import ResumeStreamRequest
from ollamesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from tests.chaos.history import Chat, History, Row
from tests.fakes.identity import Identity

CALL_DEADLINE_S = 30.0
TOKEN_S = 590


@dataclass(slots=True)
class Unary:
    """What became of unary calls."""

    call_count: int = 0
    seconds: list[float] = field(default_factory=list)
    failures: list[CallError] = field(default_factory=list)


@asynccontextmanager
async def client(url: str, identity: Identity, caller: str) -> AsyncIterator[Client]:
    token = StaticToken(identity.token(user_id=caller, ttl_s=TOKEN_S))
    async with Client(url, token, deadline_s=CALL_DEADLINE_S, stream_deadline_s=CALL_DEADLINE_S) as opened:
        yield opened


async def chat(client_: Client, history: History, *, caller: str, text: str, answer: str) -> Chat:
    """Ask once, and write down what came."""
    seen = Chat(caller=caller, answer=answer, began_at_s=time.monotonic())
    history.chats.append(seen)
    steady = chats.Options(temperature=0)
    try:
        async for event in client_.chat("tiny", text, options=steady):
            seen.events.append(event)
            seen.came_at_s.append(time.monotonic())
    except CallError as error:
        seen.error = error
    seen.ended_at_s = time.monotonic()
    return seen


async def keep_chatting(
    client_: Client, history: History, stop: asyncio.Event, *, caller: str, chance: random.Random
) -> None:
    """Ask one thing after the other. The fake repeats what it is asked."""
    number = 0
    while not stop.is_set():
        number += 1
        words = [f"{caller}-{number}", *(str(chance.randrange(1000)) for _ in range(chance.randint(5, 60)))]
        text = " ".join(words)
        await chat(client_, history, caller=caller, text=text, answer=text)


async def keep_asking(client_: Client, unary: Unary, stop: asyncio.Event, *, chance: random.Random) -> None:
    """Embed and look around, one call after the other."""
    while not stop.is_set():
        unary.call_count += 1
        began_s = time.monotonic()
        try:
            if chance.random() < 0.7:
                await client_.embed("tiny", [f"text {chance.randrange(10_000)}"])
            else:
                await client_.models()
        except CallError as error:
            unary.failures.append(error)
        unary.seconds.append(time.monotonic() - began_s)
        await asyncio.sleep(chance.uniform(0, 0.02))


async def read_again(client_: Client, stream_id: str) -> list[chats.Event] | None:
    """Return a whole stream, as it is kept; None if it is not."""
    stub = client_.stub(InferenceServiceStub)
    responses = client_.stream(stub.ResumeStream, ResumeStreamRequest(stream_id=stream_id))
    try:
        return [event async for response in responses if (event := event_of(response.event)) is not None]
    except CallError as error:
        if error.reason != "STREAM_EXPIRED":
            raise
        return None


async def ledger(dsn: str) -> list[Row]:
    connection = await asyncpg.connect(dsn, server_settings={"ollamesh.system": "on"})
    try:
        rows = await connection.fetch(
            "SELECT entry_id, user_id, stream_id, output_token_count, is_cancelled FROM usage_entries"
            " WHERE operation = 'chat'"
        )
    finally:
        await connection.close()
    return [
        Row(
            entry_id=row["entry_id"],
            caller=row["user_id"],
            stream_id=row["stream_id"],
            output_token_count=row["output_token_count"],
            is_cancelled=row["is_cancelled"],
        )
        for row in rows
    ]
