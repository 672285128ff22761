"""How runs change hands in PostgreSQL: given back, waiting for people, cancelled while nobody has them; what goes along."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.agent.adapters.postgres_approvals import PostgresApprovals
from services.agent.core.approvals import Decided
from services.agent.core.conversation import Message, Role
from services.agent.core.events import ApprovalRequested, Decision, Delta, Started, Status
from services.agent.core.ids import RunId
from services.agent.errors import LeaseLost, RunBuiltUpon
from services.agent.leases import Lease
from services.agent.ports import Busy, PageRequest
from tests.contract.agent_replica import ANN, Replica, execute, finished, other, replica
from tests.stack import Database as Migrated

__all__ = ["other", "replica"]

SOON_S = 3600.0
LATER = datetime.now(UTC).timestamp() + SOON_S
QUESTION = UUID(int=5)


async def begun(replica: Replica) -> RunId:
    run = await replica.accept(await replica.thread())
    assert await replica.begin(run.run_id)
    return run.run_id


def asked(call_id: str = "call_1_0") -> ApprovalRequested:
    return ApprovalRequested(
        approval_id=QUESTION, call_id=call_id, call_hash=b"", reason="", expire_time_s=LATER
    )


APPROVED = Decided(decision=Decision.APPROVED, user_id="ann")


async def test_what_is_given_back_is_taken_at_once_and_counts_as_no_loss(
    replica: Replica, other: Replica
) -> None:
    run_id = await begun(replica)
    await replica.tell(run_id, Started("tiny"), Delta("a"))
    await replica.leases.give_back(replica.lease(run_id))
    for void in (
        replica.leases.give_back(replica.lease(run_id)),
        replica.tell(run_id, Delta("b"), after=2),
        replica.begin(run_id),
    ):
        with pytest.raises(LeaseLost):
            await void
    (held,) = await other.adopt()
    assert held.lease == Lease(run_id=run_id, holder=other.holder, fence=2)
    assert (held.last_sequence, held.attempt_count, held.is_cancelled) == (2, 0, False)
    await other.tell(run_id, finished(), after=2, fence=2)


async def test_what_waits_for_a_person_is_nobodys_until_its_time(
    replica: Replica, other: Replica, database: Migrated
) -> None:
    run_id = await begun(replica)
    await replica.leases.suspend(replica.lease(run_id), {QUESTION: LATER, uuid4(): LATER + 9})
    assert (await other.runs.find(ANN, run_id)).status is Status.INTERRUPTED
    assert await other.adopt() == []
    until = await fetched(database, run_id, "lease_until")
    assert isinstance(until, datetime)
    assert abs(until.timestamp() - LATER) < 1, "the first question's"
    await execute(database, "UPDATE runs SET lease_until = now() - interval '1 s'")
    (held,) = await other.adopt()
    assert held.attempt_count == 0
    assert await other.begin(run_id, fence=2)
    assert (await other.runs.find(ANN, run_id)).status is Status.RUNNING


async def test_whoever_takes_the_answer_takes_the_run(replica: Replica, other: Replica) -> None:
    run_id = await begun(replica)
    assert await other.leases.take(run_id) is None, "somebody has it"
    await replica.leases.suspend(replica.lease(run_id), {QUESTION: LATER})
    taken = await asyncio.gather(*(side.leases.take(run_id) for side in (replica, other) for _ in range(4)))
    assert len([held for held in taken if held]) == 1


async def test_a_run_is_found_by_all_if_whoever_took_the_answer_has_no_place(
    replica: Replica, other: Replica
) -> None:
    run_id = await begun(replica)
    await replica.leases.suspend(replica.lease(run_id), {QUESTION: LATER})
    await replica.leases.wake(run_id)
    assert [held.lease.run_id for held in await other.adopt()] == [run_id]


async def test_an_answer_that_is_quicker_than_the_run_is_not_missed(replica: Replica, other: Replica) -> None:
    """It was given before the run was let go of, when there was nothing to wake."""
    run_id = await begun(replica)
    await PostgresApprovals(other.database).settle(run_id, asked(), APPROVED)
    await replica.leases.suspend(replica.lease(run_id), {QUESTION: LATER})
    assert [held.lease.run_id for held in await other.adopt()] == [run_id]


async def test_however_answers_and_runs_race_none_is_missed(replica: Replica, other: Replica) -> None:
    approvals = PostgresApprovals(other.database)
    for number in range(20):
        run_id = await begun(replica)
        question = replace(asked(), approval_id=UUID(int=100 + number))

        async def answer(run_id: RunId = run_id, question: ApprovalRequested = question) -> bool:
            await approvals.settle(run_id, question, APPROVED)
            return await other.leases.take(run_id) is not None

        suspending = replica.leases.suspend(replica.lease(run_id), {question.approval_id: LATER})
        taken, _ = await asyncio.gather(answer(), suspending)
        assert taken or [held.lease.run_id for held in await other.adopt()] == [run_id]


async def test_what_nobody_has_can_be_cancelled(replica: Replica, other: Replica) -> None:
    run_id = await begun(replica)
    await replica.leases.suspend(replica.lease(run_id), {QUESTION: LATER})
    await other.runs.request_cancel(run_id, rollback=False)
    (held,) = await other.adopt()
    assert held.is_cancelled


async def test_what_nobody_watches_is_to_end(replica: Replica, other: Replica, database: Migrated) -> None:
    run = await replica.accept(await replica.thread(), watched_for_s=60)
    free = await replica.accept(await replica.thread())
    assert (run.is_watched, free.is_watched) == (True, False)
    leases = [replica.lease(run.run_id), replica.lease(free.run_id)]
    await execute(database, "UPDATE runs SET watched_until = now() WHERE watched_until IS NOT NULL")
    assert await replica.leases.keep(leases) == {run.run_id: True, free.run_id: False}
    await other.runs.watched([run.run_id, free.run_id], for_s=60)
    assert await replica.leases.keep(leases) == {run.run_id: False, free.run_id: False}


async def test_a_call_is_claimed_once_and_by_the_holder_alone(replica: Replica, other: Replica) -> None:
    run_id = await begun(replica)
    lease = replica.lease(run_id)
    assert await replica.leases.claim(lease, "call_1_0")
    assert not await replica.leases.claim(lease, "call_1_0")
    assert await replica.leases.claim(lease, "call_1_1")
    await replica.leases.give_back(lease)
    with pytest.raises(LeaseLost):
        await replica.leases.claim(lease, "call_2_0")
    (held,) = await other.adopt()
    assert not await other.leases.claim(held.lease, "call_1_0")


async def test_a_mandate_goes_along_sealed_and_ends_with_the_run(
    replica: Replica, other: Replica, database: Migrated
) -> None:
    run_id, another = await begun(replica), await begun(replica)
    await replica.leases.keep_mandate(replica.lease(run_id), ANN, "omm_secret")
    sealed = await fetched(database, run_id, "mandate")
    assert isinstance(sealed, bytes)
    assert b"omm_secret" not in sealed
    await execute(
        database,
        f"UPDATE runs SET mandate = (SELECT mandate FROM runs WHERE run_id = '{run_id}') "
        f"WHERE run_id = '{another}'",
    )
    for each in (run_id, another):
        await replica.leases.give_back(replica.lease(each))
    held = {held.lease.run_id: held for held in await other.adopt()}
    assert held[run_id].mandate == "omm_secret"
    assert held[another].mandate is None, "it is another run's"
    assert "omm_secret" not in repr(held[run_id])
    with pytest.raises(LeaseLost):
        await replica.leases.keep_mandate(replica.lease(run_id), ANN, "omm_other")
    await other.tell(run_id, finished(), fence=2)
    assert await fetched(database, run_id, "mandate") is None


async def test_what_is_rolled_back_goes_with_its_end(replica: Replica) -> None:
    thread_id = await replica.thread()
    said = [Message(role=Role.USER, content="why?"), Message(role=Role.ASSISTANT, content="so")]
    first, second = await replica.accept(thread_id), await replica.accept(thread_id)
    await replica.tell(first.run_id, Started("tiny"), finished(), messages=said)
    await replica.begin(second.run_id)
    await replica.tell(second.run_id, Started("tiny"), messages=said[:1])
    with pytest.raises(RunBuiltUpon):
        await replica.runs.roll_back(first.run_id)
    third = await replica.accept(thread_id, busy=Busy.ROLLBACK)
    leases = [replica.lease(run.run_id) for run in (second, third)]
    assert await replica.leases.keep(leases) == {second.run_id: True, third.run_id: False}
    await replica.tell(second.run_id, Delta("x"), finished(Status.CANCELLED), after=1, messages=said[1:])
    page = await replica.threads.messages(ANN, thread_id, PageRequest(size=9, after=None))
    assert [record.run_id for record in page.items] == [first.run_id] * 2
    assert (await replica.threads.find(ANN, thread_id)).message_count == 2
    await replica.runs.roll_back(first.run_id)  # The one that waits has read nothing yet.
    assert (await replica.threads.find(ANN, thread_id)).message_count == 0


async def fetched(database: Migrated, run_id: RunId, column: str) -> object:
    connection = await asyncpg.connect(database.system("agent"))
    try:
        return await connection.fetchval(f"SELECT {column} FROM runs WHERE run_id = $1", run_id)
    finally:
        await connection.close()
