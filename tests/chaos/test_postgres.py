"""R5: PostgreSQL goes away under steady load. Who has a valid token is served as before, what must be stored is refused
at once, and what was used meanwhile is written when it is back.

OLLAMESH_CHAOS_FAULT_S is for how long; `make chaos` takes the 30 s of the requirement.
"""

import asyncio
import random
import time

import grpc
import pytest
from ollamesh.client import CallError, Client, batches

from tests.chaos.callers import Unary, client, keep_asking, keep_chatting, ledger
from tests.chaos.history import History, Written, faults
from tests.chaos.knobs import FAULT_S, SEED
from tests.fakes.severable import Severable
from tests.service.auth_app import port_of
from tests.service.inference_app import WITHIN_S, one_instance
from tests.stack import Database

CALLERS = 4
REFUSED_WITHIN_S = 2.5  # A connection is tried for 2 s.


async def refused_at_once(caller: Client) -> CallError:
    """Ask for something durable, and return why it is refused."""
    began_s = time.monotonic()
    try:
        await caller.create_batch([batches.chat("tiny", "hello")])
    except CallError as error:
        assert time.monotonic() - began_s <= REFUSED_WITHIN_S
        return error
    raise AssertionError("it was accepted by a store that is away")


async def until_charged(dsn: str, history: History) -> list[str]:
    """Return what is wrong with the ledger when it is as good as it gets."""
    found: list[str] = []
    for _ in range(int(WITHIN_S / 0.2)):
        written = Written(ledger=await ledger(dsn))
        if not (found := faults(history, written, lost_s=0.0)):
            return found
        await asyncio.sleep(0.2)
    return found


@pytest.mark.timeout(120 + 2 * FAULT_S)
@pytest.mark.timed
async def test_without_its_database_it_answers_and_charges_later(database: Database) -> None:
    dsn, history, unary, stop = database("inference"), History(), Unary(), asyncio.Event()
    async with Severable.to(port_of(dsn)) as cable:
        severable = dsn.replace(f":{port_of(dsn)}/", f":{cable.port}/")
        async with one_instance(DATABASE_URL=severable) as (service, _):
            url, name = f"http://{service.target}", "user:ann"
            async with client(url, service.identity, name) as caller, asyncio.TaskGroup() as tasks:
                for number in range(CALLERS):
                    own = random.Random(f"{SEED} {number}")
                    tasks.create_task(keep_chatting(caller, history, stop, caller=name, chance=own))
                    tasks.create_task(keep_asking(caller, unary, stop, chance=own))
                await asyncio.sleep(0.5)
                await cable.cut()
                error = await refused_at_once(caller)
                before_count = len(history.chats)
                await asyncio.sleep(FAULT_S)
                assert len(history.chats) > before_count, "it goes on"
                await cable.mend()
                await asyncio.sleep(0.5)
                stop.set()
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
            assert [chat.error for chat in history.chats if chat.error] == []
            assert unary.failures == []
            assert await until_charged(dsn, history) == [], SEED
