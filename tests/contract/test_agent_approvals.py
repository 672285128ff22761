"""Decisions about calls on real PostgreSQL, from two replicas: each is given once, and for one call."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from uuid import uuid4

import pytest

from services.agent.adapters.postgres_approvals import PostgresApprovals
from services.agent.approving import Approving
from services.agent.core.approvals import EXPIRED, Decided, hash_of
from services.agent.core.conversation import ToolCall
from services.agent.core.events import ApprovalRequested, Decision, Started, StepStarted, ToolCalled
from services.agent.core.ids import Owner, RunId
from services.agent.errors import ApprovalMismatch, ApprovalNotFound, RunNotFound
from services.agent.ports import Effect, ToolSpec
from services.common.audit import Action, Outcome
from services.common.errors import AuditUnavailable, InvalidRequest
from services.common.postgres import Database
from tests.contract.agent_replica import ANN, BOB, OTHER_ANN, Replica, finished
from tests.fakes.trail import KeptTrail
from tests.stack import Database as Migrated

CALL = ToolCall(call_id="call_1_0", name="send", arguments_json='{"to": "bob"}')
SEND = ToolSpec(
    name="send", description="", parameters_json_schema="{}", effect=Effect.EXTERNAL, timeout_s=1.0
)
QUESTION = ApprovalRequested(
    approval_id=uuid4(), call_id=CALL.call_id, call_hash=hash_of(CALL), reason="", expire_time_s=100.0
)
APPROVED = Decided(decision=Decision.APPROVED, user_id="ann")
EDITED = Decided(decision=Decision.EDITED, user_id="ann", arguments_json='{"to": "carl\\u0000"}')
REJECTED = Decided(decision=Decision.REJECTED, user_id="ann", reason="no \0")


@dataclass
class Desk:
    """One replica, and what its decisions set going."""

    replica: Replica
    now_s: float = 1.0
    trail: KeptTrail = field(default_factory=KeptTrail)
    gone_on: list[RunId] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.approvals = PostgresApprovals(self.replica.database)
        self.approving = Approving(
            runs=self.replica.runs,
            events=self.replica.events,
            approvals=self.approvals,
            tools={"send": SEND},
            trail=self.trail,
            clock=lambda: self.now_s,
            problem=_problem,
            detectors={},
            go_on=self._go_on,
        )

    async def _go_on(self, run_id: RunId) -> None:
        self.gone_on.append(run_id)

    async def asked(self) -> tuple[RunId, ApprovalRequested]:
        """A run that has asked."""
        run = await self.replica.accept(await self.replica.thread())
        question = replace(QUESTION, approval_id=uuid4())
        await self.replica.tell(run.run_id, Started("tiny"), StepStarted(1), ToolCalled(CALL), question)
        return run.run_id, question

    async def submit(
        self,
        run_id: RunId,
        question: ApprovalRequested,
        decided: Decided = APPROVED,
        *,
        owner: Owner = ANN,
        call_hash: bytes = QUESTION.call_hash,
    ) -> None:
        await self.approving.submit(owner, run_id, question.approval_id, call_hash=call_hash, decided=decided)


def _problem(schema: str, arguments: Mapping[str, object]) -> str | None:
    return None if "to" in arguments else "to is missing"


@pytest.fixture
async def desk(database: Migrated) -> AsyncIterator[Desk]:
    async with Database.connect(database("agent"), connections_max=4) as connected:
        yield Desk(Replica(connected, uuid4()))


@pytest.fixture
async def other(database: Migrated) -> AsyncIterator[Desk]:
    async with Database.connect(database("agent"), connections_max=4) as connected:
        yield Desk(Replica(connected, uuid4()))


@pytest.mark.parametrize("decided", [APPROVED, EDITED, REJECTED])
async def test_a_decision_is_stored_told_to_the_audit_log_and_good_for_repeating(
    desk: Desk, other: Desk, decided: Decided
) -> None:
    run_id, question = await desk.asked()
    for side in (desk, desk, other):
        await side.submit(run_id, question, decided)
    assert dict(await other.approvals.settled(run_id)) == {question.approval_id: decided}
    assert (desk.gone_on, other.gone_on) == ([run_id] * 2, [run_id]), "whoever died before it went on"
    [happened] = desk.trail.events
    assert (happened.action, happened.user_id) == (Action.TOOL_APPROVED, "ann")
    assert happened.outcome is (Outcome.DENIED if decided is REJECTED else Outcome.ALLOWED)
    assert happened.details["call_hash"] == QUESTION.call_hash.hex()
    assert "bob" not in str(happened)
    assert "carl" not in str(happened)
    assert other.trail.events == []


async def test_another_decision_comes_too_late(desk: Desk) -> None:
    run_id, question = await desk.asked()
    await desk.submit(run_id, question, REJECTED)
    for late in (APPROVED, EDITED, replace(REJECTED, reason="")):
        with pytest.raises(ApprovalNotFound):
            await desk.submit(run_id, question, late)
    assert len(desk.gone_on) == 1


async def test_of_racing_decisions_one_holds(desk: Desk, other: Desk) -> None:
    for _ in range(5):
        run_id, question = await desk.asked()
        wanted = [APPROVED, REJECTED, EDITED, replace(REJECTED, reason="other")] * 2
        done = await asyncio.gather(
            *((desk, other)[n % 2].submit(run_id, question, decided) for n, decided in enumerate(wanted)),
            return_exceptions=True,
        )
        good = [decided for decided, result in zip(wanted, done, strict=True) if result is None]
        assert len({(decided.decision, decided.reason) for decided in good}) == 1
        assert (await desk.approvals.settled(run_id))[question.approval_id] == good[0]
        assert sum(isinstance(result, ApprovalNotFound) for result in done) == len(wanted) - len(good)


async def test_it_is_for_exactly_that_call_of_that_run(desk: Desk) -> None:
    run_id, question = await desk.asked()
    elsewhere, _ = await desk.asked()
    with pytest.raises(ApprovalMismatch):
        await desk.submit(run_id, question, call_hash=bytes(32))
    with pytest.raises(ApprovalNotFound):
        await desk.submit(elsewhere, question)
    with pytest.raises(ApprovalNotFound):
        await desk.submit(run_id, QUESTION)
    assert await desk.approvals.settled(run_id) == {}
    assert desk.trail.events == []


async def test_only_its_owner_decides(desk: Desk) -> None:
    run_id, question = await desk.asked()
    for owner in (BOB, OTHER_ANN):
        with pytest.raises(RunNotFound):
            await desk.submit(run_id, question, owner=owner)


async def test_time_decides_once_too(desk: Desk, other: Desk) -> None:
    run_id, question = await desk.asked()
    desk.now_s = question.expire_time_s
    with pytest.raises(ApprovalNotFound):
        await desk.submit(run_id, question)
    assert await other.approvals.settle(run_id, question, EXPIRED) == EXPIRED
    with pytest.raises(ApprovalNotFound):
        await other.submit(run_id, question)
    second, asked = await desk.asked()
    await other.submit(second, asked)
    assert await desk.approvals.settle(second, asked, EXPIRED) == APPROVED, "whoever came first"


async def test_what_is_decided_in_time_may_be_repeated_after_it(desk: Desk) -> None:
    run_id, question = await desk.asked()
    await desk.submit(run_id, question)
    desk.now_s = question.expire_time_s + 1
    await desk.submit(run_id, question)


async def test_a_run_that_has_ended_asks_no_more(desk: Desk) -> None:
    run_id, question = await desk.asked()
    await desk.replica.tell(run_id, finished(), after=4)
    with pytest.raises(ApprovalNotFound):
        await desk.submit(run_id, question)


@pytest.mark.parametrize("text", ["[]", "{", '{"to": NaN}', '{"too": 1}', "[" * 100_000])
async def test_an_edited_call_is_checked_like_the_models(desk: Desk, text: str) -> None:
    run_id, question = await desk.asked()
    with pytest.raises(InvalidRequest) as refused:
        await desk.submit(run_id, question, replace(EDITED, arguments_json=text))
    assert {violation.field for violation in refused.value.violations} == {"edit.arguments_json"}
    assert await desk.approvals.settled(run_id) == {}


async def test_nothing_is_approved_unrecorded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(_: object) -> None:
        raise AuditUnavailable

    monkeypatch.setattr(desk.trail, "assure", away)
    run_id, question = await desk.asked()
    with pytest.raises(AuditUnavailable):
        await desk.submit(run_id, question)
    assert await desk.approvals.settled(run_id) == {}


async def test_decisions_go_with_their_thread(desk: Desk) -> None:
    thread_id = await desk.replica.thread()
    run = await desk.replica.accept(thread_id)
    await desk.approvals.settle(run.run_id, replace(QUESTION, approval_id=uuid4()), APPROVED)
    await desk.replica.threads.delete(ANN, thread_id)
    assert await desk.approvals.settled(run.run_id) == {}
    with pytest.raises(RunNotFound):
        await desk.approvals.settle(run.run_id, replace(QUESTION, approval_id=uuid4()), APPROVED)
